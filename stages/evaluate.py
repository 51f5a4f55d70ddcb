"""The frozen exam, the probes and the adapter -> reports/metrics.json and reports/replies.jsonl.

Base, adapter and the real held-out lines side by side, from one loaded model. `--gate` re-reads the metrics and fails
where one misses its threshold.
"""

import argparse
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass, fields
from hashlib import sha256
from math import log
from pathlib import Path
from typing import Any

import orjson
import torch
import transformers

from stages.cli import run
from stages.conversation import bare
from stages.exam import (
    BOTH,
    DISTRACTORS,
    HERS,
    Elsewhere,
    Exam,
    Lineup,
    Said,
    Sheet,
    choice_tree,
    core_rule,
    distractors,
    hers,
    line_up,
    put_elsewhere,
    read_exam,
    sheets,
    shuffled_pairs,
    true_tree,
    turns,
)
from stages.failures import FAILURES, make_detectors
from stages.figures import (
    Chosen,
    Model,
    Numbers,
    Ranked,
    Scored,
    against_real,
    answered,
    compare,
    of_texts,
    rounded,
    scorecard,
    sides,
    voices,
)
from stages.inference import Character, exact_dtype, in_dtype, load_character
from stages.intervals import interval, ratio
from stages.memorisation import SuffixAutomaton
from stages.messages import Card, to_messages
from stages.metrics import characters, length, mean
from stages.params import load_params, look_up
from stages.probes import Probe, read_probe
from stages.records import InputError, Row, read_jsonl, write_json, write_jsonl
from stages.replies import Judge, Plan, answer_all, held_out, probed, row, spread
from stages.scoring import Branch, Scores, score
from stages.voice import Voice, auc, likeness, train_voice

ADAPTER = Path("models/adapter")
EXAM = Path("processed/exam.jsonl")
PROBES = Path("processed/probes.jsonl")
METRICS = Path("reports/metrics.json")
REPLIES = Path("reports/replies.jsonl")
BITS = 1 / log(2)  # of a nat


@dataclass(frozen=True)
class EvaluateParams:
    """The `evaluate` section of params.yaml."""

    held_out_replies: int
    chat_replies: int
    chat_probes: int
    ranked_turns: int
    max_new_tokens: int
    draws: int
    swear_allow: list
    at_most: dict
    at_least: dict
    seed: int


@dataclass(frozen=True)
class Paper:
    """The exam made ready for one tokenizer: sheets, her test turns, probes, and the turns to rank."""

    exam: Exam
    card: Card
    probes: list[Probe]
    sheets: list[Sheet]
    branches: list[list[Branch]]
    said: list[Said]
    elsewhere: list[Elsewhere]
    lineups: list[Lineup]


def prepare(exam: Exam, probes: list[Probe], character: Character, params: EvaluateParams) -> Paper:
    """All that will be asked, in tokens."""
    card = card_of(character)
    core = core_rule(exam.lines_of(card.character))
    paper = [sheet for each in exam.dialogues for sheet in sheets(character.tokenizer, each, card, core)]
    said = [turn for dialogue in exam.of("test") for turn in turns(dialogue, card, core) if turn.who == HERS]
    branches: list[list[Branch]] = [[] for _ in paper]
    elsewhere = [
        one
        for own, other in shuffled_pairs(paper)
        for one in put_elsewhere(paper[own], paper[other], other, branches[other])
    ]
    asked = [(i, one) for i, sheet in enumerate(paper) for one in hers(sheet) if one.said.split == "test"]
    drawn = [(i, one, distractors(exam, card, one.said, params.seed)) for i, one in asked]
    full = spread([each for each in drawn if len(each[2]) == DISTRACTORS], params.ranked_turns)
    lineups = [line_up(character.tokenizer, one, others, i, branches[i]) for i, one, others in full]
    return Paper(exam, card, probes, paper, branches, said, elsewhere, lineups)


def card_of(character: Character) -> Card:
    """What a dialogue's messages are made by, out of the card that travels with the adapter."""
    return Card(**{field.name: character.card[field.name] for field in fields(Card)})


# --- scoring


def ask_model(character: Character, paper: Paper, side: str) -> Model:
    """Everything that one model is asked by teacher forcing."""
    model = character.model.get_base_model()
    chosen = [probe for probe in paper.probes if probe.right and probe.wrong]
    trees = [true_tree(*each) for each in zip(paper.sheets, paper.branches, strict=True)]
    choices = [choice_tree(character.tokenizer, paper.card, probe) for probe in chosen]
    with character.model.disable_adapter() if side == "base" else nullcontext():
        scores = score(model, trees, f"{side}, turns")
        of_choices = score(model, choices, f"{side}, choices")
    shuffled = {one.said[:4]: -sum(scores[one.sheet].branches[one.branch][:-1]) * BITS for one in paper.elsewhere}
    return Model(
        [one for sheet, of in zip(paper.sheets, scores, strict=True) for one in turn_scores(sheet, of, shuffled)],
        [rank(lineup, scores[lineup.sheet]) for lineup in paper.lineups],
        [choose(*each) for each in zip(chosen, of_choices, strict=True)],
    )


def turn_scores(sheet: Sheet, scores: Scores, shuffled: dict[tuple, float]) -> list[Scored]:
    """Each turn of a sheet with the bits of its text and of its end token."""
    found = []
    for said, start, stop in sheet.asked:
        values = [-value * BITS for value in scores.trunk[start:stop]]
        if said.who == HERS:
            found.append(Scored(said, sum(values[:-1]), values[-1], shuffled.get(said[:4])))
        elif said.split == "test":
            found.append(Scored(said, sum(values), 0.0))
    return found


def rank(lineup: Lineup, scores: Scores) -> Ranked:
    """The gold reply's rank by mean log-probability a character; a tie counts against it."""
    said, start, stop = lineup.asked
    gold = sum(scores.trunk[start : stop - 1]) / length(said.text)
    rest = scores.branches[lineup.first : lineup.first + len(lineup.others)]
    means = [sum(values) / length(text) for values, text in zip(rest, lineup.others, strict=True)]
    return Ranked(said.scene, 1 + sum(value >= gold for value in means))


def choose(probe: Probe, scores: Scores) -> Chosen:
    """How far the right self-description is ahead of the best wrong one."""
    texts = (probe.right, *probe.wrong)
    right, *wrong = (sum(values) / length(text) for values, text in zip(scores.branches, texts, strict=True))
    return Chosen(probe.id, right - max(wrong))


# --- replies


def make_judge(paper: Paper, voice: Voice | None, params: EvaluateParams) -> Judge:
    """All that looks at a reply, made from raw train lines and the probes."""
    lines = [text for _, text in paper.exam.lines]
    hers = paper.exam.lines_of(paper.card.character)
    allowed = tuple(params.swear_allow)
    detectors = make_detectors(hers, paper.probes, allowed)
    whole = frozenset(part.strip() for line in lines for part in line.splitlines())
    return Judge(detectors, voice, SuffixAutomaton(lines), whole, allowed)


def ask_for_replies(character: Character, paper: Paper, judge: Judge, params: EvaluateParams) -> list[Row]:
    """The rows of reports/replies.jsonl; a held-out turn that was not drawn keeps its real line alone."""
    messages = {each.id: to_messages(each, paper.card) for each in paper.exam.of("test")}
    contexts = {name: bare(of) for name, of in messages.items()}
    every = held_out(paper.said, contexts)
    drawn, probes = spread(every, params.held_out_replies), probed(paper.probes, paper.card)
    telling = [question for question in probes if question.probe.kind in FAILURES]
    sampled = spread(drawn, params.chat_replies) + spread(telling, params.chat_probes)
    plan = Plan(drawn + probes, sampled, params.max_new_tokens, params.seed)
    rows = list(answer_all(character, plan, judge, paper.card))
    taken = {question.id for question in drawn}
    return rows + [row(each, "greedy", {}, judge, paper.card) for each in every if each.id not in taken]


# --- the metrics


def summarise(
    paper: Paper, models: dict[str, Model], rows: list[Row], voice: Voice | None, params: EvaluateParams
) -> Numbers:
    """Everything in reports/metrics.json but where it came from."""
    probes = {probe.id: probe for probe in paper.probes}
    ratios = sides(models, rows, probes, paper.card.partner)
    numbers = {name: {key: ratio(of) for key, of in table.items()} for name, table in ratios.items()}
    add_texts(numbers, rows, params.seed)
    for name, value in voices(numbers).items():
        numbers[name]["voice"] = value
    intervals = {
        name: {
            key: [found.low, found.high]
            for key, of in table.items()
            if (found := interval([(1, of)], params.draws, params.seed)) and found.low is not None
        }
        for name, table in ratios.items()
    }
    return {
        "scorecard": scorecard(rows, params.draws, params.seed),
        **{name: numbers[name] for name in ("base", "adapter", "real", "base_chat", "adapter_chat")},
        "difference": compare(ratios, rows, params.draws, params.seed),
        "against_real": against_real(ratios, params.draws, params.seed),
        "controls": check_voice(paper, voice, numbers),
        "intervals": intervals,
        "scenes": by_scene(models),
    }


def add_texts(numbers: dict[str, Numbers], rows: list[Row], seed: int) -> None:
    """The figures that are no ratios: base, adapter and real lines on one budget of characters, chat on its own."""
    greedy = [one for one in rows if one["decoding"] == "greedy"]
    real = [reply["text"] for _, reply in answered(greedy, "real", "held_out")]
    for decoding, suffix in (("greedy", ""), ("chat", "_chat")):
        own = [one for one in rows if one["decoding"] == decoding]
        texts = {f"{side}{suffix}": [reply["text"] for _, reply in answered(own, side, "held_out")] for side in BOTH}
        texts |= {"real": real} if decoding == "greedy" else {}
        budget = min(characters(of) for of in texts.values())
        for name, of in texts.items():
            numbers[name] |= of_texts(of, real, budget, seed) if of else {}


def check_voice(paper: Paper, voice: Voice | None, numbers: dict[str, Numbers]) -> Numbers:
    """The voice classifier on held-out lines: its AUC, and his lines fed in as if they were replies."""
    if voice is None:
        return {}
    held = [
        (turn.speaker, piece.text)
        for each in paper.exam.dialogues
        for turn in each.turns
        for piece in turn.lines
        if each.split != "train" and piece.kind != "narration"
    ]
    hers, his = ([text for who, text in held if who == name] for name in (paper.card.character, paper.card.partner))
    his_probability = mean(voice.her_share(his))
    base, real = (numbers[side].get("voice_probability") for side in ("base", "real"))
    return {
        "voice_auc": auc(voice, hers, his),
        "voice_probability_hers": mean(voice.her_share(hers)),
        "voice_probability_his": his_probability,
        "voice_his": likeness(his_probability, base, real),
    }


def by_scene(models: dict[str, Model]) -> list[list[Any]]:
    """[scene, split, core, characters, base bits, adapter bits] of her turns: what another adapter is compared by."""
    sums: dict[tuple[str, str, bool], list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for column, side in enumerate(BOTH, 1):
        for said, bits, *_ in models[side].turns:
            if said.who == HERS:
                total = sums[said.scene, said.split, said.core]
                total[0] += length(said.text) if column == 1 else 0
                total[column] += bits
    return [[*key, *values] for key, values in sums.items()]


def evaluate(
    exam: Exam, probes: list[Probe], character: Character, params: EvaluateParams
) -> tuple[Numbers, list[Row]]:
    """The metrics and the replies."""
    paper = prepare(exam, probes, character, params)
    voice = train_voice(exam.lines, paper.card.character, paper.card.partner)
    with in_dtype(character.model, exact_dtype(character.model)):
        models = {side: ask_model(character, paper, side) for side in BOTH}
    rows = ask_for_replies(character, paper, make_judge(paper, voice, params), params)
    numbers = summarise(paper, models, rows, voice, params)
    counts = {
        "test_turns": len(paper.said),
        "core_turns": sum(said.core for said in paper.said),
        "test_scenes": len({said.scene for said in paper.said}),
        "probes": len(paper.probes),
        "probe_conversations": sum(len(probe.asks) for probe in paper.probes),
        "ranked_turns": len(paper.lineups),
        "held_out_replies": len(answered([one for one in rows if one["decoding"] == "greedy"], "adapter", "held_out")),
        "chat_replies": len(answered([one for one in rows if one["decoding"] == "chat"], "adapter", "held_out")),
    }
    return rounded({**numbers, "counts": counts}), rows


def provenance(exam: Exam, character: Character, adapter: Path, probes: Path) -> Numbers:
    """What the figures were made from: hashes, versions, precision."""
    weights = sorted(adapter.glob("*"))
    digest = sha256(b"".join(path.name.encode() + path.read_bytes() for path in weights if path.is_file()))
    return {
        "character": character.card["character"],
        "exam_sha256": exam.sha256,
        "probes_sha256": sha256(probes.read_bytes()).hexdigest(),
        "adapter_sha256": digest.hexdigest(),
        "base_model": character.card["base_model"],
        "revision": character.card["revision"],
        "device": character.model.device.type,
        "dtype_of_scores": str(exact_dtype(character.model)).removeprefix("torch."),
        "dtype_of_replies": str(character.model.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


# --- the gate


def misses(metrics: Numbers, params: EvaluateParams) -> list[str]:
    """The thresholds that are missed, each in words; a figure that is not there misses."""
    found = []
    for limits, word, holds in (
        (params.at_most, "at most", lambda value, limit: value <= limit),
        (params.at_least, "at least", lambda value, limit: value >= limit),
    ):
        for name, limit in limits.items():
            value = look_up(metrics, name)
            if value is None or not holds(value, limit):
                found.append(f"{name}: expected {word} {limit}, got {value}")
    return found


def gate(path: Path, params: EvaluateParams) -> None:
    """Raise InputError naming every threshold that the metrics miss."""
    if not path.is_file():
        raise InputError(f"expected {path}, found no such file\nhint: `dvc repro evaluate` writes it")
    missed = misses(orjson.loads(path.read_bytes()), params)
    if missed:
        raise InputError("the adapter misses\n" + "\n".join(f"  {line}" for line in missed))
    print(f"evaluate: all {len(params.at_most) + len(params.at_least)} thresholds are met")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gate", action="store_true", help="only check reports/metrics.json against the thresholds")
    options = parser.parse_args()
    params = load_params("evaluate", EvaluateParams)
    if options.gate:
        return gate(METRICS, params)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    exam, probes = read_exam(EXAM), [read_probe(one) for one in read_jsonl(PROBES)]
    character = load_character(ADAPTER)
    metrics, rows = evaluate(exam, probes, character, params)
    write_json(METRICS, {**metrics, "provenance": provenance(exam, character, ADAPTER, PROBES)})
    write_jsonl(REPLIES, rows)
    base, adapter = (metrics[side]["bits_per_character"] for side in BOTH)
    print(f"evaluate: bits per character {base:.3f} (base) -> {adapter:.3f} (adapter), {len(rows)} rows of replies")


if __name__ == "__main__":
    run(main)
