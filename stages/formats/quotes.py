"""Quotation marks and brackets around a message, alike in every format that has no markup of its own for them."""

from collections import Counter
from collections.abc import Iterable

from stages.formats.message import Message

QUOTES = {"「": "」", "『": "』", "“": "”", '"': '"', "‘": "’", "«": "»"}
SOME = 3  # lines of a kind that are no slip
WRAPS = {**QUOTES, "（": "）", "(": ")"}


def wrapped(text: str, opening: Iterable[str]) -> bool:
    """Whether one pair of marks encloses the whole text."""
    if len(text) < 2 or text[0] not in opening or text[-1] != WRAPS[text[0]]:
        return False
    mark, close = text[0], text[-1]
    if mark == close:
        return mark not in text[1:-1]
    depth = 0
    for character in text[:-1]:
        depth += (character == mark) - (character == close)
        if depth == 0:
            return False
    return True


def spoken(line: int, name: str, text: str, scene: str, mixed: frozenset[str]) -> Message:
    """The message under a name: outer quotes come off, （…） is a thought, prose under a `mixed` name narration."""
    if text[0] in QUOTES and wrapped(text, QUOTES):
        return Message(line, name, text[1:-1].strip() or text, "speech", scene)
    if wrapped(text, "（("):
        return Message(line, name, text, "thought", scene)
    if name in mixed:
        return Message(line, None, text, "narration", scene)
    return Message(line, name, text, "speech", scene)


def mixed_names(openings: Iterable[tuple[str, str, int]]) -> frozenset[str]:
    """Names with prose under them too, from (name, first character, lines): there the quotes decide what is spoken.

    A fifth or more of the lines is quoted, a fifth or more is not, and there are some of both: fewer are slips.
    """
    quoted: Counter[str] = Counter()
    bare: Counter[str] = Counter()
    for name, first, lines in openings:
        if first not in "（(":
            (quoted if first in "「『" else bare)[name] += lines
    fewer = {name: min(quoted[name], bare[name]) for name in quoted}
    return frozenset(name for name in quoted if fewer[name] >= SOME and fewer[name] * 5 >= quoted[name] + bare[name])
