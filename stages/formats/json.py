"""Lists of {"name": …, "message": …} as GalTransl, VNTextPatch and msg-tool write them; JSON Lines too.

A record without a name is narration, `names` is a list for several at once, what stands under `choices` is offered, and
lists may stand deeper in the document. In a list of pairs, ["name", "message"], few names recur.
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
KEY = re.compile(r'"([^"\n]{1,40})"')
LIST = re.compile(r"\[\s*[^\]\s]")  # with something in it
LISTS = re.compile(r"\[\s*\[")
BETWEEN = re.compile(r"[\s,\]}]*")
KNOWN = ("message", "text", "content", "dialogue", "台词")  # keys to name in an error; fields has them all
DEEPEST = 100  # levels; messages stand at the second or third


def read(text: str, options: Options) -> Iterator[Message | Reject]:
    """The messages of the document in order."""
    rows: list[Row] = []
    rejects: list[Reject] = []
    for line, value in _lines(text) if _is_lines(text) else _elements(text):
        if isinstance(value, Reject):
            rejects.append(value)
        elif not (found := list(_records(line, value))):
            rejects.append(Reject(line, str(value)[:200], _no_message(value)))
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
    at, line, counted, depth, paired = 0, 1, 0, 0, 0
    while (at := _skip(text, at)) < len(text):
        line, counted = line + text.count("\n", counted, at), at
        try:
            if text[at] == "[" and depth < DEEPEST and at >= paired:
                paired = _pairs_end(text, at)
                at, depth = at + 1, depth + 1
                continue
            value, end = DECODER.raw_decode(text, at)
            if isinstance(value, dict) and _holds_more(value) and depth < DEEPEST:
                at, depth = at + 1, depth + 1
            elif text.startswith(":", _skip(text, end)):  # a key; its value is entered, or it is no message
                at = _skip(text, _skip(text, end) + 1)
                if text[at : at + 1] not in ("[", "{"):
                    at = DECODER.raw_decode(text, at)[1]
                elif _offers(value, text, at):
                    choices, at = DECODER.raw_decode(text, at)
                    yield line, {value: choices}
            else:
                yield line, {"name": value[0], "message": value[1]} if at < paired and _is_pair(value) else value
                at = end
        except (ValueError, RecursionError) as error:
            yield line, Reject(line, text[at : at + 200], f"expected JSON, got {_why(error)}; the rest is not read")
            return


def _offers(key: Any, text: str, at: int) -> bool:
    """Whether a list of choices begins here."""
    return isinstance(key, str) and fields.fold(key) in fields.CHOICES and LIST.match(text, at) is not None


def _pairs_end(text: str, at: int) -> int:
    """Where the list that begins here ends if it is mostly pairs of a name that recurs and a message, else 0."""
    if not LISTS.match(text, at):
        return 0
    value, end = DECODER.raw_decode(text, at)
    names = [part[0] for part in value if _is_pair(part)]
    return end if 2 * len(names) > len(value) and 2 * len(set(names)) <= len(names) else 0


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)


def _holds_more(value: dict[str, Any]) -> bool:
    """Whether an object is no message itself but holds lists or objects."""
    nested = any(isinstance(part, dict | list) for part in value.values())
    return nested and not fields.is_message({fields.fold(key): part for key, part in value.items()})


def _skip(text: str, at: int) -> int:
    return BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # matches anywhere


def _records(line: int, value: Any) -> Iterator[Row]:
    """Every object with a message inside the value, and every choice, in the order of the document."""
    stack: list[tuple[Any, bool, int]] = [(value, False, 0)]
    while stack:
        value, choice, depth = stack.pop()
        if isinstance(value, str):
            if value.strip():
                yield Row(line, {"message": value}, choice)
        elif isinstance(value, dict):
            values = {fields.fold(key): part for key, part in value.items()}
            offer = _offer(values) if choice else None
            if offer or fields.is_message(values):
                yield Row(line, offer or values, choice)
            if depth < DEEPEST:
                stack += [(part, more, depth + 1) for part, more in reversed(list(_inside(values, choice)))]
        elif isinstance(value, list) and depth < DEEPEST:
            stack += [(part, choice, depth + 1) for part in reversed(value)]


def _offer(values: dict[str, Any]) -> dict[str, Any] | None:
    """The words of a choice that has them under no key of a message."""
    if fields.is_message(values):
        return None
    words = (values[key] for key in fields.OFFERS if isinstance(values.get(key), str))
    return next(({"message": text} for text in words), None)


def _inside(values: dict[str, Any], choice: bool) -> Iterator[tuple[Any, bool]]:
    """What an object holds that is read too, and whether it is offered: of a message only its choices."""
    for key, part in values.items():
        offered = isinstance(part, list) and key in fields.CHOICES
        if isinstance(part, dict | list) and (offered or choice or not fields.is_message(values)):
            yield part, offered


def _no_message(value: Any) -> str:
    """Why a value is not read, by its keys."""
    keys = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
    known = ", ".join(key for key in fields.TEXTS if key in KNOWN)
    return f"no record with a message: expected a text under a key such as {known}, got {keys[:200]}"


def _why(error: Exception) -> str:
    return "nesting too deep" if isinstance(error, RecursionError) else str(error)


def sniff(text: str) -> float:
    """By its first character and a key that holds a message; only the head of the file may be here."""
    head = text.lstrip()[:4096]
    if not head.startswith(("[", "{")):
        return 0.0
    keyed = any(fields.fold(key) in fields.TEXTS for key in KEY.findall(head))
    return 0.9 if keyed and '":' in head.replace('" :', '":') else 0.1


FORMAT = Format("json", (".json", ".jsonl", ".ndjson"), sniff, read)
