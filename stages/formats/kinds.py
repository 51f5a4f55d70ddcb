"""The kind of what an engine's script lets somebody say: the engine knows who speaks, brackets tell a thought."""

from collections import Counter
from collections.abc import Set

import regex

from stages.formats.quotes import wrapped

WIDE = regex.compile(r"^[ \t　]*([^\s：:;。，！？…「」“”\"<>{}\[\]@#]{1,12})：", regex.MULTILINE)
FEW = 2  # lines that are no habit


def kind_of(speaker: str | None, text: str) -> str:
    """Speech or a thought under a name, narration without one."""
    if not speaker:
        return "narration"
    return "thought" if text[:1] in ("（", "(") and wrapped(text.strip(), "（(") else "speech"


def wide_labels(text: str) -> Set[str]:
    """What often stands before a full-width colon: names, but not to an engine that takes the half-width one alone."""
    return {label for label, lines in Counter(WIDE.findall(text)).items() if lines > FEW}


def no_speaker(line: str, labels: Set[str]) -> str:
    """Why a label that looks like a speaker's is not one, if the line has such a label."""
    found = WIDE.match(line) if "：" in line else None
    return f"`{found[1]}：` names nobody: the engine takes `{found[1]}: `" if found and found[1] in labels else ""
