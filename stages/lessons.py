"""processed/dataset/<split>.jsonl -> Lessons: what one split teaches, as token ids with labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from stages.conversation import label_ids, split_long
from stages.packed import IGNORE, Sample
from stages.records import InputError, read_jsonl


@dataclass(frozen=True)
class Lessons:
    """One split, encoded: its samples, all turns to learn, those lost to `max_length`, the characters of the others."""

    samples: list[Sample]
    turns: int
    lost: int
    characters: int

    @property
    def tokens(self) -> int:
        """All tokens, context included."""
        return sum(len(sample.ids) for sample in self.samples)

    @property
    def supervised(self) -> int:
        """Tokens with a label."""
        return sum(label != IGNORE for sample in self.samples for label in sample.labels)


def read_lessons(path: Path, tokenizer: Any, max_length: int) -> Lessons:
    """Encode a split; a dialogue without a turn to learn is left out, one longer than max_length is split."""
    if not path.is_file():
        raise InputError(f"expected {path}, found no such file\nhint: `dvc repro format` writes it")
    samples, learned, lost, characters = [], 0, 0, 0
    for messages in _read(path):
        replies = [m["content"] for m in messages if m["role"] == "assistant" and m["learn"] is not False]
        parts, missing = split_long(tokenizer, messages, max_length) if replies else ([], [])
        learned += len(replies)
        lost += len(missing)
        characters += sum(map(len, replies)) - sum(map(len, missing))
        samples += [Sample(ids, label_ids(tokenizer, ids, learn)) for ids, learn in parts]
    return Lessons(samples, learned, lost, characters)


def _read(path: Path) -> list[list[dict[str, Any]]]:
    # Not from_json: it takes the path for a pattern, in which [ and * are no letters of a folder's name.
    return [row["messages"] for row in datasets.Dataset.from_list(list(read_jsonl(path)))]


def fill(samples: Sequence[Sample], batch_size: int) -> list[Sample]:
    """Add empty samples up to whole batches: any number of processes then sees the same batches."""
    return [*samples, *[Sample([], [])] * (-len(samples) % batch_size)]


def steps_an_epoch(samples: Sequence[Sample], batch_size: int) -> int:
    """Batches that hold all samples, the last one perhaps not full."""
    return -(-len(samples) // batch_size)
