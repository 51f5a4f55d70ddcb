"""The records that flow between the stages, and their JSON Lines form.

Line --filter--> Dialogue(Turn(Piece)) --denoise--> Dialogue --format--> messages
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import orjson

KINDS = ("speech", "thought", "narration", "choice", "direction")
SPLITS = ("train", "validation", "test")

UNSET = b',"learn":null'  # in a JSON string the quotes would be escaped

Record = TypeVar("Record", "Line", "Dialogue")
Row = dict[str, Any]  # a line of a report


class InputError(ValueError):
    """The user's input is wrong: the message says what was expected, what was got, where, and the cure."""


@dataclass(frozen=True, slots=True)
class Line:
    """One message of the script. `speaker` is null for narration; `line` counts from 1 in `file`."""

    file: str
    scene: str
    line: int
    speaker: str | None
    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A line inside a turn: where it stood, what it is, what it says."""

    line: int
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Turn:
    """Consecutive lines of one lead, and the narration that stood before each of them (compare the line numbers).

    `learn` is set by denoise: false means context without loss.
    """

    speaker: str
    lines: tuple[Piece, ...]
    context: tuple[Piece, ...] = ()
    learn: bool | None = None


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Alternating turns of the two leads within one scene."""

    id: str
    file: str
    scene: str
    group: str
    split: str
    turns: tuple[Turn, ...]

    @property
    def scene_id(self) -> str:
        """The scene that it was cut from, `file#number`; what follows in `id` is its own number there."""
        own = self.id.removeprefix(f"{self.file}#").partition(".")[0]
        return f"{self.file}#{own}"


def dump(record: Any) -> bytes:
    """One JSON object and a newline; keys in field order, text readable; `learn` only where denoise has set it."""
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE).replace(UNSET, b"")


def write_jsonl(path: Path, records: Iterable[Any]) -> int:
    """Write the records (dataclasses or dicts) and return how many there were."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("wb") as out:
        for record in records:
            out.write(dump(record))
            count += 1
    return count


def write_json(path: Path, value: Any) -> None:
    """Write one indented JSON object for people, git and `dvc metrics`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON Lines file; a bad line raises InputError with its number."""
    if not path.is_file():
        raise InputError(f"expected {path}, found no such file\nhint: `dvc repro` writes it, `dvc pull` fetches it")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise InputError(f"{path}:{number}: expected a JSON object, got {line[:60]!r} ({error})") from error


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the records of `processed/lines.jsonl`."""
    return (_build(Line, row, path) for row in read_jsonl(path))


def read_dialogues(path: Path) -> Iterator[Dialogue]:
    """Yield the records of `processed/dialogues.jsonl` or `processed/clean.jsonl`."""
    return (dialogue_from(row, path) for row in read_jsonl(path))


def dialogue_from(row: dict[str, Any], path: Path) -> Dialogue:
    """Build a Dialogue from its JSON object."""
    return _build(Dialogue, {**row, "turns": tuple(_turn(turn) for turn in row["turns"])}, path)


def _turn(row: dict[str, Any]) -> Turn:
    lines = tuple(Piece(**piece) for piece in row["lines"])
    context = tuple(Piece(**piece) for piece in row["context"])
    return Turn(row["speaker"], lines, context, row.get("learn"))


def _build(kind: type[Record], row: dict[str, Any], path: Path) -> Record:
    if tuple(row) != _names(kind):
        raise InputError(
            f"{path}: expected the keys {_names(kind)}, got {tuple(row)}\nhint: `dvc repro` writes it anew"
        )
    return kind(*row.values())


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
