"""Yarn Spinner dialogue (.yarn): nodes of a header, `---`, a body and `===`; in the body `Name: text #tags`.

Options are `-> text` (`[[text|node]]` in the first version), `=> text` is a line of a group, `<<…>>` a command.
"""

from collections import Counter
from collections.abc import Iterator, Set

import regex

from stages.formats.kinds import no_speaker, said, wide_labels
from stages.formats.message import Format, Message, Options, Reject

TITLE = regex.compile(r"title\s*:\s*(.*)")
HEADER = regex.compile(r"\w[\w.]*\s*:|#|//")
OLD_OPTION = regex.compile(r"\[\[([^\[\]|]*+)(\|[^\[\]]*+)?\]\]")
# What the engine takes for a name is all before the first colon; with quotes, markup or a sentence in it, it is prose.
NAME = regex.compile(r"([^\s:\\\"“”,;{}\[\]<>(*#][^:\\\"“”,;{}\[\]<>#]{0,39}|\{\$?[\w.]+\}):(?!//)\s*")
SENTENCE = regex.compile(r"(?<!\b[A-Z]\w{0,3})\.\s|[!?…。！？]\s?\w")
NAMED = regex.compile(r"\[character\s+name\s*=\s*(?:\"([^\"]*+)\"|([^\s\]/]+))[^\]]*+\]")
# A command, a comment or a hashtag ends the text; markup inside it is dropped, `{$x}` stays as `{x}`, `\x` is x.
PIECE = regex.compile(r"\\(.)|(//|#)|<<(?:[^<>]|>(?!>)|<(?!<))*+>>|\{([^{}]*+)\}|\[(?:[^\[\]\\]|\\.)*+\]")
VALUE = regex.compile(r"\[(?:select|plural|ordinal)\b[^\]]*?\{\s*\$?([^{}]*+)\}")


def read(text: str, options: Options) -> Iterator[Message | Reject]:
    """Yield the messages in file order; the scene is the node's title."""
    title, body = "", False
    names, wide = _names(text, options.known), wide_labels(text)
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if body and line == "===":
            title, body = "", False
        elif not body and line == "---":
            body = True
        elif body:
            yield from _line(number, line, title, names)
            if reason := no_speaker(line, wide):
                yield Reject(number, line, reason)
        elif found := TITLE.match(line):
            title = found[1].strip()
        elif line and not HEADER.match(line):
            yield Reject(number, line, "expected a header `key: value` or `---` before the body")


def _names(text: str, known: Set[str]) -> set[str]:
    """What stands before a colon and reads like a name: one word, words with capitals, or what recurs."""
    found = Counter(name for line in text.split("\n") if (name := _before_colon(line.strip())))
    return {name for name, count in found.items() if count > 1 or name in known or _titled(name)}


def _before_colon(line: str) -> str | None:
    found = NAME.match(line.removeprefix("=>").lstrip()) if ":" in line else None
    return found[1] if found and not (found[1].isdigit() or SENTENCE.search(found[1])) else None


def _titled(name: str) -> bool:
    return " " not in name or all(not word[0].islower() for word in name.split())


def _line(number: int, line: str, title: str, names: Set[str]) -> Iterator[Message]:
    if not line or line.startswith("//"):
        return
    if old := OLD_OPTION.match(line):
        if old[2] and (text := _plain(old[1])):
            yield Message(number, None, text, "choice", title)
    elif line.startswith("->"):
        if text := _plain(line[2:]):
            yield Message(number, None, text, "choice", title)
    else:
        yield from _said(number, line.removeprefix("=>").lstrip(), title, names)


def _said(number: int, line: str, title: str, names: Set[str]) -> Iterator[Message]:
    named = NAMED.search(line)
    found = NAME.match(line)
    if found and found[1] not in names:
        found = None
    speaker = (named[1] or named[2]) if named else _plain(found[1]) if found else None
    if text := _plain(line[found.end() :] if found else line):
        yield said(number, speaker, text, title)


def _plain(text: str) -> str:
    parts: list[str] = []
    at = 0
    for piece in PIECE.finditer(text):
        parts.append(text[at : piece.start()])
        at = piece.end()
        escaped, ending, expression = piece.groups()
        if ending:
            return "".join(parts).strip()
        if escaped:
            parts.append(escaped)
        elif expression is not None:
            parts.append(f"{{{expression.strip().removeprefix('$')}}}")
        elif value := VALUE.match(piece[0]):
            parts.append(f"{{{value[1].strip()}}}")
    return "".join([*parts, text[at:]]).strip()


NODE = regex.compile(r"^title\s*:.*\n(?:.*\n){0,20}?---[ \t]*$", regex.MULTILINE)


def sniff(text: str) -> float:
    """1 for a file with a node's header, 0 for any other."""
    return 1.0 if NODE.search(text[:20_000]) else 0.0


FORMAT = Format("yarn", (".yarn",), sniff, read)
