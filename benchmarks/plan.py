"""What `python -m stages.train --plan` promises, beside the peak memory of real training steps on this CPU.

    python -m benchmarks.plan

Three sizes of the embedded model's family with random weights, each whole and in four bits, with gradient
checkpointing and without; two steps on the longest dialogues of the train split, in a process of its own. The plan
counts what is alive; glibc keeps freed pieces besides, so each is measured again with `RETURNED`, under which it
returns them at once.
"""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from benchmarks.train import BATCH, Job, measure
from stages.base_model import embedded_folder, find_device, find_dtype, load_tokenizer
from stages.lessons import read_lessons
from stages.packed import Sample
from stages.params import load_params
from stages.plan import RETURNED, Text, Way, peak_bytes, skeleton
from stages.train import DATASET, TrainParams

SIZES = ((384, 8), (640, 18), (1024, 26))  # width and layers; the second is the embedded model's
STEPS = 2
WAYS = [Way(quantize, checkpointing, 1) for quantize in ("none", "nf4") for checkpointing in (False, True)]


def make_base(width: int, layers: int, folder: Path) -> str:
    """A base model of this size, random weights, the embedded model's tokenizer."""
    config = AutoConfig.from_pretrained(embedded_folder())
    kinds = [config.layer_types[i % len(config.layer_types)] for i in range(layers)]
    config.update({"hidden_size": width, "intermediate_size": width * 16 // 5, "num_hidden_layers": layers})
    config.layer_types = kinds
    AutoModelForCausalLM.from_config(config, dtype=find_dtype("auto", find_device())).save_pretrained(folder)
    AutoTokenizer.from_pretrained(embedded_folder()).save_pretrained(folder)
    return str(folder)


def longest() -> list[Sample]:
    """The longest dialogues of the train split, longest first."""
    lessons = read_lessons(DATASET / "train.jsonl", load_tokenizer("embedded"), 4096)
    return sorted(lessons.samples, key=lambda sample: -len(sample.ids))[: STEPS * BATCH]


def compare(base: str, samples: list[Sample], way: Way) -> tuple[float, float, float]:
    """Bytes planned, measured, and measured with freed pieces returned."""
    params = replace(load_params("train", TrainParams), base_model=base, revision=None, batch_size=BATCH)
    model = skeleton(base, params, find_dtype("auto", find_device()))
    planned = peak_bytes(model, Text(samples, 0, 0), params, way, "cpu")
    changes = {"gradient_checkpointing": way.checkpointing, "revision": None}
    quantize = None if way.quantize == "none" else way.quantize
    job = {"model": base, "samples": samples, "dtype": "auto", "quantize": quantize, "changes": changes}
    return planned, measure_under("", job), measure_under(RETURNED, job)


def measure_under(tunables: str, job: Job) -> float:
    """Peak bytes of our trainer with glibc set so."""
    os.environ["GLIBC_TUNABLES"] = tunables
    return measure("ours", job)["peak"]


def main() -> None:
    samples = longest()
    heads = ("planned GB", "measured", "ratio", "returned", "ratio")
    print(f"{'width x layers':<16}{'quantize':<10}{'checkpointing':<15}" + "".join(f"{head:>11}" for head in heads))
    for width, layers in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            base = make_base(width, layers, Path(folder))
            for way in WAYS:
                planned, kept, returned = compare(base, samples, way)
                figures = (planned / 1e9, kept / 1e9, planned / kept, returned / 1e9, planned / returned)
                row = "".join(f"{figure:>11.2f}" for figure in figures)
                label = f"{f'{width} x {layers}':<16}{way.quantize:<10}{str(way.checkpointing).lower():<15}"
                print(label + row, flush=True)


if __name__ == "__main__":
    main()
