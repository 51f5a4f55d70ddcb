"""Every line of a script in, the cleaned lines out: the rules that need the neighbours, the language or the whole text.

A rule takes the spots (where each line stands), the texts as the rules before it left them (None: dropped already) and
the parameters, and gives the new texts in the same order. SCRIPT_RULES at the foot is the growing point.
"""

import re
import unicodedata
from bisect import bisect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import ahocorasick
from opencc_purepy import OpenCC
from ruamel.yaml import YAML

from stages.duplicates import near_duplicate_groups
from stages.records import Dialogue, Piece
from stages.rules import HAN, KANA, LATIN, collapse_filler, is_filler

SWEARS = Path(__file__).with_name("swears.yaml")


@dataclass(frozen=True)
class DenoiseParams:
    """The `denoise` section of params.yaml."""

    strategy: str
    strategies: dict
    control: bool
    holes: str
    fillers: str
    language: str
    near_duplicate: float
    swear_allow: list
    seed: int


class Spot(NamedTuple):
    """Where a line stands, who speaks it, and the narration right after and right before it; `hers`: to be learned."""

    dialogue: Dialogue
    turn: int
    piece: Piece
    speaker: str
    hers: bool
    narration: tuple[str, ...]


Texts = list[str | None]
ScriptRule = Callable[[list[Spot], Texts, DenoiseParams], Texts]


# --- fillers

PRONOUNS = "她|他|彼女|彼|She |He "
I_TOO = f"{PRONOUNS}|我|俺|僕|I "
SOMEBODY_ELSE = re.compile(r"我|俺|僕|私|\bme\b|\bmy\b", re.IGNORECASE)
CLAUSE = re.compile(r"[^，。！？,.!?]{2,24}(?=[，。！？,.!?]|$)")


def fillers(spots: list[Spot], texts: Texts, params: DenoiseParams) -> Texts:
    """Lines of fillers alone (嗯……): dropped, collapsed or described, as `denoise.fillers` says."""
    return FILLERS[params.fillers](spots, texts, params)


def drop_fillers(spots: list[Spot], texts: Texts, params: DenoiseParams) -> Texts:
    """A bare 嗯…… goes."""
    return [None if text and is_filler(text) else text for text in texts]


def collapse_fillers(spots: list[Spot], texts: Texts, params: DenoiseParams) -> Texts:
    """嗯嗯啊······ becomes 嗯……: its first filler and the pauses around it."""
    return [collapse_filler(text) if text and is_filler(text) else text for text in texts]


def describe_fillers(spots: list[Spot], texts: Texts, params: DenoiseParams) -> Texts:
    """A bare 嗯…… takes the narration beside it as a stage direction, 嗯……（低下头）; without any it goes."""
    pairs = zip(spots, texts, strict=True)
    return [described(spot, text) if text and is_filler(text) else text for spot, text in pairs]


def described(spot: Spot, text: str) -> str | None:
    """The filler with what the narration beside it says that its speaker does."""
    does = next(filter(None, (action(sentence, spot) for sentence in spot.narration)), None)
    return does and f"{collapse_filler(text)}（{does}）"


def action(narration: str, spot: Spot) -> str | None:
    """低下头, of 她低下头，不说话了。; None if somebody else does it. 我 is the partner, who tells the story."""
    names = f"{re.escape(spot.speaker)}|{PRONOUNS if spot.hers else I_TOO}"
    subject = re.match(rf"(?:{names})的?", narration)
    does = CLAUSE.match(narration, subject.end()) if subject else None
    return does[0].strip() if does and not SOMEBODY_ELSE.search(does[0]) and "（" not in does[0] else None


# --- language

LETTERS = {
    "zh": re.compile("[㐀-䶿一-鿿]"),
    "ja": re.compile("[ぁ-ゖァ-ヺｦ-ﾝ]"),
    "en": re.compile("[A-Za-z]"),
    "ko": re.compile("[가-힣]"),
    "other": re.compile("[Ͱ-Ͽа-яА-Я\u0590-\u0fff]"),
}
SAMPLED = 5000  # lines: enough to tell a language by
HIRAGANA = re.compile("[ぁ-ゖ]")
KATAKANA = re.compile("[ァ-ヺｦ-ﾝ]")
FOREIGN_TO_CHINESE = re.compile("[ぁ-ゖァ-ヺｦ-ﾝ가-힣]|[A-Za-z]{2}")
FOREIGN_TO_JAPANESE = re.compile("[가-힣]|[A-Za-z]{2}")
FOREIGN_TO_ENGLISH = re.compile(f"[{HAN}{KANA}가-힣]")


def drop_foreign(spots: list[Spot], texts: Texts, params: DenoiseParams) -> Texts:
    """Lines in another language than the script's own; in a script of a language we do not know, none."""
    foreign = FOREIGN.get(script_language(spots, params))
    return texts if foreign is None else [None if text and foreign(text) else text for text in texts]


def to_simplified(spots: list[Spot], texts: Texts, params: DenoiseParams) -> Texts:
    """Traditional characters to Simplified ones, in a Chinese script."""
    if script_language(spots, params) != "zh":
        return texts
    convert, traditional = OpenCC("t2s").convert, traditional_characters()
    return [
        text if text is None or traditional.keys().isdisjoint(map(ord, text)) else convert(text).translate(traditional)
        for text in texts
    ]


@cache
def traditional_characters() -> dict[int, str]:
    """What only Traditional writing has, and its Simplified form: the line is looked at first because OpenCC's phrases
    also rewrite Simplified text, and the wrong way round at that (结束 to 結束, 1.5.0)."""
    convert = OpenCC("t2s").convert
    simple = ((code, convert(chr(code))) for code in range(0x3400, 0xA000) if not in_gb2312(chr(code)))
    return {code: written for code, written in simple if written != chr(code)}


def in_gb2312(char: str) -> bool:
    """Whether the standard of Simplified writing has a character."""
    try:
        return bool(char.encode("gb2312"))
    except UnicodeEncodeError:
        return False


def script_language(spots: list[Spot], params: DenoiseParams) -> str:
    """`denoise.language`, or what the letters of some thousand raw lines say."""
    some = spots[:: len(spots) // SAMPLED + 1]
    return language(spot.piece.text for spot in some) if params.language == "auto" else params.language


def language(texts: Iterable[str]) -> str:
    """zh, ja, en or another: a quarter of kana makes it Japanese; else most letters, a Chinese one counting thrice."""
    counts = letters("".join(texts))
    if counts["ja"] > 0.25 * (counts["ja"] + counts["zh"]) and counts["ja"] + counts["zh"] > counts["en"] / 3:
        return "ja"
    return max(counts, key=lambda name: counts[name] * (3 if name == "zh" else 1))


def letters(text: str) -> dict[str, int]:
    """How many letters of each kind."""
    return {name: len(pattern.findall(text)) for name, pattern in LETTERS.items()}


def foreign_to_chinese(text: str) -> bool:
    """A Japanese, Korean or English sentence; not a name in kana (ｱﾄﾘ) or Latin letters (A-TR-1)."""
    if not FOREIGN_TO_CHINESE.search(text):
        return False
    count = letters(text)
    hiragana, katakana, total = len(HIRAGANA.findall(text)), len(KATAKANA.findall(text)), sum(count.values())
    japanese = (hiragana >= 2 and hiragana + katakana >= 0.25 * total) or (katakana >= 6 and 2 * katakana > total)
    return japanese or count["ko"] >= 2 or (count["en"] >= 8 and not count["zh"])


def foreign_to_japanese(text: str) -> bool:
    """Korean, or an English sentence; kanji alone are Japanese enough."""
    if not FOREIGN_TO_JAPANESE.search(text):
        return False
    count = letters(text)
    return count["ko"] >= 2 or (count["en"] >= 12 and not count["ja"] and not count["zh"])


def foreign_to_english(text: str) -> bool:
    """More East Asian letters than Latin ones."""
    if not FOREIGN_TO_ENGLISH.search(text):
        return False
    count = letters(text)
    return count["zh"] + count["ja"] + count["ko"] > count["en"]


# --- swearing


def drop_strong_swearing(spots: list[Spot], texts: Texts, params: DenoiseParams) -> Texts:
    """Lines with a word of the list's strong tier that `denoise.swear_allow` does not take off it."""
    return _drop_swearing(texts, "strong", params)


def drop_mild_swearing(spots: list[Spot], texts: Texts, params: DenoiseParams) -> Texts:
    """The same for the mild tier: 混蛋, 滚开."""
    return _drop_swearing(texts, "mild", params)


def _drop_swearing(texts: Texts, tier: str, params: DenoiseParams) -> Texts:
    whole, ends = "\n".join(text or "" for text in texts), list(accumulate(len(text or "") + 1 for text in texts))
    swearing = {bisect(ends, place) for place in swear_words(whole, tier, frozenset(params.swear_allow))}
    return [None if place in swearing else text for place, text in enumerate(texts)] if swearing else texts


def swear_words(text: str, tier: str, allow: frozenset[str] = frozenset()) -> list[int]:
    """Where the words of one tier of stages/swears.yaml end; of words that overlap the first and longest counts, so
    that one that merely contains a swear word (去死角) is passed over."""
    words = YAML(typ="safe", pure=True).load(SWEARS.read_text(encoding="utf-8"))
    swears = {word: True for word in words[tier] if word.strip("|") not in allow}
    finder = ahocorasick.Automaton()
    for word, is_swear in {**swears, **dict.fromkeys(words["innocent"], False)}.items():
        bare = word.strip("|")
        for written in (bare, bare.capitalize(), bare.upper()):
            finder.add_word(written, (word, is_swear))
    finder.make_automaton()
    hits = finder.iter_long(text)
    return [end for end, (word, is_swear) in hits if is_swear and stands_alone(word, text, end + 1)]


def stands_alone(word: str, text: str, end: int) -> bool:
    """Whether no letter touches a word where the list has a `|`; a Latin word must be a whole one."""
    latin, start = word.isascii(), end - len(word.strip("|"))
    is_letter = LATIN.match if latin else str.isalpha
    before = (latin or word[0] == "|") and is_letter(text[max(0, start - 1) : start])
    return not before and not ((latin or word[-1] == "|") and is_letter(text[end : end + 1]))


# --- duplicates

SHORT = 8  # characters: shorter lines repeat by nature, and dropping them would tear dialogues apart
MARKS = re.compile(r"[\W_]+")


def drop_duplicate_scenes(spots: list[Spot], texts: Texts, params: DenoiseParams) -> Texts:
    """A scene printed again on a second route: only the first of its group stays."""
    dialogues = {spot.dialogue.id: spot.dialogue for spot in spots}
    again = {name for name, dialogue in dialogues.items() if not is_first(dialogue)}
    return [None if spot.dialogue.id in again else text for spot, text in zip(spots, texts, strict=True)]


def is_first(dialogue: Dialogue) -> bool:
    """Whether a dialogue's scene gave its group the name."""
    return dialogue.group == dialogue.scene_id


def drop_duplicate_dialogues(spots: list[Spot], texts: Texts, params: DenoiseParams) -> Texts:
    """A dialogue that said nearly the same as an earlier one, in whatever scene, before any rule touched it."""
    said: dict[str, list[str]] = {}
    for spot in spots:
        said.setdefault(spot.dialogue.id, []).append(spot.piece.text)
    keys = [_long("".join(lines)) for lines in said.values()]
    groups = near_duplicate_groups(keys, params.near_duplicate)
    kept = {name for index, (name, group) in enumerate(zip(said, groups, strict=True)) if group == index}
    return [text if spot.dialogue.id in kept else None for spot, text in zip(spots, texts, strict=True)]


def drop_duplicate_lines(spots: list[Spot], texts: Texts, params: DenoiseParams) -> Texts:
    """A line of 8 characters or more that the same speaker said before, to the letter."""
    seen: set[tuple[str, str]] = set()
    kept = list(texts)
    for place, (spot, text) in enumerate(zip(spots, texts, strict=True)):
        if text is not None and len(text) >= SHORT:
            if (spot.speaker, text) in seen:
                kept[place] = None
            seen.add((spot.speaker, text))
    return kept


def drop_near_duplicate_lines(spots: list[Spot], texts: Texts, params: DenoiseParams) -> Texts:
    """The same for lines that are nearly equal: their 3-grams agree as much as `denoise.near_duplicate` says."""
    names = {spot.speaker: spot.speaker.replace(" ", "") for spot in spots}  # with spaces it would be compared by words
    keys = [
        f"{names[spot.speaker]}{key}" if (key := _long(text)) else "" for spot, text in zip(spots, texts, strict=True)
    ]
    groups = near_duplicate_groups(keys, params.near_duplicate)
    return [text if group == index else None for index, (text, group) in enumerate(zip(texts, groups, strict=True))]


def comparison_key(text: str) -> str:
    """What a line says apart from width and marks; never shown, for NFKC damages text."""
    return MARKS.sub("", unicodedata.normalize("NFKC", text))


def _long(text: str | None) -> str:
    key = comparison_key(text) if text and len(text) >= SHORT else ""
    return key if len(key) >= SHORT else ""


# --- the tables

FOREIGN: dict[str, Callable[[str], bool]] = {
    "zh": foreign_to_chinese,
    "ja": foreign_to_japanese,
    "en": foreign_to_english,
}

FILLERS: dict[str, ScriptRule] = {
    "drop": drop_fillers,
    "collapse": collapse_fillers,
    "describe": describe_fillers,
}

SCRIPT_RULES: dict[str, ScriptRule] = {
    rule.__name__: rule
    for rule in (
        fillers,
        drop_fillers,
        collapse_fillers,
        describe_fillers,
        drop_foreign,
        to_simplified,
        drop_strong_swearing,
        drop_mild_swearing,
        drop_duplicate_scenes,
        drop_duplicate_dialogues,
        drop_duplicate_lines,
        drop_near_duplicate_lines,
    )
}
