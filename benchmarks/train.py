"""Our trainer beside TRL and LLaMA-Factory: same model, dialogues, batches and precision, in interleaved pairs.

    python -m benchmarks.train --prepare             # once: each peer in its own venv under the cache folder
    python -m benchmarks.train --pairs 5 --dtype fp32
    python -m benchmarks.train --pairs 5 --dtype bf16

Every run is a process of its own: it trains one warm-up step and then the rest. The matrix limit is measured after each
step, for a second: a shared machine multiplies faster in one minute than in the next, and faster still in bursts.
Batches are sorted by length, the peers' best setting on a CPU: their padding-free packing wants a GPU's kernels.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "script-to-character" / "benchmarks"
STEPS, BATCH = 4, 4  # with 8 of these dialogues LLaMA-Factory takes more than 24 GB
PEERS = {"trl": ["trl==1.16.0", "peft==0.21.2", "torch==2.13.0"], "llamafactory": ["llamafactory==0.9.5"]}
RANK = {"r": 16, "lora_alpha": 32}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Job = dict[str, Any]


# --- measured in every worker


def matrix_flops(dtype: Any, size: int = 2048, seconds: float = 1.0) -> float:
    """Floating-point operations a second of large matrix products, kept up for a while."""
    import torch

    left, right = (torch.ones(size, size, dtype=dtype) for _ in range(2))
    done, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        left @ right
        done += 1
    return 2 * size**3 * done / spent


def make_timer(dtype: Any) -> Any:
    """A callback that times each optimiser step, counts the labels of each batch, and measures the limit in between."""
    from transformers import TrainerCallback

    class Timer(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.labels: list[int] = []
            self.limits: list[float] = []

        def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
            self.labels = [int((batch["labels"][:, 1:] != -100).sum()) for batch in train_dataloader]

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.begun = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.seconds.append(time.perf_counter() - self.begun)
            self.limits.append(matrix_flops(dtype))

    return Timer()


def result(timer: Any) -> Job:
    """What the worker prints; the first step is warm-up."""
    return {
        "seconds": sum(timer.seconds[1:]),
        "labels": sum(timer.labels[1:STEPS]),
        "limit": statistics.mean(timer.limits),
        "peak": peak_bytes(),
    }


def peak_bytes() -> int:
    """The most memory that this process had; getrusage would count what its parent had when it started this one."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))[1])


# --- the workers, each in its own environment


def run_ours(job: Job) -> Job:
    """This project's trainer, without evaluation and checkpoints."""
    from dataclasses import replace

    from stages import train as ours
    from stages.base_model import load_base
    from stages.lessons import Lessons
    from stages.packed import Sample, choose_layout, install
    from stages.params import load_params

    ours.be_quiet()
    ours.make_deterministic()
    params = load_params("train", ours.TrainParams)
    params = replace(params, base_model=job["model"], epochs=1, max_steps=0, batch_size=BATCH, patience=0)
    params = replace(params, **job.get("changes", {}))
    arguments = ours.make_arguments(params)
    arguments.output_dir, arguments.save_strategy = job["out"], "no"
    arguments.train_sampling_strategy = "sequential"
    base, _ = load_base(job["model"], dtype=job["dtype"], quantize=job.get("quantize"))
    lessons = Lessons([Sample(*sample) for sample in job["samples"]], 0, 0, 0)
    layout = choose_layout(base)
    model = ours.add_lora(base, params)
    install(base)
    trainer = ours.make_trainer(model, layout, params, arguments, lessons, Lessons([], 0, 0, 0))
    timer = make_timer(base.dtype)
    trainer.add_callback(timer)
    ours.fit(trainer, Path(job["out"]) / "train.tsv")
    return result(timer)


def run_trl(job: Job) -> Job:
    """TRL's SFTTrainer on the same tokens and labels."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    half = job["dtype"] == "bf16"
    rows = {"input_ids": [ids for ids, _ in job["samples"]], "labels": [labels for _, labels in job["samples"]]}
    config = SFTConfig(
        **common(job),
        bf16=half,
        gradient_checkpointing=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        train_sampling_strategy="sequential",
        model_init_kwargs={"dtype": "float32"},
    )
    timer = make_timer(torch.bfloat16 if half else torch.float32)
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32),
        args=config,
        train_dataset=Dataset.from_dict(rows),
        processing_class=AutoTokenizer.from_pretrained(job["model"]),
        peft_config=LoraConfig(**RANK, target_modules=TARGETS, task_type="CAUSAL_LM"),
        callbacks=[timer],
    )
    trainer.train()
    return result(timer)


def run_llamafactory(job: Job) -> Job:
    """LLaMA-Factory on the same dialogues, under its own Gemma template."""
    import torch
    from llamafactory.train.tuner import run_exp

    half = job["dtype"] == "bf16"
    timer = make_timer(torch.bfloat16 if half else torch.float32)
    settings = {
        **common(job),
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": job["model"] if half else in_fp32(Path(job["model"])),
        "template": "gemma",
        "finetuning_type": "lora",
        "lora_rank": RANK["r"],
        "lora_alpha": RANK["lora_alpha"],
        "lora_target": ",".join(TARGETS),
        "dataset_dir": job["dataset"],
        "dataset": "train",
        "cutoff_len": 4096,
        "disable_shuffling": True,
        "disable_gradient_checkpointing": True,
        "overwrite_cache": True,
        "bf16": half,
    }
    run_exp(settings, callbacks=[timer])
    return result(timer)


def in_fp32(model: Path) -> str:
    """The same model under a configuration of fp32: LLaMA-Factory takes a base's precision from there alone."""
    folder = CACHE / "fp32"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in model.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float32"}), encoding="utf-8")
    return str(folder)


def common(job: Job) -> Job:
    """The Trainer settings that both peers take."""
    return {
        "output_dir": job["out"],
        "per_device_train_batch_size": BATCH,
        "max_steps": STEPS,
        "learning_rate": 3e-4,
        "lr_scheduler_type": "cosine",
        "use_cpu": True,
        "report_to": "none",
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
    }


WORKERS: dict[str, Callable[[Job], Job]] = {"ours": run_ours, "trl": run_trl, "llamafactory": run_llamafactory}


# --- the benchmark


def prepare() -> None:
    """A venv for each peer; afterwards the CPU build of torch is put back, which LLaMA-Factory's own needs replace."""
    for peer, needs in PEERS.items():
        folder = CACHE / peer
        if (folder / "ready").exists():
            continue
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q"]
        subprocess.run([*pip, *needs], check=True)
        if peer == "llamafactory":
            subprocess.run([*pip, "--force-reinstall", "--no-deps", "torch==2.13.0"], check=True)
            subprocess.run([*pip[:3], "uninstall", "-q", "-y", "torchvision", "torchaudio"], check=True)
            site = next((folder / "lib").glob("python*/site-packages"))
            (site / "torchaudio.py").touch()
        (folder / "ready").touch()


def make_job(dtype: str) -> Job:
    """The longest dialogues of the train split, in batches of like length, in the forms that the three take."""
    from stages.base_model import embedded_folder, load_tokenizer
    from stages.lessons import read_lessons
    from stages.records import read_jsonl, write_json, write_jsonl
    from stages.train import DATASET

    model = str(embedded_folder())
    folder = CACHE / "data"
    whole = (r for r in read_jsonl(DATASET / "train.jsonl") if all(m.get("learn") is not False for m in r["messages"]))
    rows = sorted(whole, key=lambda row: len(str(row["messages"])))[-STEPS * BATCH :]
    assert len(rows) == STEPS * BATCH, "the train split has too few dialogues that are learned whole"
    write_jsonl(folder / "train.jsonl", rows)
    info = json.loads((DATASET / "dataset_info.json").read_text(encoding="utf-8"))
    write_json(folder / "dataset_info.json", {"train": info["train"]})
    lessons = read_lessons(folder / "train.jsonl", load_tokenizer("embedded"), 4096)
    return {"model": model, "samples": lessons.samples, "dataset": str(folder), "dtype": dtype}


def necessary_flops(job: Job) -> float:
    """Body (forward and input gradient) of the tokens without repeated openings, head (both) of the supervised ones."""
    from stages.packed import IGNORE, Sample, pack

    samples = [Sample(*sample) for sample in job["samples"]]
    batches = [pack(samples[i : i + BATCH])["labels"] for i in range(BATCH, STEPS * BATCH, BATCH)]
    body, head = 100e6, 262_144 * 640
    return sum(4 * body * labels.numel() + 4 * head * int((labels != IGNORE).sum()) for labels in batches)


def measure(name: str, job: Job) -> Job:
    """Run a worker in its environment and read its last line."""
    python = sys.executable if name == "ours" else str(CACHE / name / "bin" / "python")
    path = CACHE / "job.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**job, "out": str(CACHE / "out" / name)}), encoding="utf-8")
    shutil.rmtree(CACHE / "out" / name, ignore_errors=True)
    environment = {**os.environ, "DISABLE_VERSION_CHECK": "1", "HF_HUB_OFFLINE": "1"}
    command = [python, str(Path(__file__)), "--worker", name, str(path)]
    if name == "ours":
        command[1:2] = ["-m", "benchmarks.train"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {name} failed\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def report(runs: dict[str, list[Job]], work: float) -> None:
    """Medians and ranges; ratios pair by pair, for machines drift."""
    print(f"{'':14}{'labels/s':>10}{'range':>14}{'of limit':>10}{'peak GB':>9}{'ours / it, paired':>26}")
    speeds = {name: [run["labels"] / run["seconds"] for run in done] for name, done in runs.items()}
    for name, done in runs.items():
        share = statistics.median(work / run["seconds"] / run["limit"] for run in done)
        ratios = sorted(mine / its for mine, its in zip(speeds["ours"], speeds[name], strict=True))
        low, high = min(speeds[name]), max(speeds[name])
        paired = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        peak = statistics.median(run["peak"] for run in done) / 1e9
        speed = statistics.median(speeds[name])
        print(f"{name:14}{speed:>10.1f}{f'{low:.1f}-{high:.1f}':>14}{share:>10.0%}{peak:>9.2f}{paired:>26}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--prepare", action="store_true", help="make the peers' venvs and stop")
    options.add_argument("--pairs", type=int, default=5)
    options.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    options.add_argument("--worker", nargs=2, metavar=("NAME", "JOB"), help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.prepare:
        prepare()
    elif chosen.worker:
        name, path = chosen.worker
        print(json.dumps(WORKERS[name](json.loads(Path(path).read_text(encoding="utf-8")))))
    else:
        job = make_job(chosen.dtype)
        runs: dict[str, list[Job]] = {name: [] for name in WORKERS}
        for pair in range(chosen.pairs):
            for name in list(WORKERS)[:: 1 if pair % 2 else -1]:
                runs[name].append(measure(name, job))
                print(json.dumps({"pair": pair, "trainer": name, **runs[name][-1]}), file=sys.stderr)
        report(runs, necessary_flops(job))


if __name__ == "__main__":
    main()
