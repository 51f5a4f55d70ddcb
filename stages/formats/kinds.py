"""What the engine formats share: the message that somebody says, signs that stand close together, a file's head."""

from collections import Counter
from collections.abc import Set

import regex

from stages.formats.message import Message
from stages.formats.quotes import spoken

WIDE_SIGN = regex.compile(r"[\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff00-\uffef]")  # no space beside it parts words
WIDE_LABEL = regex.compile(r"^[ \t　]*([^\s：:;。，！？…「」“”\"<>{}\[\]@#]{1,12})：", regex.MULTILINE)
CITES = "‘"  # in a message, which an engine sets off by itself, these are another's words, read out
FEW = 2  # lines that are no habit
HEAD = 200  # non-blank lines by which a format is known
LINE = 400  # characters that they have at most, on average


def head_lines(text: str) -> list[str]:
    """The first lines that carry anything, as they stand."""
    return [line for line in text[: HEAD * LINE].split("\n") if line.strip()][:HEAD]


def said(line: int, speaker: str | None, text: str, scene: str) -> Message:
    """Speech or a thought under a name, without quotes that wrap all of it; narration without one."""
    if not speaker:
        return Message(line, None, text, "narration", scene)
    if text[0] == CITES:
        return Message(line, speaker, text, "speech", scene)
    return spoken(line, speaker, text, scene, frozenset())


def wide_labels(text: str) -> Set[str]:
    """What often stands before a full-width colon: names, but not to an engine that takes the half-width one alone."""
    return {label for label, lines in Counter(WIDE_LABEL.findall(text)).items() if lines > FEW}


def no_speaker(line: str, labels: Set[str]) -> str:
    """Why a label that looks like a speaker's is not one, if the line has such a label."""
    found = WIDE_LABEL.match(line) if "：" in line else None
    return f"`{found[1]}：` names nobody: the engine takes `{found[1]}: `" if found and found[1] in labels else ""
