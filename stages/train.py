"""processed/dataset/ (train.jsonl, validation.jsonl, character.json) -> models/adapter/ (LoRA) and reports/train.tsv.

One dialogue is one sample, every `learn` turn in it a label. Equal inputs on one machine give equal bytes, killed and
resumed or not. `python -m stages.train --plan` says what fits a GPU, from the model's configuration alone.
"""

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PrinterCallback, TrainingArguments, set_seed

from stages.base_model import find_device, load_base, lora_targets
from stages.checkpoint import discard, fingerprint, locked, newest
from stages.cli import end_with_dvc, run
from stages.lessons import Lessons, fill, read_lessons, steps_an_epoch
from stages.lora import add_in_place
from stages.norm import derive_norms
from stages.packed import Layout, Sample, choose_layout, install
from stages.params import load_params
from stages.records import InputError, write_json
from stages.settings import CARD, CONFIG, DECODING, MOST, SENSES, SETTINGS, TEMPLATE, Fields, integer, number, one_of
from stages.trainer import DialogueTrainer, Keeper, Progress, say

DATASET = Path("processed/dataset")
ADAPTER = Path("models/adapter")
CURVES = Path("reports/train.tsv")
ACCUMULATION = "TRAIN_ACCUMULATION"
LAUNCH = "TRAIN_LAUNCH"  # options of torchrun, such as --nproc-per-node 4; of the machine, so not in params.yaml
SHARD = "TRAIN_SHARD"  # 1: the processes share out the base's weights instead of holding a copy each
CHECKPOINTS = Path("checkpoints")  # in $DVC_ROOT, so that `dvc exp run --temp` finds them too
SPLITS = ("train", "validation")
STOOD = 3 * 3e-4 * 1.01  # epochs times learning rate that small texts stood (`advise`), and what rounding may add


@dataclass(frozen=True)
class TrainParams:
    """The `train` section of params.yaml."""

    base_model: str
    revision: str | None
    quantize: str
    rank: int
    alpha: int
    dropout: float
    rslora: bool
    dora: bool
    epochs: int
    max_steps: int
    batch_size: int
    learning_rate: float
    schedule: str
    warmup: float
    weight_decay: float
    max_grad_norm: float
    max_length: int
    patience: int
    gradient_checkpointing: bool
    seed: int
    decoding: dict[str, Any]


# --- the parts of a training


def make_arguments(params: TrainParams) -> TrainingArguments:
    """The Trainer's settings; processes and accumulation come from the environment and change no batch."""
    arguments = TrainingArguments(**SETTLED, **of_params(params), **of_machine())
    arguments._n_gpu = min(1, arguments.n_gpu)  # several GPUs in one process would mean DataParallel
    arguments.per_device_train_batch_size = at_once(params.batch_size, arguments)
    return arguments


SETTLED = {
    "logging_steps": 1,
    "logging_nan_inf_filter": False,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "metric_for_best_model": "bits_per_character",
    "greater_is_better": False,
    "remove_unused_columns": False,
    "ddp_find_unused_parameters": False,
    "report_to": [],
    "disable_tqdm": True,
    "log_level": "error",
}


def of_params(params: TrainParams) -> dict[str, Any]:
    """Our parameters by the Trainer's names."""
    return {
        "num_train_epochs": params.epochs,
        "max_steps": params.max_steps or -1,
        "learning_rate": params.learning_rate,
        "lr_scheduler_type": params.schedule,
        "warmup_steps": params.warmup,
        "weight_decay": params.weight_decay,
        "max_grad_norm": params.max_grad_norm,
        "activation_checkpointing": params.gradient_checkpointing,
        "seed": params.seed,
        "data_seed": params.seed,
        "load_best_model_at_end": params.patience > 0,
    }


def of_machine() -> dict[str, Any]:
    """What the device and the environment decide."""
    cpu, cuda = (find_device().type == name for name in ("cpu", "cuda"))
    return {
        "gradient_accumulation_steps": accumulation(),
        "dataloader_pin_memory": cuda,
        "ddp_backend": "gloo" if cpu and "RANK" in os.environ else None,
        "use_cpu": cpu,
    }


def at_once(batch_size: int, arguments: TrainingArguments) -> int:
    """Dialogues of a batch that a process takes at once."""
    ways = arguments.world_size * arguments.gradient_accumulation_steps
    if batch_size % ways:
        raise InputError(
            f"params.yaml: `train.batch_size`: expected a multiple of {ways} (processes times {ACCUMULATION}), "
            f"got {batch_size}"
        )
    return batch_size // ways


def accumulation() -> int:
    """Parts of a batch that a process takes one after the other, from the environment: the machine decides it."""
    parts = os.environ.get(ACCUMULATION, "1")
    if not parts.isdecimal() or int(parts) < 1:
        raise InputError(f"{ACCUMULATION}: expected a number of parts, 1 or more, got {parts!r}")
    return int(parts)


def shared() -> bool:
    """Whether the processes share the base's weights out, from the environment."""
    value = os.environ.get(SHARD, "")
    if value not in ("", "0", "1"):
        raise InputError(f"{SHARD}: expected 0 or 1, got {value!r}")
    return value == "1"


def add_lora(model: PreTrainedModel, params: TrainParams) -> PeftModel:
    """The frozen base with fresh fp32 LoRA weights on its projections."""
    set_seed(params.seed)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        target_modules=lora_targets(model),
        exclude_modules=SENSES if any(re.fullmatch(SENSES, name) for name, _ in model.named_modules()) else None,
        r=params.rank,
        lora_alpha=params.alpha,
        lora_dropout=params.dropout,
        use_rslora=params.rslora,
        use_dora=params.dora,
    )
    adapted = get_peft_model(model, config)
    add_in_place(adapted)
    derive_norms(adapted)
    # The embeddings are as they were; PEFT would ask the hub whether they are, at each checkpoint.
    adapted.save_pretrained = partial(adapted.save_pretrained, save_embedding_layers=False)
    return adapted


def make_trainer(
    model: PeftModel, layout: Layout, params: TrainParams, arguments: TrainingArguments, train: Lessons, check: Lessons
) -> DialogueTrainer:
    """A quiet Trainer over both splits."""
    if not check.samples:
        arguments.eval_strategy = "no"
    # The Trainer refuses to save the optimiser of a sharded model; here it is the adapter's, whole in every process.
    arguments.save_only_model = shared()
    trainer = DialogueTrainer(
        model=model,
        args=arguments,
        data_collator=layout.collate,
        train_dataset=fill(train.samples, params.batch_size),
        eval_dataset=check,
        callbacks=[Keeper(params.patience, steps_an_epoch(train.samples, params.batch_size))],
    )
    arguments.save_only_model = False
    trainer.model_accepts_loss_kwargs = True  # counts the labels of the whole optimiser batch for compute_loss
    trainer.remove_callback(PrinterCallback)
    return trainer


def save_adapter(model: PeftModel, tokenizer: Any, card: dict[str, Any], target: Path) -> None:
    """Write the adapter folder aside, then put it in place whole."""
    aside = target.with_name(f".{target.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    # Named, or PEFT would gather the base's weights too, which a process alone cannot.
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    model.save_pretrained(aside, state_dict=trained)
    (aside / "README.md").unlink()  # PEFT's empty form
    config = json.loads((aside / CONFIG).read_text(encoding="utf-8"))
    config["target_modules"].sort()  # a set before: its order changes from run to run
    # Not a path of this machine.
    config |= {"base_model_name_or_path": card["base_model"], "revision": card["revision"]}
    write_json(aside / CONFIG, config)
    (aside / TEMPLATE).write_text(tokenizer.chat_template, encoding="utf-8")
    write_json(aside / CARD, card)
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)


# --- words


def be_quiet() -> None:
    """No bars and notices but our own."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)  # PEFT 0.21 asks by the old name


def describe(train: Lessons, check: Lessons, params: TrainParams, model: PeftModel) -> str:
    """What will be learned, and what to expect of it."""
    weights = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    advice = advise(train.supervised, epochs(train.samples, params), params.learning_rate)
    return (
        f"{train.turns:,} turns to learn in {len(train.samples):,} samples, {train.lost} lost; "
        f"{train.supervised:,} of {train.tokens:,} tokens supervised; {check.turns:,} turns in validation\n"
        f"train: {how_long(params)} of {steps_an_epoch(train.samples, params.batch_size)} steps; "
        f"{weights:,} weights to train, {weights / train.supervised:,.0f} a token; {advice}"
    )


def epochs(samples: Sequence[Sample], params: TrainParams) -> float:
    """How often each sample is seen."""
    return params.max_steps / steps_an_epoch(samples, params.batch_size) if params.max_steps else params.epochs


def how_long(params: TrainParams) -> str:
    """The length of the training in words."""
    return f"{params.max_steps} steps, epochs" if params.max_steps else f"{params.epochs} epochs"


def advise(supervised: int, times: float, learning_rate: float) -> str:
    """Where over-fitting is to be expected, judged by two trainings of the embedded base at rank 16 and 3e-4.

    15,827 tokens were best after 2 epochs of 3; 8,992 tokens still a little better after the third.
    """
    if supervised > 200_000:
        return "a large text: over-fitting is not expected within a few epochs"
    if times * learning_rate <= STOOD:
        return "small texts are at their best after two or three such epochs"
    return "over-fitting is likely: small texts were at their best after two or three epochs at 3e-4 (train.patience)"


def environment(arguments: TrainingArguments, layout: Layout, model: PreTrainedModel) -> dict[str, Any]:
    """All that decides the last bits of a result beside code, data and parameters."""
    packages = ("torch", "transformers", "peft", "accelerate", "tokenizers")
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "dtype": str(model.dtype),
        "layout": [layout.name, layout.attention],
        "threads": torch.get_num_threads(),
        "processes": arguments.world_size,
        "shards": shared(),
        "accumulation": arguments.gradient_accumulation_steps,
        "python": platform.python_version(),
        **{name: sys.modules[name].__version__ for name in packages},
    }


def model_traits(model: PreTrainedModel) -> dict[str, Any]:
    """The base model by its configuration and the first values of every tensor."""
    weights = {name: whole(weight).flatten()[:8].float().tolist() for name, weight in model.named_parameters()}
    return {"config": model.config.to_diff_dict(), "weights": weights}


def whole(weight: torch.Tensor) -> torch.Tensor:
    """The weight itself, gathered where it is spread over the processes."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def name_training(params: TrainParams, facts: dict[str, Any], base: PreTrainedModel, *lessons: Lessons) -> str:
    """The fingerprint of all that decides the adapter's bytes."""
    files = {name: module.__file__ for name, module in sys.modules.items() if name.startswith("stages.")}
    files["stages.train"] = __file__  # as a stage it runs under the name __main__
    code = {name: Path(file).read_text(encoding="utf-8") for name, file in files.items()}
    data = [split.samples for split in lessons]
    return fingerprint({"params": asdict(params), "facts": facts, "code": code, "data": data, **model_traits(base)})


# --- the stage


def make_deterministic() -> None:
    """Kernels whose result does not depend on timing."""
    torch.use_deterministic_algorithms(True)
    # It only finds bugs, and costs a pass over every buffer.
    torch.utils.deterministic.fill_uninitialized_memory = False


FIELDS: Fields = {  # what a front would refuse of the adapter is refused here, before it is made
    "quantize": one_of("none", "nf4"),
    "rank": SETTINGS["r"],
    "alpha": SETTINGS["lora_alpha"],
    "dropout": SETTINGS["lora_dropout"],
    "epochs": integer(1, MOST),
    "max_steps": integer(0, MOST),
    "batch_size": integer(1, MOST),
    "learning_rate": number(1e-9, 1),
    "schedule": one_of("constant", "constant_with_warmup", "cosine", "cosine_with_restarts", "inverse_sqrt", "linear"),
    "warmup": number(0, 0.99),  # from 1 on the Trainer would take it for a number of steps
    "weight_decay": number(0, 1),
    "max_grad_norm": number(0, MOST),
    "max_length": integer(1, MOST),
    "patience": integer(0, MOST),
    "seed": integer(0, 2**32 - 1),
    **{f"decoding.{name}": field for name, field in DECODING.items()},
}


def check_params(params: TrainParams) -> None:
    """The values must be ones we can keep a promise about."""
    if sorted(params.decoding) != sorted(DECODING):
        raise InputError(
            f"params.yaml: `train.decoding`: expected the keys {tuple(DECODING)}, got {tuple(params.decoding)}"
        )
    values = asdict(params) | {f"decoding.{name}": value for name, value in params.decoding.items()}
    for name, (expected, fits) in FIELDS.items():
        if not fits(values[name]):
            raise InputError(f"params.yaml: `train.{name}`: expected {expected}, got {values[name]!r}")
    if params.max_steps and params.patience:
        raise InputError("params.yaml: `train.max_steps` and `train.patience` exclude each other\nhint: set one to 0")


def check_machine(params: TrainParams) -> None:
    """What the values ask of this machine and its settings must be there."""
    if shared() and (params.quantize != "none" or params.dora):
        raise InputError(f"params.yaml: with {SHARD} expected `train.quantize: none` and `train.dora: false`")
    if params.quantize == "nf4" and find_device().type != "cuda":
        raise InputError("params.yaml: `train.quantize: nf4` needs an NVIDIA GPU, found none\nhint: set it to none")
    if shared() and not (os.environ.get(LAUNCH) or "RANK" in os.environ):
        raise InputError(f"{SHARD} shares a base out among processes, and there is one\nhint: {LAUNCH} starts more")


def train(params: TrainParams, dataset: Path, adapter: Path, curves: Path, checkpoints: Path) -> None:
    """Train and write the adapter folder and the curves; goes on where an equal training was killed."""
    arguments = make_arguments(params)
    make_deterministic()
    quantize = quantization(params)
    shards = arguments.world_size if shared() else 1
    base, tokenizer = load_base(params.base_model, revision=params.revision, quantize=quantize, shards=shards)
    lessons, check = (read_lessons(dataset / f"{split}.jsonl", tokenizer, params.max_length) for split in SPLITS)
    require_turns(lessons, check, params)
    require_rows(base, lessons, check)
    layout = choose_layout(base)
    facts = environment(arguments, layout, base)
    folder = checkpoints / name_training(params, facts, base, lessons, check)
    model = add_lora(base, params)
    install(base)
    say(arguments, describe(lessons, check, params, model), f"{layout.name} rows, {facts['dtype']}, {facts['device']}")
    arguments.output_dir = str(folder)
    arguments.mixed_precision = "fp16" if base.dtype == torch.float16 else "no"  # fp16 scales the loss
    with locked(folder) if arguments.process_index == 0 else nullcontext():
        fit(make_trainer(model, layout, params, arguments, lessons, check), curves)
        if arguments.process_index == 0:
            save_adapter(model, tokenizer, make_card(dataset, params), adapter)
            write_json(checkpoints / "last_run.json", facts)
            discard(folder)


def fit(trainer: DialogueTrainer, curves: Path) -> None:
    """Train to the end, from the newest sealed checkpoint if there is one."""
    arguments = trainer.args
    with arguments.main_process_first():
        resume = newest(Path(arguments.output_dir))
    arguments.eval_on_start = resume is None and arguments.eval_strategy != "no"
    trainer.add_callback(Progress(trainer, curves))
    with disable_input_dtype_casting(trainer.model):  # autocast does it, without a copy of every input
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)


def require_turns(lessons: Lessons, check: Lessons, params: TrainParams) -> None:
    """There must be something to learn, and something to stop by."""
    if lessons.lost and not lessons.samples:
        raise InputError(
            f"expected turns of at most {params.max_length} tokens with the persona before them, all {lessons.lost} of "
            "the train split are longer\nhint: raise `train.max_length`, or shorten persona.md"
        )
    if not lessons.samples:
        raise InputError("the train split has no turn to learn\nhint: reports/filter.json and denoise.json say why")
    if params.patience and not check.samples:
        raise InputError("`train.patience` needs a validation split, which has no turn\nhint: set it to 0")


def require_rows(base: PreTrainedModel, *lessons: Lessons) -> None:
    """The base must have an embedding for each token of the lessons."""
    rows = base.get_input_embeddings().weight.shape[0]
    last = max(max(sample.ids) for split in lessons for sample in split.samples)
    if last >= rows:
        raise InputError(
            f"{base.name_or_path}: expected token ids below {rows}, the rows of its embeddings, its tokenizer gave "
            f"{last}\nhint: take the tokenizer that was published with these weights"
        )


def make_card(dataset: Path, params: TrainParams) -> dict[str, Any]:
    """What a front needs beside the weights."""
    card = json.loads((dataset / CARD).read_text(encoding="utf-8"))
    base = {"base_model": params.base_model, "revision": params.revision, "quantize": quantization(params)}
    return card | base | {"decoding": params.decoding}


def quantization(params: TrainParams) -> str | None:
    """As `load_base` takes it."""
    return None if params.quantize == "none" else params.quantize


def launch(options: list[str]) -> None:
    """Run this stage as several processes, each on its own GPU; raises InputError if one of them fails."""
    command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "stages.train"]
    environment = {name: value for name, value in os.environ.items() if name != LAUNCH}  # or each would launch anew
    code = subprocess.run(command, env=environment, preexec_fn=end_with_dvc).returncode
    if code:
        raise InputError(f"{' '.join(command[1:])}: expected success, got status {code}\nhint: the reason stands above")


def main() -> None:
    parser = ArgumentParser(prog="python -m stages.train", description="Train the adapter, as params.yaml says.")
    parser.add_argument("--plan", action="store_true", help="train nothing: say what fits and how long it takes")
    parser.add_argument("--base", help="with --plan: another base model than params.yaml's")
    parser.add_argument("--gpu-gb", type=float, help="with --plan: for a GPU of this memory, not for this machine")
    parser.add_argument("--gpus", type=int, default=1, help="with --plan: for so many of them (default: 1)")
    chosen = parser.parse_args()
    be_quiet()
    params = load_params("train", TrainParams)
    check_params(params)
    if chosen.plan:
        # Not a plain import: a plan decides nothing about the adapter, so an edit of it must not train anew.
        base = chosen.base or params.base_model
        print(import_module("stages.plan").plan(params, base, chosen.gpu_gb, chosen.gpus, DATASET))
        return
    check_machine(params)
    if options := shlex.split(os.environ.get(LAUNCH, "")):
        return launch(options)
    train(params, DATASET, ADAPTER, CURVES, Path(os.environ.get("DVC_ROOT", ".")) / CHECKPOINTS)


if __name__ == "__main__":
    run(main)
