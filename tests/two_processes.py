"""Run by test_train.py, alone and under torchrun: the gradients of the first optimiser step, into a file."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from stages.base_model import load_base
from stages.packed import choose_layout, install
from stages.params import load_params
from stages.train import (
    TrainParams,
    add_lora,
    be_quiet,
    make_arguments,
    make_deterministic,
    make_trainer,
    read_lessons,
    shared,
)


class Capture(TrainerCallback):
    def __init__(self, target):
        self.target = target

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
        if args.process_index == 0:
            torch.save(gradients, self.target)
            layers = [weight for name, weight in model.named_parameters() if "layers." in name and "lora_" not in name]
            held = sum((weight.to_local() if isinstance(weight, DTensor) else weight).numel() for weight in layers)
            print(f"{held / sum(weight.numel() for weight in layers):.0%} of the layers held")
        control.should_training_stop = True


def main(work, target):
    be_quiet()
    make_deterministic()
    defaults = load_params("train", TrainParams, Path(__file__).parents[1] / "params.yaml")
    params = replace(defaults, base_model=str(work / "base"), batch_size=4, dropout=0.0, max_grad_norm=1e9)
    arguments = make_arguments(params)
    arguments.eval_strategy = arguments.save_strategy = "no"
    arguments.output_dir = str(target.parent / "unused")
    shards = arguments.world_size if shared() else 1
    base, tokenizer = load_base(params.base_model, dtype="fp32", shards=shards)
    train = read_lessons(work / "dataset" / "train.jsonl", tokenizer, params.max_length)
    layout = choose_layout(base)
    model = add_lora(base, params)
    torch.manual_seed(5)
    for name, weight in model.named_parameters():  # lora_B starts at zero, where lora_A has no gradient
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    install(base)
    trainer = make_trainer(model, layout, params, arguments, train, train)
    trainer.add_callback(Capture(target))
    trainer.train()
    print(f"{arguments.world_size} processes, {arguments.per_device_train_batch_size} dialogues each")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
