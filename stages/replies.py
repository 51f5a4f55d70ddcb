"""Exam and probes in, replies of base and adapter out, each with what the metrics saw in it.

One row a reply (or, for a probe, a conversation): reports/replies.jsonl, as the report's browser shows it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from stages.exam import BOTH, Said, card_for, system_message
from stages.failures import FAILURES, Detector
from stages.inference import Character, Conversation, Decoding, Reply, as_decoding, greedy, reply_all
from stages.memorisation import SuffixAutomaton
from stages.messages import Card, Message
from stages.metrics import filler_spans, is_answer, length, loop_spans, repetition
from stages.probes import Probe, judge
from stages.records import Row
from stages.swearing import swear_spans
from stages.voice import Voice

SHOWN = 6  # messages of a held-out context that a row quotes


class Question(NamedTuple):
    """A conversation to answer, turn by turn, and where it comes from: a held-out turn or a probe."""

    id: str
    scene: str
    context: list[Message]
    asks: list[str]
    said: Said | None = None
    probe: Probe | None = None


@dataclass(frozen=True)
class Judge:
    """All that looks at a reply."""

    detectors: dict[str, Detector]
    voice: Voice | None
    training: SuffixAutomaton
    training_lines: frozenset[str]
    swear_allow: tuple[str, ...]

    def measure(self, text: str) -> Row:
        """Every figure of one reply, and the stretches that gave it."""
        seen = {name: detect(text) for name, detect in self.detectors.items()}
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return {
            "text": text,
            "length": length(text),
            "loop": bool(loop_spans(text)),
            "filler_only": bool(filler_spans(text)),
            "repetition": round(repetition(text), 4),
            "swears_strongly": bool(swear_spans(text, self.swear_allow, "strong")),
            "copied": self.training.longest(text),
            "copied_in_all": sum(map(self.training.longest, lines)),  # a turn joins lines that were apart
            "copied_whole": bool(lines) and self.training_lines.issuperset(lines),
            "voice": round(self.voice.her_share([text])[0], 4) if self.voice else None,
            "seen": [{"metric": name, "start": a, "end": b} for name in seen for a, b in seen[name]],
        }


# --- what is asked


def held_out(said: Sequence[Said], conversations: dict[str, list[Message]]) -> list[Question]:
    """One question a held-out turn: all that was really said before it."""
    questions = []
    for turn in said:
        before = conversations[turn.dialogue][: turn.place]
        name = f"{turn.dialogue}@{turn.place}"
        questions.append(Question(name, turn.scene, before[:-1], [before[-1]["content"]], said=turn))
    return questions


def probed(probes: Sequence[Probe], card: Card) -> list[Question]:
    """One question a paraphrase; its id counts them."""
    return [
        Question(
            f"{probe.id}/{number}",
            f"probe:{probe.id}",
            [system_message(card_for(probe, card))],
            list(asks),
            probe=probe,
        )
        for probe in probes
        for number, asks in enumerate(probe.asks, 1)
    ]


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """`count` of the items, evenly over all of them: the same choice each time."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


# --- the answers


def converse(
    character: Character,
    card: Card,
    questions: Sequence[Question],
    decoding: Decoding,
    *,
    use_adapter: bool,
    title: str,
) -> list[list[Reply]]:
    """Every reply of each conversation: the model answers each of the user's turns, its own answers before it.

    She speaks for a probe's own user as little as for anybody else's: chat and server cut her off there too.
    """
    said: list[list[Reply]] = [[] for _ in questions]
    for step in range(max((len(question.asks) for question in questions), default=0)):
        going = [i for i, question in enumerate(questions) if step < len(question.asks)]
        now = [so_far(questions[i], [reply.text for reply in said[i]]) for i in going]
        names = [card_for(questions[i].probe, card).user_name for i in going]
        replies = reply_all(character, now, decoding, user_names=names, use_adapter=use_adapter, title=title)
        for i, reply in zip(going, replies, strict=True):
            said[i].append(reply)
    return said


def so_far(question: Question, replies: Sequence[str]) -> Conversation:
    """The conversation up to the user's next turn."""
    messages = list(question.context)
    for ask, reply in zip(question.asks, replies, strict=False):
        messages += [{"role": "user", "content": ask}, {"role": "assistant", "content": reply}]
    return [*messages, {"role": "user", "content": question.asks[len(replies)]}]


# --- rows


def row(question: Question, decoding: str, answers: dict[str, list[Reply]], judge_of: Judge, card: Card) -> Row:
    """What reports/replies.jsonl says of one question; a side that did not answer is null."""
    probe = question.probe
    return {
        "id": question.id,
        "source": "probe" if probe else "held_out",
        "kind": probe.kind if probe else None,
        "decoding": decoding,
        "scene": question.scene,
        "user_name": card_for(probe, card).user_name,
        "core": question.said.core if question.said else None,
        "context": [message for message in question.context if message["role"] != "system"][-SHOWN:],
        "asks": question.asks,
        "real": judge_of.measure(question.said.text) if question.said else None,
        **{side: side_of(question, answers.get(side), judge_of) for side in BOTH},
    }


def side_of(question: Question, replies: list[Reply] | None, judge_of: Judge) -> Row | None:
    """One model's part of a row: its last reply measured, the verdict where it was a probe."""
    if replies is None:
        return None
    texts, last = [reply.text for reply in replies], replies[-1]
    measured = {
        **judge_of.measure(last.text),
        "replies": texts,
        "tokens": last.tokens,
        "ended": all(reply.ended for reply in replies),
    }
    return {**measured, **verdict_on(question, texts, measured, judge_of)} if question.probe else measured


def verdict_on(question: Question, texts: list[str], measured: Row, judge_of: Judge) -> Row:
    """Whether the probe was passed, whether it brought its failure out, and the stretches that decided it.

    It is passed by an answer alone, neither fillers nor one phrase without end, that shows no failure of its kind.
    `seen` is of the last reply, `seen_before` of the earlier ones, each with the reply's number from 0.
    """
    probe, verdict = question.probe, judge(question.probe, question.asks, texts)
    detect = judge_of.detectors.get(probe.kind, lambda text: [])
    claimed = verdict.claimed[-1] if probe.expect != "free" else []
    spans = [("claim", span) for span in claimed] + [("forbidden", span) for span in verdict.forbidden[-1]]
    failed = [
        {*(claims if probe.expect == "deny" else []), *forbidden, *detect(text)}
        for claims, forbidden, text in zip(verdict.claimed, verdict.forbidden, texts, strict=True)
    ]
    before = [(number, span) for number, found in enumerate(failed[:-1]) for span in sorted(found)]
    brought_out = probe.kind in FAILURES and any(failed)
    return {
        "seen": measured["seen"] + [{"metric": name, "start": a, "end": b} for name, (a, b) in spans],
        "seen_before": [{"reply": i, "metric": probe.kind, "start": a, "end": b} for i, (a, b) in before],
        "passed": verdict.passed and is_answer(texts[-1]) and not brought_out,
        "provoked": brought_out,
    }


class Plan(NamedTuple):
    """How much is asked: greedy on everything, the front's own decoding on a part."""

    questions: list[Question]
    sampled: list[Question]
    max_new_tokens: int
    seed: int


def answer_all(character: Character, plan: Plan, judge_of: Judge, card: Card) -> Iterator[Row]:
    """All rows: first greedy, then under the decoding that chat uses."""
    own = as_decoding(character.card["decoding"])
    chat = replace(own, max_new_tokens=min(own.max_new_tokens, plan.max_new_tokens), seed=plan.seed)
    for name, decoding, questions in (
        ("greedy", greedy(plan.max_new_tokens), plan.questions),
        ("chat", chat, plan.sampled),
    ):
        sides = {
            side: converse(character, card, questions, decoding, use_adapter=side == "adapter", title=f"{side}, {name}")
            for side in BOTH
        }
        for index, question in enumerate(questions):
            yield row(question, name, {side: sides[side][index] for side in BOTH}, judge_of, card)
