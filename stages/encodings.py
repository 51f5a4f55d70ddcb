"""Bytes of a script file -> its text, the encoding and why.

No detector alone is right (GB18030 decodes any bytes, CP932 reads some GBK files), so: byte order mark, strict UTF-8,
UTF-16 by its zero bytes, then a vote of the whole folder, and a check of the result that fails loudly.
"""

import codecs
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import ftfy
from ftfy.badness import is_bad

from stages.records import InputError

SAMPLE = 1 << 16  # bytes of a file that vote
TELLING = 200  # fewer high bytes than this do not outvote the folder
HABITUAL_SHARE = 0.12  # classical Chinese has 0.2 of it, a wrong decoding under 0.1
TOLERATED = 1000  # a file may have one undecodable place in so many bytes; more is a wrong encoding
HINT = "hint: name the encoding in extract.encoding or extract.files, or take the file out of the folder"
MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

# The characters that fill real text of each language: a wrong decoding gives rare ones.
SIMPLIFIED = "的一是不了在有人我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过后作里她吧吗呢啊没好去想看什么怎样只都还很把被让给从"  # noqa: E501
TRADITIONAL = "的一是不了在有人我他這個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之年過後作裡她吧嗎呢啊沒好去想看什麼怎樣只都還很把被讓給從"  # noqa: E501
JAPANESE = "あ-わをんアイウェカクコシジスタッテトドナニノバパフブマムメラリルレロンー"
KOREAN = "이다는에의을를가고하지은도서나어한사아로기그리자대있것시일게인해전정"
RUSSIAN = "оеаинтсрвлкмдпуяыьгзбчйх"
WESTERN = "éèàùâêîôûçäöüßñáíóúÉÀœ’“”‘—–…«»¿¡°"
HABITUAL = {  # order breaks ties
    "gb18030": re.compile(f"[{SIMPLIFIED}]"),
    "cp932": re.compile(f"[{JAPANESE}]"),
    "euc_jp": re.compile(f"[{JAPANESE}]"),
    "big5hkscs": re.compile(f"[{TRADITIONAL}]"),
    "cp949": re.compile(f"[{KOREAN}]"),
    "cp1251": re.compile(f"[{RUSSIAN}](?=[А-я])|(?<=[А-я])[{RUSSIAN}]"),  # letters stand together
    "cp1252": re.compile(f"(?<![^\\x00-\\x7f’‘“”])[{WESTERN}](?![^\\x00-\\x7f’‘“”])"),  # accents stand alone
}
READABLE = re.compile(f"[\\n -~{SIMPLIFIED}{TRADITIONAL}{JAPANESE}{KOREAN}{RUSSIAN}，。、！？…「」]")
ANY_BYTES = frozenset(
    ("gb18030", "gbk", "gb2312", "big5", "big5hkscs", "cp950", "cp932", "shift_jis", "euc_jp", "euc_kr", "cp949")
)
HALFWIDTH_KANA = re.compile("[\uff61-\uff9f]{2,}")
HIRAGANA = re.compile("[ぁ-ゖ]")
NOT_TEXT = re.compile("[\x00-\x08\x0e-\x1f\x7f\ufffd\ue000-\uf8ff]")
NOT_ASCII = re.compile("[^\x00-\x7f]")
SUSPECT = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\xa6\xa8-\xaf\xb1-\xb6\xb8-\xd6\xd8-\xff\ufffd\ue000-\uf8ff\uff61-\uff9f]"
)  # what the checks below look for
LATIN_LEFTOVERS = re.compile("[\x80-\xa6\xa8-\xaf\xb1-\xb6\xb8-\xd6\xd8-\xff]")  # not § ° · ×, which good text has


class BadByte(NamedTuple):
    """Where a file could not be decoded: `offset` in bytes from 0, `line` from 1."""

    offset: int
    line: int


@dataclass(frozen=True)
class Decoded:
    """The text (line ends are newlines, no byte order mark) and how it was found."""

    text: str
    encoding: str
    why: str
    bad_bytes: tuple[BadByte, ...] = ()
    mojibake_repaired: int = 0  # lines


@dataclass
class Ballot:
    """Evidence for each encoding, summed over the files of a folder that no certain rule decides."""

    votes: Counter[str] = field(default_factory=Counter)
    files: int = 0

    def add(self, data: bytes) -> None:
        if certain(data):
            return
        self.files += 1
        for name, share in shares(data).items():
            self.votes[name] += share * len(_sample(data))

    def winner(self) -> str | None:
        return max(self.votes, key=lambda name: self.votes[name]) if self.votes else None


def certain(data: bytes) -> tuple[str, str] | None:
    """Encoding and reason where the bytes themselves prove it."""
    for mark, name in MARKS:
        if data.startswith(mark):
            return name, "byte order mark"
    if _utf8(data):
        return "utf-8", "UTF-8 sequences"
    if name := _utf16(data):
        return name, "zero bytes of UTF-16"
    return None


def shares(data: bytes) -> dict[str, float]:
    """Share of habitual characters that each encoding finds in the sample, less what a wrong decoding leaves behind."""
    sample = _sample(data)
    return {name: _share(sample.decode(name, "replace"), habitual) for name, habitual in HABITUAL.items()}


def decode(name: str, data: bytes, *, forced: str = "auto", ballot: Ballot | None = None) -> Decoded:
    """Decode one file; `name` is for the messages, `ballot` holds the votes of its folder."""
    if forced != "auto":
        encoding, why, follows = forced, "forced by params.yaml", False
    else:
        encoding, why, follows = _choose(name, data, ballot or Ballot())
    text, bad = _decode(name, data, encoding)
    repaired = 0
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if codecs.lookup(encoding).name in ANY_BYTES and not follows:
        _verify_letters(name, text, encoding)
    if SUSPECT.search(text):
        _verify(name, text, encoding)
        text, repaired = repair(text)
    return Decoded(text.removeprefix("\ufeff"), encoding, why, bad, repaired)


def repair(text: str) -> tuple[str, int]:
    """Undo mojibake line by line: the text and how many lines were repaired."""
    lines = text.split("\n")
    repaired = 0
    for index, line in enumerate(lines):
        if LATIN_LEFTOVERS.search(line) and is_bad(line) and (fixed := ftfy.fix_encoding(line)) != line:
            lines[index] = fixed
            repaired += 1
    return "\n".join(lines), repaired


def _choose(name: str, data: bytes, ballot: Ballot) -> tuple[str, str, bool]:
    """Encoding, reason, and whether it follows the folder because its own letters tell nothing."""
    if proof := certain(data):
        return *proof, False
    own = shares(data)
    best = max(own, key=lambda name: own[name])
    telling = len(_sample(data)) >= TELLING
    folder = ballot.winner() or best
    voted = ballot.files > 1
    if telling and own[best] < HABITUAL_SHARE:
        if not voted or _bad_bytes(data, folder):
            raise InputError(f"{name}: expected text in some encoding, none fits (the best guess is {best})\n{HINT}")
        telling = False  # macros and their comments, say
    if telling and best != folder and own[best] > own[folder] + 0.1:
        return best, f"its own letters, against {folder} of the folder", False
    if voted:
        return folder, f"vote of {ballot.files} files without a mark", not telling
    return best, "its letters", False


def _utf8(data: bytes) -> bool:
    """Valid UTF-8; also when a few bytes are not, if the multi-byte sequences cannot be chance."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("utf-8", "replace")
        bad = text.count("\ufffd")
        good = sum(map(len, re.findall("[\u0100-\U0010ffff]+", text))) - bad
        return good > 20 * bad
    return b"\0" not in data[:SAMPLE]


def _utf16(data: bytes) -> str | None:
    """UTF-16 without a mark: it has zero bytes (spaces, line ends) and one byte order gives readable text."""
    head = data[: min(SAMPLE, len(data) // 2 * 2)]
    if 0 not in head:
        return None
    texts = {name: head.decode(name, "replace") for name in ("utf-16-le", "utf-16-be")}
    name = max(texts, key=lambda name: len(READABLE.findall(texts[name])))
    wrong = len(NOT_TEXT.findall(texts[name]))
    return name if len(READABLE.findall(texts[name])) > max(20 * wrong, len(texts[name]) // 5) else None


def _sample(data: bytes) -> bytes:
    """Lines with high bytes, up to SAMPLE bytes: ASCII tells nothing, and [存档 s1] to [存档 s99] as much as one."""
    lines = [line for line in data[: 16 * SAMPLE].split(b"\n") if not line.isascii()]
    return b"\n".join({re.sub(rb"\d+", b"", line): line for line in lines}.values())[:SAMPLE]


def _share(text: str, habitual: re.Pattern[str]) -> float:
    foreign = len(NOT_ASCII.findall(text)) or 1
    wrong = 5 * len(NOT_TEXT.findall(text)) + 2 * _misread_kana(text)
    return (len(habitual.findall(text)) - wrong) / foreign


def _misread_kana(text: str) -> int:
    """Half-width kana that stand together; none where they are the names of a Japanese text, which has hiragana."""
    kana = sum(map(len, HALFWIDTH_KANA.findall(text)))
    return kana if kana > 2 * len(HIRAGANA.findall(text)) else 0


def _decode(name: str, data: bytes, encoding: str) -> tuple[str, tuple[BadByte, ...]]:
    try:
        return data.decode(encoding), ()
    except UnicodeDecodeError as error:
        bad = _bad_bytes(data, encoding)
        if len(bad) > 1 + len(data) // TOLERATED:
            raise InputError(_undecodable(name, encoding, bad[0])) from error
        return data.decode(encoding, "replace"), bad
    except LookupError as error:
        raise InputError(f"{name}: expected an encoding that Python knows, got `{encoding}`\n{HINT}") from error


def _bad_bytes(data: bytes, encoding: str) -> tuple[BadByte, ...]:
    """Every place where the decoder had to replace, in order."""
    places: list[int] = []

    def note(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeDecodeError)
        places.append(error.start)
        return "\ufffd", error.end

    codecs.register_error("stages.note", note)
    data.decode(encoding, "stages.note")
    shown = places[: 2 + len(data) // TOLERATED]
    return tuple(map(BadByte, shown, _lines_at(data, shown, encoding)))


def _lines_at(data: bytes, places: list[int], encoding: str) -> Iterator[int]:
    """The line of each place; what stands between two of them is read once."""
    decoder, line = codecs.getincrementaldecoder(encoding)("replace"), 1
    for start, end in pairwise((0, *places)):
        text = decoder.decode(data[start:end])
        line += text.count("\n") + len(re.findall("\r(?!\n)", text))
        yield line


def _undecodable(name: str, encoding: str, first: BadByte) -> str:
    where = f"offset {first.offset} (line {first.line})"
    return f"{name}: expected text in {encoding}, cannot decode the byte at {where} and many others\n{HINT}"


def _verify(name: str, text: str, encoding: str) -> None:
    """Refuse text that no person wrote: control and private-use characters, runs of half-width kana."""
    kana = _misread_kana(text)
    wrong = len(NOT_TEXT.findall(text)) + kana // 4
    if wrong * 50 <= len(text):
        return
    patterns = (NOT_TEXT, HALFWIDTH_KANA) if kana else (NOT_TEXT,)
    first = min(match.start() for pattern in patterns if (match := pattern.search(text)))
    offset, line = len(text[:first].encode(encoding, "replace")), 1 + text.count("\n", 0, first)
    got = f"{wrong} characters that text does not have, the first {text[first]!r} near byte {offset} (line {line})"
    raise InputError(f"{name}: expected script text, got, read as {encoding}, {got}\n{HINT}")


def _verify_letters(name: str, text: str, encoding: str) -> None:
    """Refuse text of rare characters alone: these encodings decode nearly any bytes."""
    foreign = NOT_ASCII.findall(text[:SAMPLE])
    share = sum(map(bool, map(READABLE.match, foreign))) / (len(foreign) or 1)
    if len(foreign) >= TELLING // 2 and share < HABITUAL_SHARE:
        got = f"{share:.0%} of the letters that every text has"
        raise InputError(f"{name}: expected script text, got, read as {encoding}, {got}\n{HINT}")


def vote(files: Iterable[bytes]) -> Ballot:
    """The ballot of a folder."""
    ballot = Ballot()
    for data in files:
        ballot.add(data)
    return ballot
