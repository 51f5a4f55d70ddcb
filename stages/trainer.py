"""The Trainer of dialogues: a loss summed over tokens, sealed checkpoints, an early end, a bar and a file of curves.

In: a model that gives its summed loss, lessons. Out: the trained model, checkpoints, reports/train.tsv.
"""

import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from tqdm import tqdm
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stages.checkpoint import prune, seal
from stages.lessons import Lessons, fill
from stages.records import InputError

BITS = "eval_bits_per_character"
CURVE_OF = {"loss": "train_loss", BITS: "validation_bits_per_character"}  # the Trainer's name -> the column
COLUMNS = ("step", "epoch", *CURVE_OF.values())
REMEDY = "lower train.learning_rate, or take a base that bears the precision named above"
SAVE_SECONDS = 60.0  # between checkpoints within an epoch; decides no byte of the adapter


class DialogueTrainer(Trainer):
    """Trainer whose loss is summed over a batch's supervised tokens and divided by those of all processes."""

    loss_is_scaled_for_ga = True
    step_tokens = 0

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """This process's share of the mean loss a token; DDP averages the shares, hence the factor."""
        self.step_tokens = int(num_items_in_batch)
        return model(**inputs)["loss"] * (self.accelerator.num_processes / max(1, self.step_tokens))

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Bits a character over the validation lessons, each process taking its share."""
        lessons: Lessons = self.eval_dataset
        self.model.eval()
        nats = 0.0
        size = self.args.per_device_train_batch_size
        samples = fill(lessons.samples, size * self.args.world_size)  # all take as many turns: sharded weights wait
        batches = [samples[i : i + size] for i in range(0, len(samples), size)]
        with torch.no_grad():
            for batch in batches[self.args.process_index :: self.args.world_size]:
                nats += self.model(**self._prepare_inputs(self.data_collator(batch)))["loss"].item()
        metrics = {BITS: sum(gather_object([nats])) / math.log(2) / lessons.characters}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class Keeper(TrainerCallback):
    """Seals checkpoints, makes one now and then within an epoch, ends the training when validation gets no better."""

    def __init__(self, patience: int, steps_an_epoch: int) -> None:
        self.patience, self.steps_an_epoch = patience, steps_an_epoch
        self.saved = time.monotonic()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # Not at an epoch's last step: its evaluation is still to come, and would be missed by who resumes from here.
        if args.save_strategy != "no" and self._within(state):
            due = time.monotonic() - self.saved >= SAVE_SECONDS
            control.should_save = broadcast_object_list([due])[0]  # by one clock: who saves waits for the others

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # Not where max_steps ends the last epoch early: the Trainer would go on with that epoch.
        control.should_save = control.should_save and not state.global_step % self.steps_an_epoch

    def _within(self, state: TrainerState) -> bool:
        return state.global_step % self.steps_an_epoch != 0 and state.global_step < state.max_steps

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # Without the base model's: it is no checkpoint, and the Trainer's best is one of those.
        bits = [entry[BITS] for entry in state.log_history if BITS in entry and entry["step"]]
        if self.patience and bits and len(bits) - 1 - bits.index(min(bits)) >= self.patience:
            # No checkpoint of the end: who resumes from an earlier one comes to the same end.
            control.should_training_stop, control.should_save = True, False

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        args.distributed_state.wait_for_everyone()  # each process writes its own random state
        if args.should_save:
            folder, last = Path(args.output_dir), f"checkpoint-{state.global_step}"
            seal(folder / last)
            prune(folder, {last, Path(state.best_model_checkpoint or last).name})
        self.saved = time.monotonic()


class Progress(TrainerCallback):
    """One bar on a terminal, a line every tenth elsewhere; the curves file grows with it."""

    def __init__(self, trainer: DialogueTrainer, curves: Path) -> None:
        self.trainer, self.curves = trainer, curves
        self.tokens, self.seconds = 0, 0.0  # of the steps alone, without evaluation and checkpoints

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.first, hidden = state.global_step, not (state.is_world_process_zero and sys.stderr.isatty())
        self.bar = tqdm(total=state.max_steps, initial=self.first, unit="step", desc="train", disable=hidden)

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.begun = time.monotonic()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.seconds += time.monotonic() - self.begun
        self.tokens += self.trainer.step_tokens

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        wrong = [f"{name} is {logs[name]}" for name in logs.keys() & CURVE_OF if not math.isfinite(logs[name])]
        if wrong:
            raise InputError(f"step {state.global_step}: expected finite losses, {wrong[0]}\nhint: {REMEDY}")
        if state.is_world_process_zero and not logs.keys().isdisjoint(CURVE_OF):
            write_curves(self.curves, state.log_history)
            self._report(state, logs)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar.close()
        if state.is_world_process_zero:  # once more: who resumes with no step left has logged nothing
            write_curves(self.curves, state.log_history)

    def _report(self, state: TrainerState, logs: dict[str, float]) -> None:
        step, total = state.global_step, state.max_steps
        if BITS in logs:
            say(self.trainer.args, f"epoch {state.epoch or 0:.0f}: {logs[BITS]:.3f} bits a character in validation")
            return
        speed = f"loss {logs['loss']:.3f}, {self.tokens / self.seconds:.0f} supervised tokens/s"
        self.bar.set_postfix_str(speed, refresh=False)
        self.bar.update()
        if self.bar.disable and step * 10 // total > (step - 1) * 10 // total:
            left = self.seconds / (step - self.first) * (total - step)
            say(self.trainer.args, f"step {step} of {total}, {speed}, {left:.0f} s left")


def write_curves(path: Path, history: list[dict[str, float]]) -> None:
    """The TSV of the curves; a validation value stands in the row of its step. No times: equal runs, equal bytes."""
    rows: dict[int, dict[str, Any]] = {}
    for entry in history:
        for key in CURVE_OF.keys() & entry.keys():
            row = rows.setdefault(entry["step"], {"step": entry["step"], "epoch": f"{entry.get('epoch') or 0:.4f}"})
            row[CURVE_OF[key]] = f"{entry[key]:.6f}"
    lines = ["\t".join(COLUMNS), *("\t".join(str(row.get(name, "")) for name in COLUMNS) for row in rows.values())]
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".partial")
    aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    aside.replace(path)


def say(arguments: TrainingArguments, *lines: str) -> None:
    """Lines to stderr, from the main process alone."""
    if arguments.process_index == 0:
        for line in lines:
            tqdm.write(f"train: {line}", file=sys.stderr)
