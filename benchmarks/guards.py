"""Loops with and without the guards at decoding: python -m benchmarks.guards [adapter] [prompts]

The prompts are the openings of the held-out dialogues in processed/dataset. Each row decodes all of them: greedily and
as chat does, with no guard, with the repetition penalty, with the repeat guard, and with both as shipped. A loop is
what evaluate counts: one to twelve characters four times or more in a row.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from deploy.adapters import DEFAULT, find_adapter
from stages.cli import run
from stages.inference import Character, Conversation, Decoding, as_decoding, load_character, reply_all
from stages.metrics import loop_spans, repetition
from stages.records import read_jsonl

TEST = Path("processed/dataset/test.jsonl")
PROMPTS = 32


def openings(path: Path, count: int) -> list[Conversation]:
    """The first prompts of the held-out dialogues."""
    rows = list(read_jsonl(path))[:count]
    return [row["messages"][: [m["role"] for m in row["messages"]].index("assistant")] for row in rows]


def settings(shipped: Decoding) -> dict[str, Decoding]:
    """What is compared; the penalty of the shipped decoding, or 1.1 where that has none."""
    penalty = shipped.repetition_penalty if shipped.repetition_penalty > 1 else 1.1
    guards = {"none": (1.0, 0.0), "penalty": (penalty, 0.0), "guard": (1.0, 0.8), "both": (penalty, 0.8)}
    ways = {"greedy": replace(shipped, temperature=0.0), "chat": shipped}
    return {
        f"{way}, {name}": replace(decoding, repetition_penalty=penalised, repeat_guard=guarded, seed=0)
        for way, decoding in ways.items()
        for name, (penalised, guarded) in guards.items()
    }


def measure(character: Character, prompts: Sequence[Conversation], decoding: Decoding, use_adapter: bool) -> dict:
    """One row of the table."""
    started = time.perf_counter()
    replies = reply_all(character, prompts, decoding, use_adapter=use_adapter)
    seconds, tokens = time.perf_counter() - started, sum(reply.tokens for reply in replies)
    return {
        "loops": sum(bool(loop_spans(reply.text)) for reply in replies),
        "empty": sum(not reply.text.strip() for reply in replies),
        "cut off": sum(not reply.ended for reply in replies),
        "rep-4": sum(repetition(reply.text) for reply in replies) / len(replies),
        "characters": sum(len(reply.text) for reply in replies) / len(replies),
        "tokens/s": tokens / seconds,
    }


def main() -> None:
    folder, count = (sys.argv[1:] + [DEFAULT, PROMPTS][len(sys.argv) - 1 :])[:2]
    character, prompts = load_character(find_adapter(folder)), openings(TEST, int(count))
    table = {
        (model, name): measure(character, prompts, decoding, model == "adapter")
        for model in ("base", "adapter")
        for name, decoding in settings(as_decoding(character.card["decoding"])).items()
    }
    print(f"{len(prompts)} prompts, up to {character.card['decoding']['max_new_tokens']} tokens each")
    print(pd.DataFrame(table).T.round({"rep-4": 3, "characters": 1, "tokens/s": 0}).to_string())


if __name__ == "__main__":
    run(main)
