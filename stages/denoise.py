"""processed/dialogues.jsonl -> processed/clean.jsonl, reports/denoise.json and reports/dropped.jsonl.

The named strategy's rules run one after the other over every line of train and validation; each line that a rule drops
or changes leaves a receipt. The rules stand in rules.py (one line alone) and script_rules.py (the whole script); what
they leave of a dialogue is put together here. Narration beside the dialogue is not touched.
"""

import gc
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import compress, groupby
from operator import is_not
from pathlib import Path
from typing import Any

from stages.cli import run
from stages.params import leads, load_params
from stages.records import Dialogue, InputError, Piece, Turn, read_dialogues, write_json, write_jsonl
from stages.rules import PLAIN, REPAIRS, RULES
from stages.script_rules import FILLERS, FOREIGN, SCRIPT_RULES, DenoiseParams, Spot, Texts

DIALOGUES = Path("processed/dialogues.jsonl")
CLEAN = Path("processed/clean.jsonl")
REPORT = Path("reports/denoise.json")
DROPPED = Path("reports/dropped.jsonl")

Receipt = dict[str, Any]


@dataclass
class Ledger:
    """What is left of the script while the rules run; `turns` holds the lines left of each of the character's turns."""

    lines: int
    characters: int
    learned_turns: int
    learned_characters: int
    turns: dict[tuple[str, int], int]

    def figures(self, suffix: str) -> dict[str, int]:
        """The figures under names that end in _in or _out."""
        names = ("lines", "characters", "learned_turns", "learned_characters")
        return {f"{name}_{suffix}": getattr(self, name) for name in names}

    def book(self, spot: Spot, before: str, after: str | None) -> None:
        """One line was changed, or dropped."""
        lost, dropped = len(before) - len(after or ""), after is None
        self.lines -= dropped
        self.characters -= lost
        if spot.hers:
            turn = spot.dialogue.id, spot.turn
            self.turns[turn] -= dropped
            self.learned_turns -= dropped and self.turns[turn] == 0
            self.learned_characters -= lost


def denoise(
    dialogues: Iterable[Dialogue], params: DenoiseParams, character: str
) -> tuple[list[Dialogue], list[Receipt], dict[str, Any]]:
    """Clean dialogues of train and validation, the receipts, and the counts; what is held out is not looked at."""
    spots = [spot for dialogue in dialogues if dialogue.split != "test" for spot in spots_of(dialogue, character)]
    raw: Texts = [spot.piece.text for spot in spots]
    ledger = open_ledger(spots, raw)
    start = ledger.figures("in")
    texts, receipts, rules = (control if params.control else run_rules)(spots, raw, params, ledger)
    clean = list(rebuild(spots, texts, params, character))
    last = holes(ledger, clean)
    report = {"rules": rules, "holes": last, **start, **ledger.figures("out")}
    return clean, receipts, {**report, **{key: last[key] for key in last if key.endswith("_out")}}


def spots_of(dialogue: Dialogue, character: str) -> Iterator[Spot]:
    """Every line of a dialogue with the narration right after and right before it."""
    narration = {piece.line: piece.text for turn in dialogue.turns for piece in turn.context}
    for index, turn in enumerate(dialogue.turns):
        for piece in turn.lines:
            beside = (narration.get(piece.line + 1), narration.get(piece.line - 1)) if narration else ()
            yield Spot(dialogue, index, piece, turn.speaker, turn.speaker == character, tuple(filter(None, beside)))


# --- the rules, one after the other


def run_rules(
    spots: list[Spot], texts: Texts, params: DenoiseParams, ledger: Ledger
) -> tuple[Texts, list[Receipt], dict[str, dict[str, int]]]:
    """The texts after all rules of the strategy, a receipt for every change, and the figures of each rule."""
    receipts, figures = [], {}
    odd = [i for i, text in enumerate(texts) if text is not None and not PLAIN.fullmatch(text)]
    for name in params.strategies[params.strategy]:
        after = apply(name, spots, texts, params, odd)
        touched = changed_places(texts, after, odd if name in REPAIRS else None)
        own, figures[name] = book_all(name, spots, texts, after, touched, ledger)
        receipts, texts = receipts + own, after
        odd = odd if name in REPAIRS else sorted({*odd, *touched})
    return texts, receipts, figures


def apply(name: str, spots: list[Spot], texts: Texts, params: DenoiseParams, odd: list[int]) -> Texts:
    """One rule over all lines that are still there; a line of which nothing is left is dropped."""
    if name in SCRIPT_RULES:
        return SCRIPT_RULES[name](spots, texts, params)
    rule = RULES[name]
    if name not in REPAIRS:
        return [text and (rule(text) or None) for text in texts]
    mended = texts.copy()
    for place in odd:
        text = texts[place]
        mended[place] = text and (rule(text) or None)
    return mended


def changed_places(before: Texts, after: Texts, among: list[int] | None = None) -> list[int]:
    """Where the texts differ; most are the same objects still."""
    others = compress(range(len(before)), map(is_not, before, after)) if among is None else among
    return [place for place in others if before[place] != after[place]]


def book_all(
    rule: str, spots: list[Spot], before: Texts, after: Texts, touched: list[int], ledger: Ledger
) -> tuple[list[Receipt], dict[str, int]]:
    """A receipt for each line that a rule touched, and the rule's figures; the ledger is brought up to date."""
    start, receipts = ledger.figures("in"), []
    for spot, old, new in ((spots[i], before[i], after[i]) for i in touched):
        ledger.book(spot, old, new)
        where = {"file": spot.dialogue.file, "line": spot.piece.line, "speaker": spot.speaker}
        receipts.append({"rule": rule, **where, "before": old, "after": new})
    changed = sum(after[i] is not None for i in touched)
    return receipts, {**start, **ledger.figures("out"), "dropped": len(touched) - changed, "changed": changed}


def open_ledger(spots: list[Spot], texts: list[str]) -> Ledger:
    """The figures of the raw script."""
    turns: dict[tuple[str, int], int] = {}
    learned = 0
    for spot, text in zip(spots, texts, strict=True):
        if spot.hers:
            turn = spot.dialogue.id, spot.turn
            turns[turn] = turns.get(turn, 0) + 1
            learned += len(text)
    return Ledger(len(texts), sum(map(len, texts)), len(turns), learned, turns)


# --- the control


def control(
    spots: list[Spot], raw: Texts, params: DenoiseParams, ledger: Ledger
) -> tuple[Texts, list[Receipt], dict[str, dict[str, int]]]:
    """The raw lines, of which as many of each speaker are dropped by lot as the strategy drops by rule."""
    cleaned, _, _ = run_rules(spots, raw, params, open_ledger(spots, raw))
    texts = drop_by_lot(spots, raw, cleaned, random.Random(params.seed))
    receipts, figures = book_all("control", spots, raw, texts, changed_places(raw, texts), ledger)
    return texts, receipts, {"control": figures}


def drop_by_lot(spots: list[Spot], raw: Texts, cleaned: Texts, rng: random.Random) -> Texts:
    """The raw lines without as many of each speaker as `cleaned` lacks."""
    left = list(raw)
    for speaker in sorted({spot.speaker for spot in spots}):
        own = [index for index, spot in enumerate(spots) if spot.speaker == speaker]
        for index in rng.sample(own, sum(cleaned[i] is None for i in own)):
            left[index] = None
    return left


# --- what is left, as dialogues


def rebuild(spots: list[Spot], texts: Texts, params: DenoiseParams, character: str) -> Iterator[Dialogue]:
    """The dialogues with their new lines; what a wholly dropped turn leaves is handled as `denoise.holes` says."""
    pairs = zip(spots, texts, strict=True)
    for _, of_dialogue in groupby(pairs, key=lambda pair: pair[0].dialogue.id):
        of_dialogue = list(of_dialogue)
        dialogue = of_dialogue[0][0].dialogue
        turns = [
            (dialogue.turns[index], [_with_text(spot.piece, text) for spot, text in group if text is not None])
            for index, group in groupby(of_dialogue, key=lambda pair: pair[0].turn)
        ]
        for number, part in enumerate(HOLES[params.holes](turns, character)):
            trimmed = trim(part, character)
            if any(turn.learn for turn in trimmed):
                name = f"{dialogue.id}.{number}" if number else dialogue.id
                yield replace(dialogue, id=name, turns=tuple(trimmed))


def _with_text(piece: Piece, text: str) -> Piece:
    return piece if piece.text == text else Piece(piece.line, piece.kind, text)


Left = list[tuple[Turn, list[Piece]]]


def fill_by_joining(turns: Left, character: str) -> Iterator[list[Turn]]:
    """drop: the turns around a hole join."""
    joined: list[Turn] = []
    for turn, lines in turns:
        if lines and joined and joined[-1].speaker == turn.speaker:
            last = joined[-1]
            joined[-1] = replace(last, lines=(*last.lines, *lines), context=(*last.context, *turn.context))
        elif lines:
            joined.append(Turn(turn.speaker, tuple(lines), turn.context, turn.speaker == character))
    yield joined


def fill_by_masking(turns: Left, character: str) -> Iterator[list[Turn]]:
    """mask: the turn stays as it was, context without loss."""
    yield [
        Turn(turn.speaker, tuple(lines) or turn.lines, turn.context, bool(lines) and turn.speaker == character)
        for turn, lines in turns
    ]


def fill_by_cutting(turns: Left, character: str) -> Iterator[list[Turn]]:
    """cut: the dialogue ends at the hole and another begins after it."""
    for whole, group in groupby(turns, key=lambda item: bool(item[1])):
        if whole:
            yield [Turn(turn.speaker, tuple(lines), turn.context, turn.speaker == character) for turn, lines in group]


HOLES: dict[str, Callable[[Left, str], Iterator[list[Turn]]]] = {
    "drop": fill_by_joining,
    "mask": fill_by_masking,
    "cut": fill_by_cutting,
}


def trim(turns: list[Turn], character: str) -> list[Turn]:
    """From the first turn of the partner to the last that the character learns."""
    start = next((i for i, turn in enumerate(turns) if turn.speaker != character), len(turns))
    end = max((i + 1 for i, turn in enumerate(turns) if turn.learn), default=0)
    return turns[start:end]


def holes(left: Ledger, clean: list[Dialogue]) -> dict[str, int]:
    """The turns that lines were left of, and those to learn in the end: joined ones count once, promptless ones not."""
    learned = [turn for dialogue in clean for turn in dialogue.turns if turn.learn]
    return {
        "learned_turns_in": left.learned_turns,
        "learned_turns_out": len(learned),
        "learned_characters_in": left.learned_characters,
        "learned_characters_out": sum(len(piece.text) for turn in learned for piece in turn.lines),
        "dialogues_out": len(clean),
    }


# --- the stage


def check(params: DenoiseParams) -> None:
    """Words must be words we know, and the named strategy a list of rules that are in a table, each once."""
    for key, value, allowed in (
        ("strategy", params.strategy, params.strategies),
        ("holes", params.holes, HOLES),
        ("fillers", params.fillers, FILLERS),
        ("language", params.language, ("auto", *FOREIGN)),
    ):
        if value not in allowed:
            raise InputError(f"params.yaml: `denoise.{key}`: expected one of {', '.join(allowed)}; got {value!r}")
    check_rules(params.strategy, params.strategies[params.strategy])
    if not 0 < params.near_duplicate <= 1:
        raise InputError(
            f"params.yaml: `denoise.near_duplicate`: expected a share up to 1, got {params.near_duplicate}"
        )


def check_rules(strategy: str, names: Any) -> None:
    """Raise InputError unless a strategy is a list of known rules, each once."""
    if not isinstance(names, list):
        raise InputError(f"params.yaml: strategy {strategy!r}: expected a list of rules (`[]` for none), got {names!r}")
    for name in names:
        if name not in RULES and name not in SCRIPT_RULES:
            known = ", ".join((*RULES, *SCRIPT_RULES))
            raise InputError(f"params.yaml: strategy {strategy!r} names no rule {name!r}\nhint: the rules are {known}")
        if names.count(name) > 1:
            raise InputError(f"params.yaml: strategy {strategy!r} names {name!r} twice\nhint: once is enough")


def main() -> None:
    gc.disable()  # small records without cycles by the million: looking through them takes as long as the rules
    params = load_params("denoise", DenoiseParams)
    check(params)
    clean, receipts, report = denoise(read_dialogues(DIALOGUES), params, leads()[0])
    write_jsonl(DROPPED, receipts)
    if not clean:
        raise InputError(
            f"denoise: strategy {params.strategy!r} left no turn to learn\nhint: reports/dropped.jsonl says which rule "
            "dropped what; try `denoise.strategy: light`"
        )
    write_jsonl(CLEAN, clean)
    write_json(REPORT, {"strategy": params.strategy, "control": params.control, **report})
    print(
        f"denoise: {params.strategy}{' (control)' if params.control else ''}: "
        f"{report['lines_out']} of {report['lines_in']} lines kept, "
        f"{report['holes']['learned_turns_out']} of {report['learned_turns_in']} turns to learn"
    )


if __name__ == "__main__":
    run(main)
