"""Lines of two speakers in, a system prompt out: for a work that brings no persona of its own."""

import math
from collections import Counter

import regex

TELLING = 5
LENGTHS = range(6, 41)
VARIABLE = regex.compile(r"\{[^{}\n]+\}")  # what a game fills in, {player_name}
TEMPLATES = {
    "zh": "你是{name}，说话始终用{name}自己的口吻，不跳出角色。和你说话的人叫{{user}}。你说过这样的话：{quotes}",
    "ja": "あなたは{name}です。いつも{name}の口調で話してください。話し相手は{{user}}です。こう話します：{quotes}",
    "en": "You are {name}. Always speak as {name} would. You are talking to {{user}}. You talk like this: {quotes}",
}


def make_persona(character: str, hers: list[str], his: list[str]) -> str:
    """A prompt in the script's language that names the character and quotes her most telling lines."""
    quotes = "".join(f"「{line}」" for line in telling_lines(hers, his))
    return TEMPLATES[language("".join(hers))].format(name=character, quotes=quotes)


def language(text: str) -> str:
    """zh, ja or en: kana decides for Japanese, else whichever of Han and Latin letters prevails."""
    kana, han, latin = (len(regex.findall(rf"\p{{{script}}}", text)) for script in ("Hiragana", "Han", "Latin"))
    if kana > 0.1 * (kana + han + latin):
        return "ja"
    return "zh" if han >= latin / 3 else "en"


def telling_lines(hers: list[str], his: list[str]) -> list[str]:
    """The lines of middle length whose character bigrams are most hers: the mean log-odds against his."""
    ours, theirs = (Counter(gram for line in lines for gram in bigrams(line)) for lines in (hers, his))
    vocabulary = len(ours | theirs)
    size_ours, size_theirs = ours.total() + vocabulary, theirs.total() + vocabulary

    def odds(line: str) -> float:
        grams = bigrams(line)
        return sum(math.log((ours[g] + 1) / size_ours) - math.log((theirs[g] + 1) / size_theirs) for g in grams) / len(
            grams
        )

    candidates = sorted({line for line in hers if len(line) in LENGTHS and not VARIABLE.search(line)})
    return sorted(candidates, key=lambda line: (-odds(line), line))[:TELLING]


def bigrams(line: str) -> list[str]:
    """The character bigrams of a line of two characters or more."""
    return [line[i : i + 2] for i in range(len(line) - 1)]
