"""One line of a script in, the cleaned line or None out: the rules that need nothing but the line.

None drops the line. RULES at the foot is the growing point: add a function there and a case in tests/cases/denoise/.
Every rule is its own second application: rule(rule(text)) == rule(text). Where a plain `in` test can tell that a line
is none of a rule's business, it stands before the pattern: most lines are clean. A rule that has nothing to do with
letters and common marks stands in REPAIRS.
"""

import re
from collections.abc import Callable

import ftfy
import regex

Rule = Callable[[str], str | None]

HAN = "㐀-䶿一-鿿豈-﫿々〇"
KANA = "ぁ-ゖァ-ヺーｦ-ﾝ"
CJK = re.compile(rf"[{HAN}{KANA}]")
LATIN = re.compile("[A-Za-z]")

MOJIBAKE_SIGNS = frozenset("ÃÂâãäåæçèéïð")
LOST = ("\ufffd", "锟斤拷")
INVISIBLE = re.compile("[\u200b\u2060\ufeff\u00ad]")
ENGINE_TAGS = "a|alpha|alt|art|b|color|cps|fast|font|i|image|k|nw|outlinecolor|p|plain|rb|rt|s|size|space|u|vspace|w"
TAG = re.compile(
    rf"\{{(?:/(?:{ENGINE_TAGS})|(?:{ENGINE_TAGS})=[^{{}}]*|nw|fast)\}}|\{{({ENGINE_TAGS})\}}(?=(?s:.*)\{{/\1\}})"
    r"|(?<=[，。！？…—,.!?])\{[wp]\}|\{[wp]\}\s*$|\[(?:r|l|p|cm|er|lr|plc|ruby [^\[\]]*)\]"
    r"|<r[tp]>[^<>]*</r[tp]>|</?(?:b|big|br|center|color|em|font|i|rb|ruby|s|size|small|span|strong|u)"
    r"(?:=[^<>]*|\s+[\w-]+=[^<>]*|\s*/)?>",
    re.IGNORECASE,
)
NOTE = re.compile(
    r"[（(\[【]\s*(?:(?:原文|校对|汉化)(?![^）)\]】]*吗[？?])|译者?注"
    r"|译者|[译訳注][：:]|校注|编者注|訳者?注|訳者|TN\s?[:：]|T/N|T\.N\.|Translat(?:or|ion)\b)"
    r"[^（()）\[\]【】]*[）)\]】]|※\s*(?:译|訳)者?注.*$",
    re.IGNORECASE,
)
DIRECTION = re.compile(
    r"（[^（）]{1,30}）|(?<![A-Za-z0-9])\([^()]{1,30}\)|(?<![\w*])\*[^*]{1,30}\*(?![\w*])"
    r"|(?<![A-Za-z0-9])\[[^\[\]]{1,30}\]"
)
DOTS = re.compile(r"(?<![…．。·・.])(?!……[^…．。·・.])[…．。·・.]{2,}")
DASHES = re.compile(r"-{2,}")
SMILE = r"-?(?:\)|[DP](?:\s|$)|\($)"  # what makes a mark the eyes of :), ;-) or :D
HALF_MARK = re.compile(rf"(?<=[{HAN}{KANA}」』])(?:[,?!]|[;:](?!{SMILE}))+|[,?!;:]+(?=[{HAN}{KANA}])")
FULL_MARK = str.maketrans(",?!;:", "，？！；：")
THRICE = re.compile(r"(.)\1\1")
REPEATS = re.compile(
    r"([嗯唔呃额啊哦噢喔诶欸哎唉呜哼嘛呀哇咦哟うんあえおはぁぅー])\1{2,}|([哈嘻嘿呵笑wW])\2{3,}"
    r"|([！？!?～~♪♡♥])\3{2,}|([aehmouAEHMOU])\4{3,}"
)
STUTTER = re.compile(rf"(?:^|(?<=[，。！？…「『“（\s]))([{HAN}ぁ-ゖァ-ヺ])(?:[、…]+\1)*[、…]+(?=\1[{HAN}{KANA}])")
LATIN_STUTTER = re.compile(r"(?<![\w-])([A-Za-z]|[cstw]h)(?:-\1)*-(\1)(?=[a-z' ,.])", re.IGNORECASE)

FILLER_WORD = (
    r"(?:[哎唉啊诶哇哦][呀哟哦]|嗯哼|[嗯唔呃额啊哦噢喔诶欸哎唉呜哼嘛呀哇咦哟]|(?<!\w)(?:(?:u+h+|m+)-?h*(?:u+h+|m+)"
    r"|う(?![うー]*うん)[ぅうー]*ん+っ*|え[えぇー]*っ?とー*|あの[うー]+|ん[んー]*っ*|[あうわ]+[ぁぅっー]*|え+[ぇっー]*|お+[ぉっー]*"
    r"|(?:うん+)+|は[ぁあー]+|ふ[ぅうー]*ん|へ[ぇえー]+|u+m+|u+h+|e+r+m*|h+m+|a+h+|o+h+|e+h+|h+uh|u+gh+)(?!\w))"
)
FILLER = regex.compile(FILLER_WORD, regex.IGNORECASE)  # by the same \w as FILLERS_ALONE: to re, ① is one
FILLERS_ALONE = regex.compile(rf"\W*{FILLER_WORD}(?:\W|{FILLER_WORD})*+", regex.IGNORECASE)

LAST_MARKS = re.compile(r"[！？!?。～♪]{0,2}$|^\.$")

LONGEST, LONGEST_LATIN = 200, 600  # characters: a monologue, or a paragraph that was badly cut
SHORTEST = 2  # letters or digits


def fix_mojibake(text: str) -> str | None:
    """UTF-8 once read as Latin-1; only the encoding is repaired, no other character changes."""
    return text if MOJIBAKE_SIGNS.isdisjoint(text) else ftfy.fix_encoding(text)


def drop_broken(text: str) -> str | None:
    """Characters that were lost before the text came to us: U+FFFD and what it turns into."""
    return None if any(sign in text for sign in LOST) else text


def strip_tags(text: str) -> str | None:
    """Markup that the reader's format does not define: {i}…{/i}, <br>, [r]; {name} is a variable and stays, as do
    an {i} that nothing closes and a {p} amid words: `[i]` and `[p]` of a Ren'Py script come as these."""
    return _cut_out(TAG, text) if "{" in text or "<" in text or "[" in text else text


def strip_notes(text: str) -> str | None:
    """What fans and translators wrote beside the line: （原文中……）, [TN: …]."""
    return _cut_out(NOTE, text) if "（" in text or "(" in text or "[" in text or "【" in text or "※" in text else text


def strip_directions(text: str) -> str | None:
    """A short aside in brackets, （叹气）, [exits] or *sighs*; a line that is one whole aside is dropped."""
    return _cut_out(DIRECTION, text) if "（" in text or "(" in text or "*" in text or "[" in text else text


def squash_ellipses(text: str) -> str | None:
    """…………, ·······, ．．．, 。。。 become ……, which stays as it is; in a Latin line ..... becomes ...."""
    return DOTS.sub(_pause, text)


def fix_dashes(text: str) -> str | None:
    """-- and ---- become the Chinese dash, in a Chinese or Japanese line."""
    return DASHES.sub("——", text) if "--" in text and CJK.search(text) else text


def fix_punctuation(text: str) -> str | None:
    """A half-width mark beside a Chinese or Japanese character becomes full-width; letters, digits and :) stay."""
    return HALF_MARK.sub(lambda mark: mark[0].translate(FULL_MARK), text)


def squash_repeats(text: str) -> str | None:
    """嗯嗯嗯嗯 to 嗯嗯, 哈哈哈哈哈 to 哈哈哈, ！！！！ to ！！, Ahhhhh to Ahh."""
    return REPEATS.sub(lambda run: run[0][: 3 if run[2] else 2], text) if THRICE.search(text) else text


def unstutter(text: str) -> str | None:
    """我、我不知道 to 我不知道, W-what to What; at the head of a clause and of a word: 仿生人、人造人 is a list."""
    if "、" in text or "…" in text:
        text = STUTTER.sub("", text)
    if "-" in text:
        text = LATIN_STUTTER.sub(lambda stutter: stutter[1] if stutter[1][0].isupper() else stutter[2], text)
    return text


def drop_marks_only(text: str) -> str | None:
    """A line without a single letter or digit: ……, ！？."""
    return text if text[:1].isalnum() or any(map(str.isalnum, text)) else None


def drop_too_short(text: str) -> str | None:
    """Fewer than two letters or digits: 好。, 嗯？."""
    return text if sum(map(str.isalnum, text)) >= SHORTEST else None


def drop_too_long(text: str) -> str | None:
    """Over 200 characters; over 600 in a Latin line, whose words are longer."""
    if len(text) <= LONGEST:
        return text
    return text if len(text) <= LONGEST_LATIN and not CJK.search(text) else None


def strip_spaces(text: str) -> str | None:
    """Spaces at both ends and what nobody can see; a line with nothing left is dropped."""
    return INVISIBLE.sub("", text).strip() or None


def is_filler(text: str) -> bool:
    """Nothing but fillers and marks: 嗯……, 啊？, Hmm..., うん; 嗯……（低下头） says more."""
    return FILLERS_ALONE.fullmatch(text) is not None and "（" not in text and "(" not in text


def collapse_filler(text: str) -> str:
    """A line of fillers as its first one with the pauses around it: 嗯嗯啊······ to 嗯……, ……嗯。 as it is."""
    first = FILLER.search(text)
    before, after = text[: first.start()], text[first.end() :]
    word, ends = squash_repeats(first[0]), LAST_MARKS.search(after)[0]
    return fix_punctuation(f"{_kind_of_pause(before, word)}{word}{_kind_of_pause(after, word)}{ends}")


def _kind_of_pause(marks: str, word: str) -> str:
    if not CJK.search(word) and "..." in marks:
        return "..."
    if any(dots in marks for dots in ("…", "··", "・・", "。。", "．．", "..")):
        return "……"
    return "——" if "—" in marks else ""


def _pause(run: re.Match[str]) -> str:
    """What a run of dots becomes: …… in a Chinese or Japanese line, ... in a Latin one; a full stop beside … stays."""
    dots, latin = run[0], LATIN.search(run.string) and not CJK.search(run.string)
    if latin:
        return dots if len(dots) <= 3 else "……" if set(dots) == {"…"} else "..."
    begin = "。" if dots[0] == "。" and dots[1] == "…" else ""
    stop = "。" if dots[-1] == "。" and "…" in dots else ""
    body = dots.removeprefix(begin).removesuffix(stop)
    return dots if body in ("…", "……", "..") else f"{begin}……{stop}"


def _cut_out(pattern: re.Pattern[str], text: str) -> str | None:
    """The text without the matches and without the doubled space they leave; None if nothing is left."""
    cut = _settled(pattern, text)
    return text if cut == text else re.sub(" {2,}", " ", cut or "").strip() or None


def _settled(pattern: re.Pattern[str], text: str) -> str | None:
    """The text without the matches, also those that appear when an inner one is gone."""
    while (cut := pattern.sub("", text)) != text:
        text = cut
    return text or None


# Rules that leave every PLAIN line as it is: most lines are, and need not be shown to them.
PLAIN = re.compile(rf"[{HAN}{KANA}，！？、]*(?:。[{HAN}{KANA}，！？、]+)*。?")
REPAIRS: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        fix_mojibake,
        drop_broken,
        strip_tags,
        strip_notes,
        strip_directions,
        squash_ellipses,
        fix_dashes,
        fix_punctuation,
        strip_spaces,
    )
}

RULES: dict[str, Rule] = REPAIRS | {
    rule.__name__: rule for rule in (squash_repeats, unstutter, drop_marks_only, drop_too_short, drop_too_long)
}
