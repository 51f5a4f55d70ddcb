"""In which writing a text stands, and how much it says: a Chinese character as much as three letters."""

import re
from collections.abc import Iterable

LETTERS = {
    "Chinese": re.compile("[㐀-䶿一-鿿]"),
    "Japanese": re.compile("[ぁ-ゖァ-ヺｦ-ﾝ]"),
    "Korean": re.compile("[가-힣]"),
    "Latin": re.compile("[A-Za-zÀ-ɏ]"),
    "other": re.compile("[Ͱ-ϿЀ-ӿ\u0590-\u0fff]"),
}


def writing_of(text: str) -> str:
    """The writing of most of its letters, "" where it has none; a quarter of kana makes it Japanese."""
    counts = letters(text)
    if 4 * counts["Japanese"] > counts["Japanese"] + counts["Chinese"] > counts["Latin"] / 3:
        return "Japanese"
    best = max(counts, key=lambda name: _weight(name, counts[name]))
    return best if counts[best] else ""


def words_in(texts: Iterable[str]) -> int:
    """How much the texts say, in letters."""
    return sum(_weight(name, count) for name, count in letters("".join(texts)).items())


def letters(text: str) -> dict[str, int]:
    return {name: len(pattern.findall(text)) for name, pattern in LETTERS.items()}


def _weight(writing: str, count: int) -> int:
    return count * 3 if writing == "Chinese" else count
