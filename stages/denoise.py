"""processed/dialogues.jsonl -> processed/clean.jsonl, reports/denoise.json and reports/dropped.jsonl.

The named strategy's rules run one after the other over every line of train and validation; each line a rule drops
or changes leaves a receipt. The tables are the growing point: a rule is `str -> str | None`, None drops the line.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import ftfy
import regex

from stages.cli import run
from stages.params import leads, load_params
from stages.persona import language
from stages.records import Dialogue, InputError, Piece, Turn, read_dialogues, write_json, write_jsonl

DIALOGUES = Path("processed/dialogues.jsonl")
CLEAN = Path("processed/clean.jsonl")
REPORT = Path("reports/denoise.json")
DROPPED = Path("reports/dropped.jsonl")

Rule = Callable[[str], str | None]


@dataclass(frozen=True)
class DenoiseParams:
    """The `denoise` section of params.yaml."""

    strategy: str
    strategies: dict
    control: bool
    holes: str
    fillers: str
    language: str
    swear_allow: list
    seed: int


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a line stands, and the narration nearest to it."""

    dialogue: Dialogue
    turn: int
    piece: Piece
    narration: str | None

    @property
    def speaker(self) -> str:
        return self.dialogue.turns[self.turn].speaker


Texts = list[str | None]
CorpusRule = Callable[[list[Spot], Texts, DenoiseParams], Texts]


# --- line rules: what one line alone decides

MOJIBAKE_SIGNS = frozenset("ÃÂâãäåæçèéïð")
TAG = regex.compile(r"\{/?[a-z]+(?:=[^{}]*)?\}|</?[a-zA-Z][^<>]*>|\[(?:r|l|p|cm|er|lr|plc)\]")
NOTE = regex.compile(r"[（(\[【](?:原文|译注|译者注|校注|注[：:]|訳注|TN[:：]|T/N|译者)[^（()）\]】]*[）)\]】]")
ELLIPSIS = regex.compile(r"…{3,}|[·・]{2,}|[．。]{2,}|(?<=[\p{Han}\p{Kana}])\.{3,}|\.{4,}|…+(?:[.．。·・]+…*)+")
DASHES = regex.compile(r"(?<![-\w])-{2,}(?![-\w])|(?<=\p{Han})-{2,}|-{2,}(?=\p{Han})")
HALF_MARK = regex.compile(r"(?<=[\p{Han}\p{Kana}”」』])[,?!;:]+|[,?!;:]+(?=[\p{Han}\p{Kana}])")
FULL_MARK = str.maketrans(",?!;:", "，？！；：")
STUTTER = regex.compile(r"(?:^|(?<=[，。！？…「“\s]))([\p{Han}\p{Kana}])(?:[、，]\1?|…+)+(?=\1)")
FILLER = "嗯唔呃额啊哦噢喔诶欸哎唉呜哼嘛呀哇うんあえおはぁぅー"
REPEATED_FILLER = regex.compile(rf"([{FILLER}])\1{{2,}}")
REPEATED_LAUGH = regex.compile(r"([哈嘻嘿呵笑wｗ])\1{3,}")
REPEATED_MARK = regex.compile(r"([！？!?～~♪])\1{2,}")
FILLER_ONLY = regex.compile(rf"[{FILLER}\p{{P}}\p{{S}}\s]*[{FILLER}][{FILLER}\p{{P}}\p{{S}}\s]*")
MARKS_ONLY = regex.compile(r"[\p{P}\p{S}\s]*")
DIRECTION = regex.compile(r"[（(*][^（()）*]{1,30}[）)*]")


def fix_mojibake(text: str) -> str | None:
    """UTF-8 once read as Latin-1; only the encoding is repaired, no other character changes."""
    return ftfy.fix_encoding(text) if not MOJIBAKE_SIGNS.isdisjoint(text) else text


def strip_tags(text: str) -> str | None:
    """Markup that the reader's format does not define: {i}…{/i}, <br>, [r]."""
    return TAG.sub("", text) or None if "{" in text or "<" in text or "[" in text else text


def strip_notes(text: str) -> str | None:
    """What fans and translators wrote beside the line: （原文中……）, [TN: …]."""
    return NOTE.sub("", text).strip() or None if "（" in text or "(" in text or "[" in text or "【" in text else text


def strip_directions(text: str) -> str | None:
    """A short aside in brackets, （叹气） or *sighs*; a line that is one whole aside is dropped."""
    return DIRECTION.sub("", text).strip() or None if "（" in text or "(" in text or "*" in text else text


def squash_ellipses(text: str) -> str | None:
    """…………, ·······, ．．．, 。。。 become ……, and …… stays as it is."""
    return ELLIPSIS.sub(
        lambda run: "..." if set(run[0]) == {"."} and run[0][0] == "." and run.start() == 0 else "……", text
    )


def fix_dashes(text: str) -> str | None:
    """-- and ---- become the Chinese dash."""
    return DASHES.sub("——", text) if "--" in text else text


def fix_punctuation(text: str) -> str | None:
    """A half-width mark beside a Chinese or Japanese character becomes full-width; letters and digits stay."""
    return HALF_MARK.sub(lambda mark: mark[0].translate(FULL_MARK), text)


def squash_repeats(text: str) -> str | None:
    """嗯嗯嗯嗯 to 嗯嗯, 哈哈哈哈哈 to 哈哈哈, ！！！！ to ！！."""
    text = REPEATED_FILLER.sub(r"\1\1", text)
    return REPEATED_MARK.sub(r"\1\1", REPEATED_LAUGH.sub(r"\1\1\1", text))


def unstutter(text: str) -> str | None:
    """我、我不知道 to 我不知道, at the head of a clause only: 仿生人、人造人 is a list."""
    return STUTTER.sub("", text) if "、" in text or "，" in text or "…" in text else text


def drop_marks_only(text: str) -> str | None:
    """A line without a single letter or character: ……, ！？."""
    return None if MARKS_ONLY.fullmatch(text) else text


def drop_empty(text: str) -> str | None:
    """Nothing left."""
    return text.strip() or None


def drop_too_long(text: str) -> str | None:
    """A monologue or a badly cut paragraph: over 200 characters."""
    return text if len(text) <= 200 else None


# --- corpus rules: what needs the neighbours, the language or the whole script


def fillers(spots: list[Spot], texts: Texts, params: DenoiseParams) -> Texts:
    """Lines of fillers alone (嗯……): dropped, collapsed or described, as `denoise.fillers` says."""
    return FILLERS[params.fillers](spots, texts, params)


def drop_fillers(spots: list[Spot], texts: Texts, params: DenoiseParams) -> Texts:
    """A bare 嗯…… goes."""
    return [None if text and FILLER_ONLY.fullmatch(text) else text for text in texts]


def collapse_fillers(spots: list[Spot], texts: Texts, params: DenoiseParams) -> Texts:
    """嗯嗯啊······ becomes 嗯……: its first filler and one ellipsis."""
    return [_collapsed(text) if text and FILLER_ONLY.fullmatch(text) else text for text in texts]


def describe_fillers(spots: list[Spot], texts: Texts, params: DenoiseParams) -> Texts:
    """A bare 嗯…… takes the narration beside it as a stage direction, 嗯……（低下头）; without any it goes."""
    return [
        _described(text, spot.narration) if text and FILLER_ONLY.fullmatch(text) else text
        for spot, text in zip(spots, texts, strict=True)
    ]


def _collapsed(text: str) -> str:
    if "（" in text:
        return text
    filler = next(char for char in text if char in FILLER)
    return f"{filler}……" if regex.search(r"[…·.。．]", text) else f"{filler}。"


def _described(text: str, narration: str | None) -> str | None:
    return f"{_collapsed(text)}（{narration.rstrip('。')}）" if narration and len(narration) <= 24 else None


def drop_foreign(spots: list[Spot], texts: Texts, params: DenoiseParams) -> Texts:
    """Lines in another language than the script's own."""
    script = language("".join(text or "" for text in texts)) if params.language == "auto" else params.language
    return [text if text and not FOREIGN[script](text) else None for text in texts]


def drop_duplicate_scenes(spots: list[Spot], texts: Texts, params: DenoiseParams) -> Texts:
    """A scene printed again on a second route: only the first of its group stays."""
    kept = [spot.dialogue.group == spot.dialogue.id.rsplit(".", 1)[0] for spot in spots]
    return [text if keep else None for text, keep in zip(texts, kept, strict=True)]


def _count(text: str, *scripts: str) -> int:
    return sum(len(regex.findall(rf"\p{{{script}}}", text)) for script in scripts)


# --- the tables

FOREIGN: dict[str, Callable[[str], bool]] = {
    "zh": lambda text: (
        _count(text, "Hiragana", "Katakana", "Hangul") >= 2 or (_count(text, "Latin") >= 8 and not _count(text, "Han"))
    ),
    "ja": lambda text: (
        _count(text, "Hangul") >= 2 or (_count(text, "Latin") >= 12 and not _count(text, "Han", "Hiragana", "Katakana"))
    ),
    "en": lambda text: _count(text, "Han", "Hiragana", "Katakana", "Hangul") > _count(text, "Latin"),
}

RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        fix_mojibake,
        strip_tags,
        strip_notes,
        strip_directions,
        squash_ellipses,
        fix_dashes,
        fix_punctuation,
        squash_repeats,
        unstutter,
        drop_marks_only,
        drop_too_long,
        drop_empty,
    )
}

FILLERS: dict[str, CorpusRule] = {
    "drop": drop_fillers,
    "collapse": collapse_fillers,
    "describe": describe_fillers,
}

CORPUS_RULES: dict[str, CorpusRule] = {
    rule.__name__: rule for rule in (fillers, describe_fillers, drop_foreign, drop_duplicate_scenes)
}


# --- the stage


def denoise(
    dialogues: list[Dialogue], params: DenoiseParams, character: str
) -> tuple[list[Dialogue], list[dict[str, Any]], dict[str, Any]]:
    """Clean dialogues of train and validation, the receipts, and the counts."""
    spots = [spot for dialogue in dialogues if dialogue.split != "test" for spot in spots_of(dialogue)]
    texts: Texts = [spot.piece.text for spot in spots]
    receipts, counts = [], {}
    for name in params.strategies[params.strategy]:
        after = apply(name, spots, texts, params)
        changed = [i for i, (old, new) in enumerate(zip(texts, after, strict=True)) if old != new]
        receipts += [receipt(name, spots[i], texts[i], after[i]) for i in changed]
        counts[name] = count(texts, after)
        texts = after
    if params.control:
        texts = drop_at_random(spots, texts, params)
    clean = list(rebuild(spots, texts, params, character))
    return clean, receipts, {"rules": counts, **totals(spots, texts, clean, character)}


def spots_of(dialogue: Dialogue) -> Iterator[Spot]:
    """Every line of a dialogue with the narration right before or right after it."""
    narration = {piece.line: piece.text for turn in dialogue.turns for piece in turn.context}
    for index, turn in enumerate(dialogue.turns):
        for piece in turn.lines:
            near = narration.get(piece.line - 1) or narration.get(piece.line + 1)
            yield Spot(dialogue, index, piece, near)


def apply(name: str, spots: list[Spot], texts: Texts, params: DenoiseParams) -> Texts:
    """One rule over all lines that are still there."""
    if name in RULES:
        rule = RULES[name]
        return [text if text is None else rule(text) for text in texts]
    return CORPUS_RULES[name](spots, texts, params)


def drop_at_random(spots: list[Spot], texts: Texts, params: DenoiseParams) -> Texts:
    """The control: the raw lines, and of each speaker as many dropped by lot as the strategy dropped by rule."""
    rng = random.Random(params.seed)
    kept: Texts = [spot.piece.text for spot in spots]
    for speaker in sorted({spot.speaker for spot in spots}):
        own = [i for i, spot in enumerate(spots) if spot.speaker == speaker]
        for i in rng.sample(own, sum(texts[i] is None for i in own)):
            kept[i] = None
    return kept


def rebuild(spots: list[Spot], texts: Texts, params: DenoiseParams, character: str) -> Iterator[Dialogue]:
    """The dialogues with their new lines; what a wholly dropped turn leaves is handled as `denoise.holes` says."""
    pairs = zip(spots, texts, strict=True)
    for _, of_dialogue in groupby(pairs, key=lambda pair: pair[0].dialogue.id):
        of_dialogue = list(of_dialogue)
        dialogue = of_dialogue[0][0].dialogue
        turns = [
            (dialogue.turns[index], [replace(spot.piece, text=text) for spot, text in group if text is not None])
            for index, group in groupby(of_dialogue, key=lambda pair: pair[0].turn)
        ]
        for number, part in enumerate(HOLES[params.holes](turns, character)):
            trimmed = trim(part, character)
            if any(turn.learn for turn in trimmed):
                name = f"{dialogue.id}.{number}" if number else dialogue.id
                yield replace(dialogue, id=name, turns=tuple(trimmed))


Left = list[tuple[Turn, list[Piece]]]


def fill_by_joining(turns: Left, character: str) -> Iterator[list[Turn]]:
    """drop: the turns around a hole join."""
    joined: list[Turn] = []
    for turn, lines in turns:
        if lines and joined and joined[-1].speaker == turn.speaker:
            last = joined[-1]
            joined[-1] = replace(last, lines=(*last.lines, *lines))
        elif lines:
            joined.append(replace(turn, lines=tuple(lines), learn=turn.speaker == character))
    yield joined


def fill_by_masking(turns: Left, character: str) -> Iterator[list[Turn]]:
    """mask: the turn stays as it was, context without loss."""
    yield [
        replace(turn, lines=tuple(lines) or turn.lines, learn=bool(lines) and turn.speaker == character)
        for turn, lines in turns
    ]


def fill_by_cutting(turns: Left, character: str) -> Iterator[list[Turn]]:
    """cut: the dialogue ends at the hole and another begins after it."""
    for whole, group in groupby(turns, key=lambda item: bool(item[1])):
        if whole:
            yield [replace(turn, lines=tuple(lines), learn=turn.speaker == character) for turn, lines in group]


HOLES: dict[str, Callable[[Left, str], Iterator[list[Turn]]]] = {
    "drop": fill_by_joining,
    "mask": fill_by_masking,
    "cut": fill_by_cutting,
}


def trim(turns: list[Turn], character: str) -> list[Turn]:
    """From the first turn of the partner to the last of the character."""
    start = next((i for i, turn in enumerate(turns) if turn.speaker != character), len(turns))
    end = max((i + 1 for i, turn in enumerate(turns) if turn.speaker == character), default=0)
    return turns[start:end]


def receipt(rule: str, spot: Spot, before: str | None, after: str | None) -> dict[str, Any]:
    """What a rule did to one line."""
    where = {"file": spot.dialogue.file, "line": spot.piece.line, "speaker": spot.speaker}
    return {"rule": rule, **where, "before": before, "after": after}


def count(before: Texts, after: Texts) -> dict[str, int]:
    """Lines and characters in and out of one rule."""
    return {
        "lines_in": sum(text is not None for text in before),
        "lines_out": sum(text is not None for text in after),
        "changed": sum(a != b for a, b in zip(before, after, strict=True) if b is not None),
        "characters_in": sum(len(text or "") for text in before),
        "characters_out": sum(len(text or "") for text in after),
    }


def totals(spots: list[Spot], texts: Texts, clean: list[Dialogue], character: str) -> dict[str, int]:
    """The stage as a whole: lines kept, and turns the character learns."""
    raw = {(spot.dialogue.id, spot.turn) for spot in spots if spot.speaker == character}
    return {
        "lines_in": len(spots),
        "lines_out": sum(text is not None for text in texts),
        "learned_turns_in": len(raw),
        "learned_turns_out": sum(turn.learn is True for dialogue in clean for turn in dialogue.turns),
    }


def check(params: DenoiseParams) -> None:
    """Words must be words we know, and every rule of the named strategy must be in a table."""
    for key, value, allowed in (
        ("strategy", params.strategy, params.strategies),
        ("holes", params.holes, HOLES),
        ("fillers", params.fillers, FILLERS),
        ("language", params.language, ("auto", *FOREIGN)),
    ):
        if value not in allowed:
            raise InputError(f"params.yaml: `denoise.{key}`: expected one of {', '.join(allowed)}; got {value!r}")
    for name in params.strategies[params.strategy]:
        if name not in RULES and name not in CORPUS_RULES:
            known = ", ".join((*RULES, *CORPUS_RULES))
            raise InputError(
                f"params.yaml: strategy {params.strategy!r} names no rule {name!r}\nhint: the rules are {known}"
            )


def main() -> None:
    params = load_params("denoise", DenoiseParams)
    check(params)
    clean, receipts, report = denoise(list(read_dialogues(DIALOGUES)), params, leads()[0])
    write_jsonl(CLEAN, clean)
    write_jsonl(DROPPED, receipts)
    write_json(REPORT, {"strategy": params.strategy, "control": params.control, **report})
    print(
        f"denoise: {params.strategy}: {report['lines_out']} of {report['lines_in']} lines kept, "
        f"{report['learned_turns_out']} of {report['learned_turns_in']} turns to learn"
    )


if __name__ == "__main__":
    run(main)
