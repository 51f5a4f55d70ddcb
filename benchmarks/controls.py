"""Three adapters that the evaluation must tell apart: hers, one from shuffled speakers, one trained ten times as long.

    python -m benchmarks.controls              after `dvc repro`; on two CPU cores most of an hour
    python -m benchmarks.controls hers shuffled

Shuffled speakers: in every training dialogue a coin per exchange swaps what he says with what she says. The two
adapters and their metrics stay under exports/controls/, and are not made again; hers are those of reports/.
"""

import json
import random
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages.cli import run
from stages.evaluate import EXAM, METRICS, PROBES, EvaluateParams, evaluate, look_up
from stages.exam import read_exam
from stages.inference import load_character
from stages.params import load_params
from stages.probes import read_probe
from stages.records import InputError, read_jsonl, write_json, write_jsonl
from stages.train import DATASET, TrainParams, be_quiet, train

FOLDER = Path("exports/controls")
NAMES = ("hers", "shuffled", "longer")
SEED = 7
LONGER = 10
FIGURES = {
    "core bits": "adapter.bits_per_character_core",
    "specificity": "difference.specificity.estimate",
    "gap": "difference.generalisation_gap.estimate",
    "context": "difference.context_gain_over_base.estimate",
    "voice": "adapter.voice",
    "copied": "adapter.copied_mostly_rate",
    "loops": "adapter.loop_rate",
}


def shuffle_speakers(messages: list[dict[str, Any]], dice: random.Random) -> list[dict[str, Any]]:
    """Swap the words of neighbours, user then assistant, by a coin each."""
    words = [message["content"] for message in messages]
    for at in range(len(messages) - 1):
        if (messages[at]["role"], messages[at + 1]["role"]) == ("user", "assistant") and dice.random() < 0.5:
            words[at], words[at + 1] = words[at + 1], words[at]
    return [{**message, "content": word} for message, word in zip(messages, words, strict=True)]


def make_shuffled(folder: Path) -> Path:
    """The data set with shuffled speakers in its train split."""
    shutil.copytree(DATASET, folder, dirs_exist_ok=True)
    dice, rows = random.Random(SEED), list(read_jsonl(DATASET / "train.jsonl"))
    write_jsonl(folder / "train.jsonl", [{**r, "messages": shuffle_speakers(r["messages"], dice)} for r in rows])
    return folder


def make_adapter(name: str) -> Path:
    """The adapter of that name, trained if it is not there."""
    target = FOLDER / name / "adapter"
    if target.exists():
        return target
    params, dataset = load_params("train", TrainParams), DATASET
    if name == "longer":
        params = replace(params, epochs=params.epochs * LONGER)
    else:
        dataset = make_shuffled(FOLDER / name / "dataset")
    train(params, dataset, target, FOLDER / name / "train.tsv", FOLDER / name / "checkpoints")
    return target


def judge(name: str) -> dict[str, Any]:
    """The whole evaluation of one adapter; of hers, which the pipeline makes, only read."""
    path = METRICS if name == "hers" else FOLDER / name / "metrics.json"
    if not path.exists():
        if name == "hers":
            raise InputError(f"expected {path}, found no such file\nhint: `dvc repro` writes it")
        exam, probes = read_exam(EXAM), [read_probe(row) for row in read_jsonl(PROBES)]
        character = load_character(make_adapter(name))
        metrics, _ = evaluate(exam, probes, character, load_params("evaluate", EvaluateParams))
        write_json(path, metrics)
    return json.loads(path.read_text(encoding="utf-8"))


def show(name: str, metrics: dict[str, Any]) -> str:
    """A line of the table."""
    return f"{name:10}" + "".join(f"{look_up(metrics, path):>12.2f}" for path in FIGURES.values())


def main() -> None:
    names = sys.argv[1:] or NAMES
    if wrong := [name for name in names if name not in NAMES]:
        raise InputError(f"expected names out of {', '.join(NAMES)}, got {', '.join(wrong)}")
    be_quiet()
    rows = [show(name, judge(name)) for name in names]
    print(f"{'':10}" + "".join(f"{title:>12}" for title in FIGURES), *rows, sep="\n")


if __name__ == "__main__":
    run(main)
