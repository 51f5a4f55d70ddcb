"""Naninovel scenarios (.nani): `Author.Appearance: text`, `@command`, `# label`, `; comment`.

`@choice "text"` is a choice, `@print "text" author:x` a message. Inlined `[commands]` and `|#text ids|` are dropped.
"""

from collections.abc import Iterator

import regex

from stages.formats.kinds import head_lines, no_speaker, said, wide_labels
from stages.formats.message import Format, Message, Options, Reject

AUTHOR = regex.compile(r"([^\s\"\\:;@#.{\[]++|\{[^{}\s]++\})(?:\.[^\s\"\\:]*+)?:\s")
COMMAND = regex.compile(r"@\s*([\w.]++)")
PARAMETER = regex.compile(r"(?:(\w+):)?(\"(?:[^\"\\]|\\.)*+\"|(?:[^\s\"\\{]|\\.|\{[^{}]*+\})++)")
# An escaped sign, an inlined command, a text id, a style tag, an expression.
PIECE = regex.compile(
    r"\\([\[\]{}\"\\|@#;:])|(\[(?:[^\[\]\\]|\\.)*+\])|\|#[^|]*+\||(</?[a-zA-Z][^<>]*+>)|\{([^{}]*+)\}"
)
BREAK = regex.compile(r"\[br\b|<br\b")


def read(text: str, options: Options) -> Iterator[Message | Reject]:
    """Yield the messages in file order; the scene is the label."""
    scene, wide = "", wide_labels(text)
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not line or line[0] == ";":
            continue
        if line[0] == "#":
            scene = line[1:].strip()
        elif line[0] == "@":
            yield from _command(number, line, scene)
        else:
            author = AUTHOR.match(line)
            yield from _message(number, author and author[1], line[author.end() :] if author else line, scene)
            if reason := no_speaker(line, wide):
                yield Reject(number, line, reason)


def _command(number: int, line: str, scene: str) -> Iterator[Message | Reject]:
    command = COMMAND.match(line)
    if not command:
        yield Reject(number, line, "expected a command's name after @")
    elif command[1].lower() in ("choice", "addchoice", "print", "printtext"):
        parameters = {name: value for name, value in reversed(PARAMETER.findall(line, command.end()))}
        text = parameters.get("") or parameters.get("text") or parameters.get("summary") or ""
        text = regex.sub(r"\\\"", '"', text[1:-1]) if text.startswith('"') else text
        if "choice" not in command[1].lower():
            yield from _message(number, parameters.get("author", "").partition(".")[0], text, scene)
        elif plain := _plain(text):
            yield Message(number, None, plain, "choice", scene)


def _message(number: int, author: str | None, text: str, scene: str) -> Iterator[Message]:
    if plain := _plain(text):
        speaker = (author or "").strip('"') or None
        yield said(number, speaker, plain, scene)


def _plain(text: str) -> str:
    return PIECE.sub(_shown, text).strip()


def _shown(piece: regex.Match[str]) -> str:
    escaped, inlined, style, expression = piece.groups()
    if escaped:
        return escaped
    if expression is not None:
        return f"{{{expression.strip()}}}"
    return "\n" if BREAK.match(inlined or style or "") else ""


KNOWN = regex.compile(
    r"@(?:back|char|hidechars|hideprinter|hide|printer|bgm|sfx|choice|goto|gosub|stop|wait|set|if|else|elseif|endif|spawn|despawn"
    r"|camera|print|resettext|title|novel|voice|movie|input|arrange|style|showui|hideui|save|skip)\b",
    regex.IGNORECASE,
)
OWN = regex.compile(r"@(?:back|hidechars|hideprinter|printer|resettext|despawn|gosub|choice \")", regex.IGNORECASE)
MARKED = regex.compile(r"[@;]\S|#\s*\w|[^\s:]+: |.*\[[\w<>-][^\[\]]*\]")


def sniff(text: str) -> float:
    """The share of lines with marks of the format, if some are its own commands and none is a tag of KAG."""
    lines = [line.strip() for line in head_lines(text)]
    known = sum(bool(KNOWN.match(line)) for line in lines)
    if not known or any(line.startswith("*") for line in lines):
        return 0.0
    share = sum(bool(MARKED.match(line)) for line in lines) / len(lines)
    return max(share, 0.75) if any(map(OWN.match, lines)) else share


FORMAT = Format("naninovel", (".nani",), sniff, read)
