"""Ren'Py's extracted dialogue (dialogue.tab): identifier, character, dialogue, and where it stood, parted by tabs."""

import re
from collections.abc import Iterator, Mapping

from stages.formats.message import Format, Message, Options, Reject
from stages.formats.renpy import speaker_name, with_extends
from stages.formats.renpy_names import LABELLED, survey
from stages.formats.renpy_tokens import clean, label_of

HEADER = "Identifier\tCharacter\tDialogue"
COLUMNS = 3  # identifier, character, dialogue
ESCAPE = re.compile(r"\\(.)")
SPECIAL = {"n": "\n", "t": " ", "\\": "\\\\"}  # a backslash that is meant stays one for `clean`, so it is doubled


def read(text: str, options: Options) -> Iterator[Message | Reject]:
    """Yield a message a row; rows of an `extend` are part of the message before."""
    return with_extends(_rows(text, options.names))


def _rows(text: str, names: Mapping[str, str]) -> Iterator[Message | Reject]:
    scene = ""
    for number, line in enumerate(text.split("\n"), 1):
        cells = line.split("\t")
        if not line.strip() or line.startswith(HEADER):
            continue
        if len(cells) < COLUMNS:
            yield Reject(number, line, f"expected {COLUMNS} columns or more, got {len(cells)}")
            continue
        identifier, who, what = cells[:COLUMNS]
        text = clean(ESCAPE.sub(lambda found: SPECIAL.get(found[1], found[0]), what))
        if identifier == "<menu caption>":
            yield Message(number, None, text, "narration", scene)
        elif identifier:  # without one it is a string of the interface; nothing tells menu items from button labels
            label = label_of(identifier)
            scene = scene if label is None else label
            if LABELLED + scene in names:
                yield Reject(number, text, "said in a script of this folder too, and read there")
                continue
            yield _said(number, who, text, scene, names)


def _said(number: int, who: str, text: str, scene: str, names: Mapping[str, str]) -> Message:
    if who.partition(" ")[0] == "extend":
        return Message(number, None, text, "extend", scene)
    speaker = speaker_name(who, names) if who else ""
    return Message(number, speaker or None, text, "speech", scene)


def sniff(text: str) -> float:
    """1 with the header that Ren'Py writes, 0 without."""
    return float(text.startswith(HEADER))


FORMAT = Format("renpy_tab", (".tab",), sniff, read, survey, kin=("renpy",))  # .rpy files define its identifiers
