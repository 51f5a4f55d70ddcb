"""What a reader of a script format takes (Options) and gives (Message, Reject)."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Message(NamedTuple):
    """One message of the script; `line` counts from 1 in the source, `kind` is one of `records.KINDS`.

    `speaker` is the name as the script shows it (aliases are extract's work), None where nobody speaks.
    """

    line: int
    speaker: str | None
    text: str
    kind: str
    scene: str = ""


class Reject(NamedTuple):
    """A line that no rule understood or that one refused, or one read that is hardly meant so; extract reports it."""

    line: int
    text: str
    reason: str


@dataclass(frozen=True)
class Options:
    """What a reader may need beside the text."""

    names: Mapping[str, str]  # identifier -> name, from the survey of the whole folder
    kag_name: str  # regular expression, group 1 is the name
    kag_end: str  # regular expression of the tag that ends a message
    known: frozenset[str]  # speakers that need not prove themselves: those of params.yaml
    recurrence: int = 2  # lines after which a label in free text counts as a name
    renpy_language: str = ""  # the translation to read; "" for the original


Read = Callable[[str, Options], Iterator[Message | Reject]]


class Format(NamedTuple):
    """A script format: `sniff` says from 0 to 1 how much a text looks like it, `survey` collects names of all files.

    `kin` are formats whose files are surveyed too. A file of a format that has an `heir` is read as the heir where
    enough of the folder's files are.
    """

    name: str
    suffixes: tuple[str, ...]
    sniff: Callable[[str], float]
    read: Read
    survey: Callable[[Iterable[str]], dict[str, str]] | None = None
    kin: tuple[str, ...] = ()
    heir: str = ""
