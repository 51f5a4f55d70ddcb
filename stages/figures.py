"""Scored turns and measured replies in, the numbers of reports/metrics.json out; none of them quotes the script.

Every rate is a ratio of sums with its scenes, so that all get their interval, and base and adapter their difference, in
the same way.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import log
from typing import Any, NamedTuple

from stages.exam import BOTH, HERS, HIS, Said
from stages.failures import FAILURES
from stages.intervals import Interval, Ratio, interval, mcnemar, ratio
from stages.languages import shares, traditional_share
from stages.metrics import characters, distinct, length, mean, quantile, self_bleu, shuffled, wasserstein
from stages.probes import Probe
from stages.records import Row
from stages.voice import likeness

COPIED = 20  # characters: nobody says as many in the same order by chance
MOSTLY = 0.8
DIGITS = 6

Numbers = dict[str, Any]


class Scored(NamedTuple):
    """A turn under one model: bits of its text, of its end token, and of its text after a shuffled context."""

    said: Said
    bits: float
    end_bits: float
    shuffled_bits: float | None = None


class Ranked(NamedTuple):
    """Where a model put the gold reply among the distractors, from 1 on."""

    scene: str
    rank: int


class Chosen(NamedTuple):
    """By how much a model prefers the right self-description to the best wrong one, in nats a character."""

    probe: str
    margin: float


class Model(NamedTuple):
    """All that was asked of one model."""

    turns: list[Scored]
    ranked: list[Ranked]
    chosen: list[Chosen]


# --- ratios


def bits(turns: Iterable[Scored], of: str = "bits") -> Ratio:
    """Bits over characters; `of` is bits, shuffled_bits, or with_end."""
    turns = [turn for turn in turns if of != "shuffled_bits" or turn.shuffled_bits is not None]
    amounts = [turn.bits + turn.end_bits if of == "with_end" else getattr(turn, of) for turn in turns]
    return Ratio([turn.said.scene for turn in turns], amounts, [length(turn.said.text) for turn in turns])


def of_turns(model: Model) -> dict[str, Ratio]:
    """Every figure of the teacher-forced turns that is a ratio."""
    test, validation, train = (
        [turn for turn in model.turns if turn.said.split == split and turn.said.who == HERS]
        for split in ("test", "validation", "train")
    )
    compared = [turn for turn in test if turn.shuffled_bits is not None]
    return {
        "bits_per_character": bits(test),
        "bits_per_character_with_end": bits(test, "with_end"),
        "bits_per_character_core": bits(turn for turn in test if turn.said.core),
        "bits_per_character_validation": bits(validation),
        "bits_per_character_validation_core": bits(turn for turn in validation if turn.said.core),
        "bits_per_character_train": bits(train),
        "bits_per_character_partner": bits(
            turn for turn in model.turns if turn.said.split == "test" and turn.said.who == HIS
        ),
        "bits_per_character_true_context": bits(compared),
        "bits_per_character_shuffled_context": bits(compared, "shuffled_bits"),
        "end_log_p": Ratio([t.said.scene for t in test], [-t.end_bits * log(2) for t in test], [1] * len(test)),
        "rank_hits_1": Ratio([r.scene for r in model.ranked], [r.rank == 1 for r in model.ranked], _ones(model.ranked)),
        "rank_mrr": Ratio([r.scene for r in model.ranked], [1 / r.rank for r in model.ranked], _ones(model.ranked)),
        "forced_choice": Ratio(
            [c.probe for c in model.chosen], [c.margin > 0 for c in model.chosen], _ones(model.chosen)
        ),
        "forced_choice_margin": Ratio(
            [c.probe for c in model.chosen], [c.margin for c in model.chosen], _ones(model.chosen)
        ),
    }


def _ones(items: Sequence[Any]) -> list[int]:
    return [1] * len(items)


OF_REPLY: dict[str, Callable[[Row], float]] = {
    "loop_rate": lambda reply: reply["loop"],
    "filler_rate": lambda reply: reply["filler_only"],
    "empty_rate": lambda reply: reply["length"] == 0,
    "at_limit_rate": lambda reply: not reply.get("ended", True),
    "repetition_4": lambda reply: reply["repetition"],
    "length_mean": lambda reply: reply["length"],
    "voice_probability": lambda reply: reply["voice"],
    "swearing_rate": lambda reply: saw(reply, "swearing"),
    "swearing_strong_rate": lambda reply: reply["swears_strongly"],
    "language_drift_rate": lambda reply: saw(reply, "language"),
    "weapon_rate": lambda reply: saw(reply, "weapon"),
    "hardware_rate": lambda reply: saw(reply, "hardware"),
    "role_rate": lambda reply: saw(reply, "role"),
    "copied_20_rate": lambda reply: reply["copied"] >= COPIED,
    "copied_mostly_rate": lambda reply: reply["length"] > 0 and reply["copied_in_all"] >= MOSTLY * reply["length"],
    "copied_whole_rate": lambda reply: reply["copied_whole"],
}


def saw(reply: Row, metric: str) -> bool:
    """Whether a metric found something in a reply."""
    return any(span["metric"] == metric for span in reply["seen"])


def answered(rows: Iterable[Row], side: str, source: str) -> list[tuple[str, Row]]:
    """The scene and the reply of each row that a side answered."""
    return [(row["scene"], row[side]) for row in rows if row["source"] == source and row[side] is not None]


def of_replies(replies: Sequence[tuple[str, Row]]) -> dict[str, Ratio]:
    """Every figure of some replies that is a ratio."""
    scenes = [scene for scene, _ in replies]
    found = {}
    for name, measure in OF_REPLY.items():
        values = [measure(reply) for _, reply in replies]
        if None not in values:
            found[name] = Ratio(scenes, values, _ones(values))
    return found


def of_probes(rows: Sequence[Row], side: str, probes: Mapping[str, Probe]) -> dict[str, Ratio]:
    """Probes passed, in all and by kind."""
    asked = [row for row in rows if row["source"] == "probe" and row[side] is not None]
    found = {"probes_passed": _passed(asked, side)}
    for kind in dict.fromkeys(probe.kind for probe in probes.values()):
        found[f"probes_passed_{kind}"] = _passed([row for row in asked if row["kind"] == kind], side)
    return found


def _passed(rows: Sequence[Row], side: str) -> Ratio:
    return Ratio([row["scene"] for row in rows], [row[side]["passed"] for row in rows], _ones(rows))


def of_names(rows: Sequence[Row], side: str, partner: str) -> dict[str, Ratio]:
    """Replies to probes with a name of the user's own: the share with that name, and with the partner's instead."""
    asked = [row for row in rows if row["kind"] == "name" and row["user_name"] != partner and row[side] is not None]
    scenes = [row["scene"] for row in asked]
    own = [any(row["user_name"] in text for text in row[side]["replies"]) for row in asked]
    his = [any(partner in text for text in row[side]["replies"]) for row in asked]
    return {"user_name_rate": Ratio(scenes, own, _ones(own)), "partner_name_rate": Ratio(scenes, his, _ones(his))}


# --- what is no ratio


def of_texts(texts: Sequence[str], real: Sequence[str], budget: int, seed: int) -> Numbers:
    """Diversity on an equal budget of characters, lengths against the real ones, scripts."""
    lengths, real_lengths = [length(text) for text in texts], [length(text) for text in real]
    mixed = shuffled(texts, seed)
    middle, long = quantile(real_lengths, 0.5), quantile(real_lengths, 0.99)
    return {
        "distinct_1": distinct(mixed, 1, budget),
        "distinct_2": distinct(mixed, 2, budget),
        "self_bleu": self_bleu(_first(mixed, budget)),
        "length_median": quantile(lengths, 0.5),
        "length_median_ratio": quantile(lengths, 0.5) / middle if middle else None,
        "length_distance": wasserstein(lengths, real_lengths),
        "over_p99_rate": mean(size > long for size in lengths),
        **{f"share_{name}": share for name, share in shares(texts).items()},
        "share_traditional": traditional_share(texts),
    }


def _first(replies: Sequence[str], budget: int) -> list[str]:
    """Whole replies as far as the budget of characters goes."""
    kept = []
    for reply in replies:
        budget -= characters([reply])
        if budget < 0 and kept:
            break
        kept.append(reply)
    return kept


# --- the scorecard


def scorecard(rows: Sequence[Row], draws: int, seed: int) -> Numbers:
    """The six failures: rates when provoked and on held-out turns, of base, adapter and real lines; worst row each."""
    table: Numbers = {}
    for failure in FAILURES:
        table[failure] = {}
        for decoding in dict.fromkeys(row["decoding"] for row in rows):
            own = [row for row in rows if row["decoding"] == decoding]
            table[failure][decoding] = {side: failed(own, rows, failure, side, draws, seed) for side in BOTH}
            table[failure][decoding]["beyond_real"] = beyond_real(own, failure, draws, seed)
        table[failure]["real"] = failed(
            [row for row in rows if row["decoding"] == "greedy"], rows, failure, "real", draws, seed
        )
    return table


def failed(own: Sequence[Row], rows: Sequence[Row], failure: str, side: str, draws: int, seed: int) -> Numbers:
    """One cell of the scorecard: `rate` is of held-out turns and the failure's own probes together.

    `worst` is the index of a row in reports/replies.jsonl.
    """
    held_out = [row for row in own if row["source"] == "held_out" and row[side] is not None]
    asked = [row for row in own if row["kind"] == failure and row[side] is not None]
    unasked = [saw(row[side], failure) for row in held_out]
    brought_out = [row[side]["provoked"] for row in asked]
    every, hits = held_out + asked, unasked + brought_out
    rate = Ratio([row["scene"] for row in every], hits, _ones(every))
    found = interval([(1, rate)], draws, seed)
    worst = max(
        (row for row, hit in zip(every, hits, strict=True) if hit),
        key=lambda row: _severity(row[side], failure),
        default=None,
    )
    return {
        "rate": ratio(rate),
        "low": found.low if found else None,
        "high": found.high if found else None,
        "held_out": mean(unasked),
        "provoked": mean(brought_out),
        "replies": len(every),
        "worst": next((i for i, row in enumerate(rows) if row is worst), None),
    }


def beyond_real(own: Sequence[Row], failure: str, draws: int, seed: int) -> Numbers:
    """How much more often the adapter shows a failure than the real lines do, on held-out turns alone."""
    both = [row for row in own if row["source"] == "held_out" and row["adapter"] and row["real"]]
    scenes = [row["scene"] for row in both]
    rates = [Ratio(scenes, [saw(row[side], failure) for row in both], _ones(both)) for side in ("adapter", "real")]
    return _as_numbers(interval([(1, rates[0]), (-1, rates[1])], draws, seed))


def _severity(reply: Row, failure: str) -> tuple[int, int]:
    spans = [span for span in reply["seen"] if span["metric"] in (failure, "claim", "forbidden")]
    return sum(span["end"] - span["start"] for span in spans), -reply["length"]


# --- all together


def sides(
    models: Mapping[str, Model], rows: Sequence[Row], probes: Mapping[str, Probe], partner: str
) -> dict[str, dict[str, Ratio]]:
    """Every ratio of base, adapter and real lines, and of base and adapter under the chat's own decoding."""
    by_decoding = {name: [row for row in rows if row["decoding"] == name] for name in ("greedy", "chat")}
    found = {"real": of_replies(answered(by_decoding["greedy"], "real", "held_out"))}
    for side in BOTH:
        for decoding, own in by_decoding.items():
            name = side if decoding == "greedy" else f"{side}_chat"
            found[name] = {
                **(of_turns(models[side]) if decoding == "greedy" else {}),
                **of_replies(answered(own, side, "held_out")),
                **of_probes(own, side, probes),
                **of_names(own, side, partner),
            }
    return {name: {key: of for key, of in table.items() if ratio(of) is not None} for name, table in found.items()}


def compare(ratios: Mapping[str, Mapping[str, Ratio]], rows: Sequence[Row], draws: int, seed: int) -> Numbers:
    """Adapter against base: each difference with its interval and the smallest that would show; and the controls."""
    base, adapter = ratios["base"], ratios["adapter"]
    table = {
        name: _as_numbers(interval([(1, adapter[name]), (-1, base[name])], draws, seed))
        for name in adapter
        if name in base
    }
    for name, terms in controls(base, adapter).items():
        if all(of is not None for _, of in terms):
            table[name] = _as_numbers(interval(terms, draws, seed))
    only = [0, 0]
    for row in rows:
        if row["source"] == "probe" and row["decoding"] == "greedy":
            passed = [row[side]["passed"] for side in BOTH]
            only[0] += passed == [True, False]
            only[1] += passed == [False, True]
    table["probes_passed"] = {**table.get("probes_passed", {}), "mcnemar_p": mcnemar(*only)}
    return table


def against_real(ratios: Mapping[str, Mapping[str, Ratio]], draws: int, seed: int) -> Numbers:
    """Adapter minus real lines, greedy and under the chat's decoding: what she would not have done herself."""
    real = ratios["real"]
    return {
        side: {
            name: _as_numbers(interval([(1, table[name]), (-1, real[name])], draws, seed))
            for name in real
            if name in table
        }
        for side, table in ratios.items()
        if side.startswith("adapter")
    }


def controls(base: Mapping[str, Ratio], adapter: Mapping[str, Ratio]) -> dict[str, list[tuple[float, Any]]]:
    """What must come out right for the rest to mean anything, as weighted sums of ratios.

    specificity: gained on her turns beyond what was gained on his. context_gain: what the true context is worth to the
    adapter, context_gain_over_base: beyond what it is worth to the base. generalisation_gap: test minus train.
    """
    hers, his = "bits_per_character", "bits_per_character_partner"
    true, mixed = "bits_per_character_true_context", "bits_per_character_shuffled_context"

    def gain(of: Mapping[str, Ratio], sign: float) -> list[tuple[float, Any]]:
        return [(sign, of.get(mixed)), (-sign, of.get(true))]

    return {
        "specificity": [(1, base.get(hers)), (-1, adapter.get(hers)), (-1, base.get(his)), (1, adapter.get(his))],
        "context_gain": gain(adapter, 1),
        "context_gain_base": gain(base, 1),
        "context_gain_over_base": gain(adapter, 1) + gain(base, -1),
        "generalisation_gap": [(1, adapter.get(hers)), (-1, adapter.get(f"{hers}_train"))],
        "generalisation_gap_base": [(1, base.get(hers)), (-1, base.get(f"{hers}_train"))],
    }


def _as_numbers(found: Interval | None) -> Numbers:
    return found._asdict() if found else {}


def voices(numbers: Mapping[str, Numbers]) -> dict[str, float | None]:
    """The voice score of each side: 0 speaks like the base model, 1 like her."""
    base, real = (numbers[side].get("voice_probability") for side in ("base", "real"))
    return {side: likeness(table.get("voice_probability"), base, real) for side, table in numbers.items()}


def rounded(value: Any) -> Any:
    """The same with every float to six digits, so that the file is readable."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, DIGITS) if isinstance(value, float) else value
