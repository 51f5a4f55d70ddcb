"""Lists of {"name": …, "message": …} as GalTransl, VNTextPatch and msg-tool write them; JSON Lines too.

A record without a name is narration, `names` is a list for several at once, and lists may stand deeper in the document.
`line` is where the record begins, for one nested in another where the outer one does.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from stages.formats import fields
from stages.formats.fields import Row
from stages.formats.message import Format, Message, Options, Reject

DECODER = json.JSONDecoder(strict=False)
BETWEEN = re.compile(r"[\s,\]}]*")
DEEPEST = 100  # levels; messages stand at the second or third


def read(text: str, options: Options) -> Iterator[Message | Reject]:
    """The messages of the document in order."""
    rows: list[Row] = []
    rejects: list[Reject] = []
    for line, value in _lines(text) if _is_lines(text) else _elements(text):
        if isinstance(value, Reject):
            rejects.append(value)
        elif not (found := list(_records(line, value))):
            rejects.append(Reject(line, str(value)[:200], "no record with a message"))
        else:
            rows += found
    yield from sorted((*fields.messages(rows), *rejects), key=lambda item: item.line)


def _is_lines(text: str) -> bool:
    """Whether the first line is a whole object and another follows."""
    head, _, rest = text.lstrip().partition("\n")
    try:
        return bool(rest.strip()) and head.startswith("{") and isinstance(json.loads(head), dict)
    except (ValueError, RecursionError):
        return False


def _lines(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line and not line.isspace():
            try:
                yield number, json.loads(line, strict=False)
            except (ValueError, RecursionError) as error:
                yield number, Reject(number, line[:200], f"expected a JSON object, got {_why(error)}")


def _elements(text: str) -> Iterator[tuple[int, Any]]:
    """The outermost records with the lines where they begin; lists, and objects that are none, are entered."""
    at, line, counted, depth = 0, 1, 0, 0
    while (at := _skip(text, at)) < len(text):
        line, counted = line + text.count("\n", counted, at), at
        try:
            if text[at] == "[" and depth < DEEPEST:
                at, depth = at + 1, depth + 1
                continue
            value, end = DECODER.raw_decode(text, at)
            if isinstance(value, dict) and _holds_more(value) and depth < DEEPEST:
                at, depth = at + 1, depth + 1
            elif text.startswith(":", _skip(text, end)):  # a key; its value is entered, or it is no message
                at = _skip(text, _skip(text, end) + 1)
                at = at if text[at : at + 1] in ("[", "{") else DECODER.raw_decode(text, at)[1]
            else:
                yield line, value
                at = end
        except (ValueError, RecursionError) as error:
            yield line, Reject(line, text[at : at + 200], f"expected JSON, got {_why(error)}; the rest is not read")
            return


def _holds_more(value: dict[str, Any]) -> bool:
    """Whether an object is no message itself but holds lists or objects."""
    nested = any(isinstance(part, dict | list) for part in value.values())
    return nested and not fields.is_message({key.lower(): part for key, part in value.items()})


def _skip(text: str, at: int) -> int:
    return BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # matches anywhere


def _records(line: int, value: Any) -> Iterator[Row]:
    """Every object with a message inside the value, in the order of the document."""
    stack: list[tuple[Any, int]] = [(value, 0)]
    while stack:
        value, depth = stack.pop()
        if isinstance(value, str):
            if value.strip():
                yield Row(line, {"message": value})
        elif isinstance(value, dict):
            values = {key.lower(): part for key, part in value.items()}
            if fields.is_message(values):
                yield Row(line, values)
            elif depth < DEEPEST:
                stack += [(part, depth + 1) for part in reversed(value.values()) if isinstance(part, dict | list)]
        elif isinstance(value, list) and depth < DEEPEST:
            stack += [(part, depth + 1) for part in reversed(value)]


def _why(error: Exception) -> str:
    return "nesting too deep" if isinstance(error, RecursionError) else str(error)


def sniff(text: str) -> float:
    """By its first character and a key that holds a message; only the head of the file may be here."""
    head = text.lstrip()[:4096]
    if not head.startswith(("[", "{")):
        return 0.0
    keyed = any(f'"{key}"' in head for key in fields.TEXTS)
    return 0.9 if keyed and '":' in head.replace('" :', '":') else 0.1


FORMAT = Format("json", (".json", ".jsonl", ".ndjson"), sniff, read)
