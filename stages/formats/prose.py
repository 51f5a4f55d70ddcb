"""Novels, Chinese and English: quotations given to those whom an attribution names, narration between.

A quotation without attribution between two speakers who take turns goes to the one whose turn it is; any other stays
speech of nobody, which extract counts. A bare `宝玉道：` is structure. `line` is where a quotation or narration begins.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from stages.formats.attributions import Naming, is_bare, plain_name
from stages.formats.labels import nonblank
from stages.formats.marks import TITLE
from stages.formats.message import Format, Message, Options, Reject
from stages.formats.text import Scenes

WIDEST = 120  # characters; longer lines are paragraphs
DOUBLE = re.compile(  # many scans close “ by a straight mark
    r"“[^“”\"＂]*(?:[”\"＂]|\Z)|「[^「」]*(?:「[^「」]*」[^「」]*)*(?:」|\Z)|『[^『』]*(?:』|\Z)"
    r"|(?<![\w\"])\"[^\"“”]*(?:[\"”]|\Z)"
)
SINGLE = re.compile(r"(?<![\w'])'(?=\S)(?:[^']|'(?=\w))*(?:'|\Z)|‘(?:[^‘’]|’(?=\w))*(?:’|\Z)")
OPENINGS = {DOUBLE: re.compile('[“「『]|(?<!\\S)"'), SINGLE: re.compile("(?<!\\S)['‘](?=\\w)")}
QUOTES = '“”「」『』"＂‘’'
SENTENCE_END = re.compile(r"[．。！？!?….,，—―~～♪]['’」』]?$")
INDENT = "　"
CLOSED = re.compile("[。！？!?….”」』][\"'’]?$")  # where a line ends that is no piece of a sentence
OPENS_SPEECH = "：:，,．。！？!?.…;；—"  # what stands before a quotation that is a sentence of its own
FIRST_PART = "***"  # a rule under a title opens its first part
CHAPTER = re.compile(rf"{TITLE.pattern}|第[零〇一二三四五六七八九十百千\d]+回.*|(?:CHAPTER|Chapter) [\w.]+.{{0,60}}")


Place = tuple[str, str]  # what stands before a quotation and after it


class Piece(NamedTuple):
    """A quotation or what stands between: where it begins in the file, and its words."""

    line: int
    text: str
    quoted: bool


class Turns:
    """The last speakers of a conversation; a paragraph without speech ends the alternation."""

    def __init__(self) -> None:
        self.last: list[str] = []
        self.quiet = False

    def next(self) -> str | None:
        """Whose turn it is, if two take turns."""
        return self.last[-2] if len(self.last) > 1 and self.last[-1] != self.last[-2] and not self.quiet else None

    def spoke(self, name: str | None) -> None:
        self.quiet = False
        self.last = [*self.last[-1:], name] if name else []


class Chapters(Scenes):
    """Scenes whose titles may be those of a novel too: 第一回, CHAPTER I."""

    def mark(self, text: str) -> bool:
        if CHAPTER.fullmatch(text):
            self.title, text = text, FIRST_PART
        return super().mark(text)


def read(text: str, options: Options) -> Iterator[Message | Reject]:
    """Quotations with their speakers, narration between."""
    paragraphs, quotation = list(_paragraphs(text)), _quotation(text)
    naming = Naming(_places(paragraphs, quotation), options)
    scenes, turns = Chapters(paragraph for _, paragraph in paragraphs), Turns()
    for above, (line, paragraph) in _announced(paragraphs):
        if scenes.mark(paragraph):
            turns = Turns()
        else:
            pieces = list(_pieces(line, paragraph, quotation))
            yield from _read_paragraph(pieces, _beside(pieces, above), naming, turns, scenes.name)


def _read_paragraph(
    pieces: list[Piece], places: list[Place], naming: Naming, turns: Turns, scene: str
) -> Iterator[Message]:
    """One paragraph is one speaker's until an attribution names another."""
    names = {
        index: naming.said(*place)
        for index, (piece, place) in enumerate(zip(pieces, places, strict=True))
        if piece.quoted and _is_speech(piece, place, naming)
    }
    speaker = _speaker(pieces, names, naming, turns) if names else None
    narration: list[Piece] = []
    for index, piece in enumerate(pieces):
        if index not in names:
            narration.append(piece)
            continue
        yield from _narration(narration, scene)
        narration = []
        speaker = speaker if names[index] is None else names[index]
        yield Message(piece.line, speaker or None, _unquoted(piece.text), "speech", scene)
    yield from _narration(narration, scene)
    if names:
        turns.spoke(speaker)
    else:
        turns.quiet = True


def _speaker(pieces: list[Piece], names: dict[int, str | None], naming: Naming, turns: Turns) -> str | None:
    """Whose the paragraph is: the attributions', without one theirs who act in it, or whose turn it is."""
    named = next((name for name in names.values() if name is not None), None)
    if named is None:
        narration = (piece.text for index, piece in enumerate(pieces) if index not in names)
        named = naming.acting(narration, led=0 not in names)
        return named or (turns.next() if pieces[0].quoted else None)
    return named if pieces[0].quoted else None


def _is_speech(piece: Piece, place: Place, naming: Naming) -> bool:
    """Somebody says it, or it is a sentence; a quoted word inside a sentence is narration."""
    words = _unquoted(piece.text)
    if not words:
        return False
    sentence = SENTENCE_END.search(words) and place[0].strip()[-1:] in OPENS_SPEECH
    return bool(sentence) or naming.said(*place) is not None


def _unquoted(text: str) -> str:
    return text.strip(QUOTES + ("'" if text[:1] == "'" else "")).strip()


def _narration(pieces: list[Piece], scene: str) -> Iterator[Message]:
    """The pieces as one message, unless nothing is left beside the attribution."""
    text = "".join(piece.text for piece in pieces).strip(" 　,，")
    if text and not is_bare(text):
        yield Message(pieces[0].line, None, text, "narration", scene)


# --- paragraphs, pieces and what stands beside them


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Paragraphs with their first lines: a line each; where the text is wrapped, up to a blank line or an indent."""
    lines = text.split("\n")
    if not _is_wrapped(lines):
        yield from ((number, line.strip()) for number, line in enumerate(lines, 1) if line.strip())
        return
    start = 0
    for number, line in enumerate([*lines, ""]):
        if not line.strip() or line.startswith(INDENT):
            if number > start:
                yield start + 1, "\n".join(part.strip() for part in lines[start:number])
            start = number if line.strip() else number + 1


def _is_wrapped(lines: list[str]) -> bool:
    """Most lines that are not the last of their paragraph are about as long as the longest, and few are whole."""
    inner = [(line.rstrip(), after) for line, after in pairwise(lines) if line.strip() and after.strip()]
    if 2 * sum(after.startswith(INDENT) or CLOSED.search(line) is not None for line, after in inner) > len(inner):
        return False
    longest = max(map(len, lines), default=0)
    full = sum(len(line) * 3 > longest * 2 for line, _ in inner)
    return longest < WIDEST and 2 * full > len(inner) and 5 * len(inner) > sum(bool(line.strip()) for line in lines)


def _quotation(text: str) -> re.Pattern[str]:
    """The quotations of the text: in single marks where they open far more of them than double ones do."""
    double, single = (len(openings.findall(text)) for openings in OPENINGS.values())
    return SINGLE if single > 3 * double else DOUBLE


def _pieces(line: int, paragraph: str, quotation: re.Pattern[str]) -> Iterator[Piece]:
    """Quotations and what stands between them."""
    at = 0
    for found in (*quotation.finditer(paragraph), None):
        start = found.start() if found else len(paragraph)
        for text, quoted in ((paragraph[at:start], False), (found[0] if found else "", True)):
            if text:
                yield Piece(line, text.replace("\n", " "), quoted)
                line += text.count("\n")
        at = found.end() if found else start


def _places(paragraphs: Iterable[tuple[int, str]], quotation: re.Pattern[str]) -> Iterator[Place]:
    """What stands before and after each quotation."""
    for above, (line, paragraph) in _announced(paragraphs):
        pieces = list(_pieces(line, paragraph, quotation))
        yield from (place for piece, place in zip(pieces, _beside(pieces, above), strict=True) if piece.quoted)


def _announced(paragraphs: Iterable[tuple[int, str]]) -> Iterator[tuple[str, tuple[int, str]]]:
    """Each paragraph with the one above it where that ends in a colon: `宝玉道：`, and the quotation below."""
    above = ""
    for line, paragraph in paragraphs:
        yield above, (line, paragraph)
        above = paragraph if paragraph.endswith(("：", ":")) else ""


def _beside(pieces: list[Piece], above: str) -> list[Place]:
    """What stands before and after each piece, up to the next quotations."""
    texts = [above, *("" if piece.quoted else piece.text for piece in pieces), ""]
    return list(zip(texts, texts[2:], strict=False))


def sniff(text: str) -> float:
    """Attributions beside quotations."""
    found = sum(plain_name(before, after) is not None for before, after in _places(_paragraphs(text), _quotation(text)))
    return min(0.9, 0.2 + 3 * found / max(1, nonblank(text))) if found > 2 else 0.0


FORMAT = Format("prose", (".txt", ".text", ".md"), sniff, read)
