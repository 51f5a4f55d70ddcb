"""A reply in, the places where it leaves the script's language out.

A language is judged by its letters: by Unicode script first, then by what sets close neighbours apart.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache

import regex
from opencc_purepy import OpenCC

SCRIPTS = {
    "han": r"\p{Han}",
    "kana": r"[\p{Hiragana}\p{Katakana}]",
    "latin": r"\p{Latin}",
    "hangul": r"\p{Hangul}",
}
OTHER = "other"
OURS = "".join(rf"\p{{{script}}}" for script in ("Han", "Hiragana", "Katakana", "Latin", "Hangul"))
LETTER = {
    **{name: regex.compile(rf"(?:{script})+") for name, script in SCRIPTS.items()},
    OTHER: regex.compile(rf"(?:(?![{OURS}\p{{Lm}}])\p{{L}})+"),
}

HOME_SHARE = 0.02  # of the letters: a script this common in her lines belongs to her language
# A name, a model number or S.O.S. is no English.
WORDS = regex.compile(r"(?=(?:[A-Za-z]['’ ,.!?;:]+)*[A-Za-z]{2})(?:\b[A-Za-z][A-Za-z'’]*\b[ ,.!?;:]*){3,}")
LATIN_WORD = regex.compile(r"\p{Latin}{3,}")
MANY_LATIN = 8  # letters of words, and over a fifth of all: words of another language strewn in
FOREIGN_RUN = 2  # letters: the の of a shop sign is no Japanese yet
DIALECT = regex.compile(
    r"[嘅咗喺哋嘢啲嚟冇佢乜咁嗰]|唔(?=[係系好使知要会會該该])|係(?=[咪唔])"  # Cantonese
    r"|侬|阿拉(?=[是不也都])|伐啦|啥子|莫得|巴适|咋个|晓不得|恁(?=[这那们])|弗是"  # Wu, south-west, Henan
)

Span = tuple[int, int]


def shares(texts: Iterable[str]) -> dict[str, float]:
    """The share of each script in the letters of the texts; all 0 where there are none."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(letters(text))
    total = counts.total() or 1
    return {name: counts[name] / total for name in (*SCRIPTS, OTHER)}


def letters(text: str) -> Counter[str]:
    """How many letters of each script a text has."""
    return Counter({name: sum(map(len, pattern.findall(text))) for name, pattern in LETTER.items()})


def home(of_script: Mapping[str, float]) -> frozenset[str]:
    """The scripts that her language is written in; Chinese characters alone are never the home of kana."""
    return frozenset(name for name, share in of_script.items() if share >= HOME_SHARE)


def drift_spans(text: str, at_home: frozenset[str], simplified: bool) -> list[Span]:
    """Where the reply is in another language, another dialect or another form of the characters."""
    away = [name for name in (*SCRIPTS, OTHER) if name not in at_home and name != "latin"]
    spans = [span for name in away for span in foreign_runs(text, name)]
    if "latin" not in at_home:
        spans += latin_spans(text)
    if "han" in at_home and "kana" not in at_home:
        spans += [match.span() for match in DIALECT.finditer(text)]
        spans += [(i, i + 1) for i, char in enumerate(text) if japanese_only(char)]
        spans += traditional_spans(text) if simplified else []
    return sorted(set(spans))


def latin_spans(text: str) -> list[Span]:
    """Three words in a row, or so many letters that they are no name or model number."""
    words = [match.span() for match in LATIN_WORD.finditer(text)]
    count = sum(end - start for start, end in words)
    if count >= MANY_LATIN and 5 * count > letters(text).total():
        return words
    return [match.span() for match in WORDS.finditer(text)]


def foreign_runs(text: str, name: str) -> list[Span]:
    """The runs of a script in a text that has at least two of its letters."""
    runs = [match.span() for match in LETTER[name].finditer(text)]
    return runs if sum(end - start for start, end in runs) >= FOREIGN_RUN else []


def traditional_spans(text: str) -> list[Span]:
    """The Traditional characters of a text that has at least two different ones (a name may keep one)."""
    found = [i for i, char in enumerate(text) if traditional_only(char)]
    return [(i, i + 1) for i in found] if len({text[i] for i in found}) >= FOREIGN_RUN else []


def traditional_share(texts: Iterable[str]) -> float:
    """The share of Chinese characters that only Traditional writing has."""
    counts = Counter(traditional_only(char) for text in texts for char in text if LETTER["han"].match(char))
    return counts[True] / (counts.total() or 1)


@lru_cache(maxsize=1)
def _to_simplified() -> OpenCC:
    return OpenCC("t2s")


@lru_cache(maxsize=20000)
def traditional_only(char: str) -> bool:
    """OpenCC writes it otherwise in Simplified, and GB 2312, the Simplified standard, does not have it."""
    return char > "\u2e80" and not _in(char, "gb2312") and _to_simplified().convert(char) != char


@lru_cache(maxsize=20000)
def japanese_only(char: str) -> bool:
    """A kanji (働, 気, 桜) that the Japanese standard has and neither Chinese one."""
    han = LETTER["han"].match(char) is not None
    return han and char not in "々〇" and _in(char, "shift_jis") and not _in(char, "gb2312") and not _in(char, "big5")


def _in(char: str, charset: str) -> bool:
    try:
        char.encode(charset)
    except UnicodeEncodeError:
        return False
    return True
