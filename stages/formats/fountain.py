"""Fountain screenplays (fountain.io/syntax): cues in capitals or after @, with the speech below them.

One speech a cue; its parentheticals are directions after it; action is narration; scene headings and sections open
scenes; title page, notes, boneyard, synopses, transitions and page breaks are structure.
"""

import re
from collections.abc import Generator, Iterator

from stages.formats.message import Format, Message, Options, Reject

HEADING = re.compile(r"\.(?=[^.\s])(?P<forced>.+)|(?:INT|EXT|EST|INT\.?/EXT|I/E|E/I)[. ].+", re.I)
SECTION = re.compile(r"#{1,6}\s*(.+)")
CUE = re.compile(r"(?:@(?P<forced>[^(^]+)|(?P<name>[^a-z\s!>~=#.(][^a-z(^]*))(?P<extension>\([^)]*\)\s*)*\^?")
CASELESS = 12  # characters of a cue in a script without capitals; an action may stand there too
SENTENCE = re.compile("[。，、！？…：；]")
TRANSITION = re.compile(r">[^<]*|[^a-z]*TO:")
TITLE_KEY = re.compile(r"[A-Z][\w ]{0,30}:")
REMOVED = re.compile(r"/\*.*?(?:\*/|\Z)|\[\[(?:(?!\[\[).)*?\]\]", re.S)
SCENE_NUMBER = re.compile(r"(?<!\s)\s*#[\w.\-]+#$")
EMPHASIS = re.compile(r"(?<!\\)(\*{1,3}|_)(?=\S)(.{1,500}?)(?<=\S)(?<!\\)\1")  # bounded: nothing may close a mark
NESTED = 4  # marks around one another: *, **, ***, _
ESCAPE = re.compile(r"\\([*_\\@~!>.#])")


def read(text: str, options: Options) -> Iterator[Message | Reject]:
    """The speeches, actions and directions in order."""
    lines = REMOVED.sub(lambda found: "\n" * found[0].count("\n"), text).split("\n")
    index, scene, blank = _after_title_page(lines), "", True
    while index < len(lines):
        line = lines[index].strip()
        index += 1
        if not line:
            blank = True
        elif heading := _scene(line):
            scene = heading
        elif blank and index < len(lines) and lines[index].strip() and (cue := CUE.fullmatch(line)) and _letters(cue):
            index = yield from _speech(lines, index, (cue["forced"] or cue["name"]).strip(), scene)
        elif not (line[0] == "=" or (blank and TRANSITION.fullmatch(line))):
            blank = False
            words = _plain(line.lstrip("!~>").rstrip("<").strip())
            if words:
                yield Message(index, None, words, "narration", scene)
            else:
                yield Reject(index, line, "marks without words")


def _after_title_page(lines: list[str]) -> int:
    """Title page: `Key: value` lines at the very top, to the first blank line."""
    if not (lines and TITLE_KEY.match(lines[0])):
        return 0
    return next((index for index, line in enumerate(lines) if not line.strip()), len(lines))


def _scene(line: str) -> str:
    if section := SECTION.fullmatch(line):
        return section[1].strip()
    heading = HEADING.fullmatch(line)
    return SCENE_NUMBER.sub("", heading["forced"] or line).strip() if heading else ""


def _letters(cue: re.Match[str]) -> bool:
    """A cue in capitals has one, or is short and no sentence where letters have no case; transitions end in TO:."""
    if cue["forced"]:
        return any(map(str.isalpha, cue["forced"]))
    name = cue["name"].rstrip()
    caseless = len(name) <= CASELESS and any(map(str.isalpha, name)) and not SENTENCE.search(name)
    return (any(map(str.isupper, name)) or caseless) and not name.endswith("TO:")


def _speech(lines: list[str], index: int, name: str, scene: str) -> Generator[Message | Reject, None, int]:
    """The lines below a cue up to a blank one; returns where they end."""
    cue, spoken, directions = index, [], []
    while index < len(lines) and (lines[index].strip() or lines[index] == "  "):
        line = lines[index].strip()
        index += 1
        if line.startswith("(") and line.endswith(")"):
            directions.append(Message(index, None, line, "direction", scene))
        elif line:
            spoken.append(_plain(line.lstrip("~")))
    if spoken:
        yield Message(cue, name, "\n".join(spoken), "speech", scene)
    else:
        yield Reject(cue, name, "a name without words")
    yield from directions
    return index


def _plain(text: str) -> str:
    """Without emphasis marks."""
    for _ in range(NESTED):
        text, found = EMPHASIS.subn(r"\2", text)
        if not found:
            break
    return ESCAPE.sub(r"\1", text)


def sniff(text: str) -> float:
    """Scene headings and cues."""
    lines = text.split("\n")
    headings = sum(bool(HEADING.fullmatch(line.strip())) for line in lines if line[:1] in "IEie.")
    return min(0.8, 0.2 * headings) if headings > 1 else 0.0


FORMAT = Format("fountain", (".fountain", ".spmd"), sniff, read)
