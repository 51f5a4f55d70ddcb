"""Seconds to score and to answer held-out turns, against the naive loop over the same turns in the same run.

    python -m benchmarks.evaluate              24 turns scored, 16 answered; 12, 24, 48 scored once for linearity
    python -m benchmarks.evaluate 12           another number of turns; at most 16 are answered

The naive loop loads two models, takes one turn at a time, and computes logits at every position; its replies come from
transformers' own `generate`, one at a time. The turns scored are the test split's first, those answered are spread over
all of it. It also prints how far a turn's scores are apart, and how many greedy replies are equal word for word. The
two ways take turns, so that another process slows both; the best of three counts. Needs a trained models/adapter.
"""

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import transformers
from peft import PeftModel

from stages.base_model import load_base
from stages.conversation import IGNORE, bare, encode, encode_supervised, label_ids, stop_ids
from stages.evaluate import ADAPTER, EXAM, card_of
from stages.exam import HERS, Sheet, core_rule, read_exam, sheets, true_tree
from stages.inference import Character, greedy, load_character, reply_all
from stages.messages import Card, to_messages
from stages.replies import spread
from stages.scoring import score

RUNS = 3
NEW_TOKENS = 24
REPLIES = 16

Scored = dict[tuple[str, int], float]


class Turn(NamedTuple):
    """A held-out turn of hers: its dialogue's messages up to it."""

    key: tuple[str, int]
    messages: list[dict[str, Any]]


def held_out(character: Character, card: Card) -> tuple[list[Turn], list[Sheet]]:
    """Her turns of the test split in their dialogues' order, and the dialogues as tokens."""
    exam = read_exam(EXAM)
    core = core_rule(exam.lines_of(card.character))
    found = [(each, sheet) for each in exam.of("test") for sheet in sheets(character.tokenizer, each, card, core)]
    turns = []
    for each, sheet in found:
        messages = bare(to_messages(each, card))
        hers = [asked.said for asked in sheet.asked if asked.said.who == HERS]
        turns += [Turn((said.dialogue, said.place), messages[: said.place + 1]) for said in hers]
    return turns, [sheet for _, sheet in found]


def packed_scores(character: Character, paper: list[Sheet], wanted: set[tuple[str, int]]) -> list[Scored]:
    """log p of each wanted turn under base and adapter, the project's way."""
    used = [sheet for sheet in paper if any((a.said.dialogue, a.said.place) in wanted for a in sheet.asked)]
    trees = [true_tree(only(sheet, wanted)) for sheet in used]
    model, both = character.model.get_base_model(), []
    with character.model.disable_adapter():
        both.append(score(model, trees))
    both.append(score(model, trees))
    return [
        {
            (said.dialogue, said.place): sum(of.trunk[start:stop])
            for sheet, of in zip(used, scores, strict=True)
            for said, start, stop in sheet.asked
            if (said.dialogue, said.place) in wanted
        }
        for scores in both
    ]


def only(sheet: Sheet, wanted: set[tuple[str, int]]) -> Sheet:
    """The sheet up to its last wanted turn, labels on wanted turns alone."""
    asked = [one for one in sheet.asked if (one.said.dialogue, one.said.place) in wanted]
    labels = [IGNORE] * len(sheet.labels)
    for _, start, stop in asked:
        labels[start:stop] = sheet.labels[start:stop]
    end = asked[-1].stop
    return Sheet(sheet.ids[:end], labels[:end], asked)


@torch.inference_mode()
def naive_scores(models: list[Any], tokenizer: Any, turns: list[Turn]) -> list[Scored]:
    """The same by one forward pass a turn and model, with all logits."""
    both: list[Scored] = []
    for model in models:
        found = {}
        for key, messages in turns:
            ids, supervised = encode_supervised(tokenizer, [{**m, "learn": m is messages[-1]} for m in messages])
            labels = label_ids(tokenizer, ids, supervised)
            log_p = model(input_ids=torch.tensor([ids], device=model.device)).logits[0].float().log_softmax(-1)
            found[key] = sum(float(log_p[i - 1, label]) for i, label in enumerate(labels) if label != IGNORE)
        both.append(found)
    return both


@torch.inference_mode()
def naive_replies(models: list[Any], tokenizer: Any, turns: list[Turn]) -> list[list[str]]:
    """Greedy replies of both models, one at a time."""
    both = []
    for model in models:
        texts = []
        for _, messages in turns:
            ids = torch.tensor([encode(tokenizer, messages[:-1], add_generation_prompt=True)], device=model.device)
            said = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                eos_token_id=stop_ids(tokenizer),
                pad_token_id=tokenizer.pad_token_id,
            )
            texts.append(tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True).rstrip("\ufffd").strip())
        both.append(texts)
    return both


def batched_replies(character: Character, turns: list[Turn]) -> list[list[str]]:
    """The same in batches from one model."""
    asked = [messages[:-1] for _, messages in turns]
    both = [reply_all(character, asked, greedy(NEW_TOKENS), use_adapter=use) for use in (False, True)]
    return [[reply.text for reply in replies] for replies in both]


def race(mine: Callable[[], Any], naive: Callable[[], Any]) -> tuple[float, float, Any, Any]:
    """Best seconds of each, run in turns, and what they gave."""
    seconds: tuple[list[float], list[float]] = ([], [])
    results = [None, None]
    for _ in range(RUNS):
        for side, way in enumerate((mine, naive)):
            start = time.perf_counter()
            results[side] = way()
            seconds[side].append(time.perf_counter() - start)
    return min(seconds[0]), min(seconds[1]), *results


def load_plain(character: Character) -> list[Any]:
    """Base and adapter as the naive loop has them: two whole models."""
    name, revision = character.card["base_model"], character.card["revision"]
    base, second = (load_base(name, revision=revision, dtype="fp32")[0] for _ in range(2))
    return [base, PeftModel.from_pretrained(second, str(ADAPTER)).eval()]


def race_scores(character: Character, models: list[Any], turns: list[Turn], paper: list[Sheet]) -> None:
    """Print both ways' seconds for the scores of some turns, and how far these are apart."""
    wanted, tokenizer = {turn.key for turn in turns}, character.tokenizer
    fast, slow, mine, naive = race(
        lambda: packed_scores(character, paper, wanted), lambda: naive_scores(models, tokenizer, turns)
    )
    tokens = [len(encode_supervised(tokenizer, turn.messages)[0]) for turn in turns]
    apart = max(abs(mine[side][key] - naive[side][key]) for side in (0, 1) for key in wanted)
    print(f"scores   {fast:7.1f} s, naive {slow:7.1f} s: {slow / fast:.1f} times; {len(turns)} turns, two models;")
    print(f"         apart by at most {apart:.1e} nats a turn (turns see {min(tokens)} to {max(tokens)} tokens)")


def race_replies(character: Character, models: list[Any], asked: list[Turn]) -> None:
    """Print both ways' seconds for the replies to some turns, and how many of these are equal."""
    fast, slow, said, expected = race(
        lambda: batched_replies(character, asked), lambda: naive_replies(models, character.tokenizer, asked)
    )
    equal = sum(
        a.strip() == b for one, other in zip(said, expected, strict=True) for a, b in zip(one, other, strict=True)
    )
    print(f"replies  {fast:7.1f} s, naive {slow:7.1f} s: {slow / fast:.1f} times; {equal} of {2 * len(asked)} equal")


def time_scores(character: Character, turns: list[Turn], paper: list[Sheet]) -> None:
    """Print the seconds for the scores of some turns."""
    wanted = {turn.key for turn in turns}
    start = time.perf_counter()
    packed_scores(character, paper, wanted)
    taken = time.perf_counter() - start
    print(f"linear   {len(wanted):4} turns {taken:7.1f} s, {1000 * taken / len(wanted):6.0f} ms a turn")


def main() -> None:
    transformers.logging.set_verbosity_error()
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 24
    character = load_character(ADAPTER)
    models = load_plain(character)
    turns, paper = held_out(character, card_of(character))
    race_scores(character, models, turns[:count], paper)
    race_replies(character, models, spread(turns, min(REPLIES, count)))
    for size in (count // 2, count, 2 * count):
        time_scores(character, turns[:size], paper)


if __name__ == "__main__":
    main()
