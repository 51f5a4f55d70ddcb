"""Novels: quotations given to those whom an attribution names, in Chinese and English.

    宝玉笑道：“…”    “…”黛玉道。    “…,” said Elizabeth.    Mr. Bennet replied, “…”

A quotation without attribution between two speakers who take turns goes to the one whose turn it is; any other stays
speech of nobody, which extract counts. What stands beside the quotations is narration; a bare `宝玉道：` is structure.
`line` is where the quotation or the narration begins.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from stages.formats.labels import nonblank
from stages.formats.marks import SEPARATOR, TITLE
from stages.formats.message import Format, Message, Options, Reject

QUOTATION = re.compile(r"“[^“”]*(?:”|\Z)|「[^「」]*(?:「[^「」]*」[^「」]*)*(?:」|\Z)|『[^『』]*(?:』|\Z)|(?<![\w\"])\"[^\"]*(?:\"|\Z)")
SENTENCE_END = re.compile(r"[。！？!?….,，—―~～♪]['’」』]?$")
CHAPTER = re.compile(
    rf"{TITLE.pattern.replace('?P<marked>', '?:')}|第[零〇一二三四五六七八九十百千\d]+回.*|(?:CHAPTER|Chapter) [\w.]+.{{0,60}}"
)

VERBS_ZH = "(?:说道|问道|答道|笑道|叫道|喊道|骂道|叹道|哭道|回道|嚷道|喝道|吼道|应道|劝道|说|道|问|答|喊|叫|骂|嚷|應|說道|問道|說|問|開口|开口)"
MANNER_ZH = (
    "(?:冷笑|微笑|苦笑|大笑|陪笑|含笑|轻声|低声|小声|大声|高声|连声|厉声|柔声|接口|开口|回头|点头|摇头|忽然|突然|急忙|连忙|忙忙|立刻|于是|不禁|终于|"
    "笑着|哭着|接着|跟着|听了|见了|听说|这才|只好|笑|忙|又|便|也|就|只|都|因|乃|方|却|还|再|才|先|一面|一边|地|着|了|向他|对他|对她|对我|向我)"
)
NAME_ZH = "[\u4e00-\u9fff]{2,4}?|[\u4e00-\u9fff]{1,6}·[\u4e00-\u9fff·]{1,8}?|[A-Z][A-Za-z]+"
LEARN_BEFORE_ZH = re.compile(rf"(?:^|[。！？!?，,；;…”」\s])(?:只见|只听|忽听|那)?({NAME_ZH}){MANNER_ZH}*{VERBS_ZH}[：:，,]?\s*$")
LEARN_AFTER_ZH = re.compile(rf"^({NAME_ZH}){MANNER_ZH}*{VERBS_ZH}(?:着|了)?(?=[。，,！!；;]|$)")
BARE_ZH = re.compile(rf"(?:只见)?(?:{NAME_ZH}|[他她我]们?)?{MANNER_ZH}*{VERBS_ZH}(?:着|了)?[：:。，,]?")
SAID_BEFORE_ZH = re.compile(rf"([^。！？!?”」]*)(?:{VERBS_ZH}(?:了?一句|了?一声)?[：:，,]?|：)\s*$")
SAID_AFTER_ZH = re.compile(rf"([^。！？!?“「：:]{{1,40}}?{VERBS_ZH}(?:着|了|了?一句|了?一声)?)(?=[。，,！!；;]|$)")  # a colon: for the next
OBJECT_ZH = "(?<![向对見见和同与問问给給叫命听聽把被替跟劝勸拉瞅望着了])"  # whom it is said to, not who says it
GOES_ON_ZH = re.compile("又|再|接着|继续|繼續")
NO_NAME_ZH = re.compile("^[他她我你它因又都便只忽进说却且方才于不也就还再听见问那这一]|[听见说笑想问道着来去又便都忙了]$")
NOT_NAMES_ZH = frozenset(
    ("大家", "众人", "有人", "二人", "两人", "咱们", "自己", "对方", "别人", "心里", "心中", "口中", "口里", "嘴里", "如此")
)

VERBS_EN = (
    "(?:said|says|asked|asks|replied|replies|cried|answered|exclaimed|whispered|shouted|murmured|muttered|returned|added|continued|"
    "observed|remarked|called|yelled|screamed|sighed|began|declared|repeated|inquired|enquired|responded|interrupted|demanded|growled|"
    "laughed|snapped|insisted|admitted|agreed|suggested|warned|breathed|hissed|gasped|sobbed|snarled|thought)"
)
NAME_EN = r"(?:(?:Mr|Mrs|Ms|Dr|St)\.?|Miss|Lady|Lord|Sir|Madame|Captain|Colonel|Aunt|Uncle|King|Queen|Professor)(?: [A-Z][\w’'-]+){1,2}|[A-Z][\w’'-]+(?: [A-Z][\w’'-]+)?"
BEFORE_EN = re.compile(rf"({NAME_EN})(?: \w+ly| then| only| again| at last)? {VERBS_EN}\b[^.!?”\"]{{0,60}}[,:—]\s*$")
AFTER_EN = re.compile(rf"^[ ,]*(?:{VERBS_EN}(?: \w+ly)? (?:the |her |his |old |poor |little )*({NAME_EN})|({NAME_EN})(?: \w+ly| then| only)? {VERBS_EN}\b)")
NOT_NAMES_EN = frozenset("He She It I You They We The A An Then And But So There This That What When His Her My Your".split())
TAIL_EN = re.compile(rf"^[ ,]*(?:he|she|I|they|{NAME_EN}|the \w+) {VERBS_EN}\b|^[ ,]*{VERBS_EN}\b")


class Piece(NamedTuple):
    """A quotation or what stands between: where it begins in the file, and its words."""

    line: int
    text: str
    quoted: bool


Naming = Callable[[str, str], str | None]  # before and after a quotation -> the name there; "": somebody unnamed


def read(text: str, options: Options) -> Iterator[Message | Reject]:
    """Quotations with their speakers, narration between."""
    paragraphs = list(_paragraphs(text))
    naming = _naming(paragraphs, options)
    scene, turns = "", Turns()
    for line, paragraph in paragraphs:
        if SEPARATOR.fullmatch(paragraph) or CHAPTER.fullmatch(paragraph):
            scene, turns = scene if SEPARATOR.fullmatch(paragraph) else paragraph, Turns()
            continue
        yield from _read_paragraph(list(_pieces(line, paragraph)), naming, turns, scene)


class Turns:
    """The last two speakers of a conversation; narration between leaves it open for one paragraph."""

    def __init__(self) -> None:
        self.last: list[str] = []
        self.quiet = 0

    def next(self) -> str | None:
        """Whose turn it is, if two take turns."""
        return self.last[-2] if len(self.last) > 1 and self.last[-1] != self.last[-2] and not self.quiet else None

    def spoke(self, name: str | None) -> None:
        self.quiet = 0
        self.last = [*self.last[-3:], name] if name else []


def _read_paragraph(pieces: list[Piece], naming: Naming, turns: Turns, scene: str) -> Iterator[Message]:
    """One paragraph is one speaker's until an attribution names another."""
    spoken = [index for index, piece in enumerate(pieces) if piece.quoted and _is_speech(pieces, index, naming)]
    names = {index: naming(*_around(pieces, index)) for index in spoken}
    speaker = next((name for name in names.values() if name is not None), None) if pieces[0].quoted else None
    if spoken and speaker is None and pieces[0].quoted:
        speaker = turns.next()
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
    if spoken:
        turns.spoke(speaker)
    else:
        turns.quiet += 1


def _is_speech(pieces: list[Piece], index: int, naming: Naming) -> bool:
    """Somebody says it, or it is a sentence; a quoted word inside a sentence is narration."""
    words = _unquoted(pieces[index].text)
    if not words:
        return False
    before, after = _around(pieces, index)
    return naming(before, after) is not None or bool(SENTENCE_END.search(words) and before.strip()[-1:] in "：:，,。！？!?.…;；—")


def _around(pieces: list[Piece], index: int) -> tuple[str, str]:
    before = pieces[index - 1].text if index and not pieces[index - 1].quoted else ""
    after = pieces[index + 1].text if index + 1 < len(pieces) and not pieces[index + 1].quoted else ""
    return before, after


def _unquoted(text: str) -> str:
    return " ".join(text.strip("“”「」『』\"").split()) if text.isascii() else text.strip("“”「」『』\"").strip()


def _narration(pieces: list[Piece], scene: str) -> Iterator[Message]:
    """The pieces as one message, unless nothing is left beside the attribution."""
    text = "".join(piece.text for piece in pieces).strip(" 　,，")
    if text and not _bare_attribution(text):
        yield Message(pieces[0].line, None, text, "narration", scene)


def _bare_attribution(text: str) -> bool:
    """`宝玉笑道：`, `said Elizabeth.`"""
    if text.isascii() or text[0].isascii():
        found = AFTER_EN.match(text) or TAIL_EN.match(text)
        return bool(found) and len(text) - found.end() <= 1
    return BARE_ZH.fullmatch(text) is not None


# --- names


def _naming(paragraphs: list[tuple[int, str]], options: Options) -> Naming:
    """How to read a name beside a quotation: names that attributions repeat, or that the alias map knows."""
    counts: Counter[str] = Counter()
    for line, paragraph in paragraphs:
        pieces = list(_pieces(line, paragraph))
        for index, piece in enumerate(pieces):
            if piece.quoted and (name := _candidate(*_around(pieces, index))):
                counts[name] += 1
    names = {name for name, count in counts.items() if count >= options.recurrence} | options.known
    ordered = sorted(names, key=lambda name: (-len(name), name))
    known = re.compile(f"{OBJECT_ZH}(?:{'|'.join(map(re.escape, ordered))})") if ordered else None

    def naming(before: str, after: str) -> str | None:
        return _english(before, after, names) or (_chinese(before, after, known) if known else None)

    return naming


def _candidate(before: str, after: str) -> str | None:
    """A name that stands right beside its verb."""
    patterns = ((LEARN_BEFORE_ZH, before[-60:]), (LEARN_AFTER_ZH, after[:60]), (AFTER_EN, after[:120]), (BEFORE_EN, before[-160:]))
    for pattern, text in patterns:
        if (found := pattern.search(text)) and _is_name(name := next(filter(None, found.groups()), "")):
            return name
    return None


def _is_name(name: str) -> bool:
    return bool(name) and not (name in NOT_NAMES_ZH or name.split(" ")[0] in NOT_NAMES_EN or NO_NAME_ZH.search(name))


def _english(before: str, after: str, names: set[str]) -> str | None:
    for pattern, text in ((AFTER_EN, after[:120]), (BEFORE_EN, before[-160:])):
        if (found := pattern.search(text)) and (name := next(filter(None, found.groups()), "")) in names:
            return name
    return None


def _chinese(before: str, after: str, known: re.Pattern[str]) -> str | None:
    """The subject of the sentence that ends in a verb of saying: the first known name in it; "" where it is elided."""
    said = SAID_BEFORE_ZH.search(before[-120:]) or SAID_AFTER_ZH.match(after[:80])
    if not said:
        return None
    if found := known.search(said[1]):
        return found[0]
    return None if GOES_ON_ZH.search(said[0]) else ""


# --- paragraphs and pieces


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Paragraphs with their first lines: a line each, or, where the text is wrapped at a width, up to a blank line."""
    lines = text.split("\n")
    if not _is_wrapped(lines):
        yield from ((number, line.strip()) for number, line in enumerate(lines, 1) if line.strip())
        return
    start = 0
    for number, line in enumerate([*lines, ""]):
        if not line.strip():
            if number > start:
                yield start + 1, "\n".join(part.strip() for part in lines[start:number])
            start = number + 1


def _is_wrapped(lines: list[str]) -> bool:
    """Most lines that are not the last of their paragraph are about as long as the longest."""
    inner = [len(line) for line, after in zip(lines, lines[1:], strict=False) if line.strip() and after.strip()]
    longest = max(map(len, lines), default=0)
    return len(inner) * 5 > sum(bool(line.strip()) for line in lines) and longest < 120 and sum(length * 3 > longest * 2 for length in inner) * 2 > len(inner)


def _pieces(line: int, paragraph: str) -> Iterator[Piece]:
    """Quotations and what stands between them."""
    at = 0
    for found in (*QUOTATION.finditer(paragraph), None):
        start = found.start() if found else len(paragraph)
        for text, quoted in ((paragraph[at:start], False), (found[0] if found else "", True)):
            if text:
                yield Piece(line, text.replace("\n", " "), quoted)
                line += text.count("\n")
        at = found.end() if found else start


def sniff(text: str) -> float:
    """Attributions beside quotations."""
    found = 0
    for line, paragraph in _paragraphs(text):
        pieces = list(_pieces(line, paragraph))
        found += sum(piece.quoted and _candidate(*_around(pieces, index)) is not None for index, piece in enumerate(pieces))
    return min(0.9, 0.2 + 3 * found / max(1, nonblank(text))) if found > 2 else 0.0


FORMAT = Format("prose", (".txt", ".text", ".md"), sniff, read)
