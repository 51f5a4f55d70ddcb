"""Training as a stage: the folder it writes, the same bytes each time, and the same bytes after any kill -9."""

import contextlib
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
import torch
from peft import PeftModel
from ruamel.yaml import YAML
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3TextConfig,
    PreTrainedTokenizerFast,
    TrainerControl,
    TrainerState,
)

import stages.train
import stages.trainer
from stages.base_model import load_base
from stages.checkpoint import locked, newest, prune, seal
from stages.lessons import fill, read_lessons, steps_an_epoch
from stages.lora import add_in_place
from stages.packed import IGNORE, Sample, choose_layout, install
from stages.params import load_params
from stages.records import InputError, write_json, write_jsonl
from stages.train import (
    LAUNCH,
    SHARD,
    TrainParams,
    add_lora,
    advise,
    check_machine,
    check_params,
    launch,
    shared,
    train,
)
from stages.trainer import BITS, Keeper, write_curves

ROOT = Path(__file__).parents[1]
EARLY = {"patience": 1, "learning_rate": 0.3, "epochs": 30}
ALONE = {"OMP_NUM_THREADS": "1"} | ({} if torch.cuda.device_count() > 1 else {"CUDA_VISIBLE_DEVICES": ""})
TWO = {LAUNCH: "--standalone --nproc-per-node 2"}
SAID = ("我是高性能的机器人！", "夏生先生，今天吃什么？", "早上好，亚托莉。", "海边的风很舒服。", "嗯……（低下头）")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>assistant\n{% endif %}"
)
CONTROL = ["<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]


def make_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        SAID,
        trainers.BpeTrainer(vocab_size=300, special_tokens=CONTROL, initial_alphabet=alphabet, show_progress=False),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens=CONTROL[3:],
    )
    fast.chat_template = TEMPLATE
    return fast


def make_base(folder):
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def dialogues(count, seed):
    rng = random.Random(seed)
    for number in range(count):
        messages = [{"role": "system", "content": "你是亚托莉。"}]
        for turn in range(rng.randint(1, 3)):
            messages.append({"role": "user", "content": rng.choice(SAID)})
            messages.append(
                {"role": "assistant", "content": rng.choice(SAID), "learn": turn == 0 or rng.random() < 0.8}
            )
        yield {"id": str(number), "messages": messages}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A working folder with a tiny base and a tiny data set."""
    folder = tmp_path_factory.mktemp("work")
    make_base(folder / "base")
    for split, count in (("train", 21), ("validation", 4)):
        write_jsonl(folder / "dataset" / f"{split}.jsonl", dialogues(count, split))
    card = {"character": "亚托莉", "partner": "夏生", "persona": "你是亚托莉。", "user_name": "夏生"}
    write_json(folder / "dataset" / "character.json", card)
    return folder


@pytest.fixture
def params(work):
    defaults = load_params("train", TrainParams, Path(__file__).parents[1] / "params.yaml")
    return replace(defaults, base_model=str(work / "base"), epochs=2, batch_size=4, rank=4, dropout=0.2)


def run(work, params, out):
    stages.train.be_quiet()
    with contextlib.redirect_stderr(open(os.devnull, "w")):
        train(params, work / "dataset", out / "adapter", out / "train.tsv", out / "checkpoints")


def written(out):
    files = [*(out / "adapter").iterdir(), out / "train.tsv"]
    return {path.name: path.read_bytes() for path in files}


def test_a_number_of_steps_takes_the_place_of_the_epochs(work, params, tmp_path):
    run(work, replace(params, max_steps=3), tmp_path)
    steps = [line.split("\t")[0] for line in (tmp_path / "train.tsv").read_text().splitlines()[1:]]
    assert steps[-1] == "3"


def test_training_writes_a_stock_adapter_and_all_that_a_front_needs(work, params, tmp_path):
    run(work, params, tmp_path)
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "character.json",
        "chat_template.jinja",
    ]
    card = json.loads((tmp_path / "adapter" / "character.json").read_text())
    assert list(card) == [
        "character",
        "partner",
        "persona",
        "user_name",
        "base_model",
        "revision",
        "quantize",
        "decoding",
    ]
    assert (tmp_path / "adapter" / "chat_template.jinja").read_text() == TEMPLATE
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(config["target_modules"]) and "q_proj" in config["target_modules"]
    base = AutoModelForCausalLM.from_pretrained(work / "base")
    PeftModel.from_pretrained(base, tmp_path / "adapter")
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert all(weight.abs().max() > 0 for name, weight in weights.items() if "lora_B" in name), "not trained"
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()], "checkpoints are left behind"


def test_the_loss_falls_and_the_curves_say_so(work, params, tmp_path):
    run(work, replace(params, epochs=6, learning_rate=1e-2), tmp_path)
    head, *rows = [line.split("\t") for line in (tmp_path / "train.tsv").read_text().splitlines()]
    assert head == ["step", "epoch", "train_loss", "validation_bits_per_character"]
    assert [int(row[0]) for row in rows] == list(range(37))
    assert rows[0][2] == "" and rows[0][3], "the first row is the base model's"
    assert [row[0] for row in rows if row[3]] == ["0", "6", "12", "18", "24", "30", "36"]
    assert float(rows[-1][2]) < float(rows[1][2]) and float(rows[-1][3]) < float(rows[0][3])


def test_two_runs_give_the_same_bytes(work, params, tmp_path):
    for name in "ab":
        run(work, params, tmp_path / name)
    assert written(tmp_path / "a") == written(tmp_path / "b")


def test_accumulation_changes_the_result_by_rounding_alone(work, params, tmp_path, monkeypatch):
    params = replace(params, dropout=0.0)
    run(work, params, tmp_path / "one")
    monkeypatch.setenv("TRAIN_ACCUMULATION", "4")
    run(work, params, tmp_path / "four")
    one, four = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("one", "four"))
    assert max((one[name] - four[name]).norm() / one[name].norm() for name in one) < 0.05  # bf16
    one, four = (losses(tmp_path / name / "train.tsv") for name in ("one", "four"))
    assert one == pytest.approx(four, rel=0.01), "the scale of the loss, to which Adam is blind"


def test_a_folder_s_name_is_no_pattern(work, tmp_path):
    lessons = read_lessons(work / "dataset" / "train.jsonl", make_tokenizer(), 2048)
    for name in ("[汉化] atri", "a*b", "a::b", "a?b"):
        shutil.copytree(work / "dataset", tmp_path / name)
        (tmp_path / "a-b").mkdir(exist_ok=True)
        assert read_lessons(tmp_path / name / "train.jsonl", make_tokenizer(), 2048) == lessons


def test_the_first_loss_is_that_of_the_base(work, params, tmp_path):
    run(work, replace(params, batch_size=21), tmp_path)  # the whole split at once, before anything is learned
    base, tokenizer = load_base(str(work / "base"))
    lessons = read_lessons(work / "dataset" / "train.jsonl", tokenizer, 2048)
    nats = 0.0
    for ids, labels in lessons.samples:
        logits = base(input_ids=torch.tensor([ids])).logits[0, :-1].float()
        nats += cross_entropy(logits, torch.tensor(labels[1:]), ignore_index=IGNORE, reduction="sum").item()
    assert losses(tmp_path / "train.tsv")[0] == pytest.approx(nats / lessons.supervised, rel=1e-3)


def test_a_loss_that_is_no_number_ends_the_training(work, params, tmp_path):
    with pytest.raises(
        InputError, match=r"step \d: expected finite losses, loss is nan\nhint: lower train.learning_rate"
    ):
        run(work, replace(params, learning_rate=1e38), tmp_path)
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("changes", [{"dora": True}, {"rslora": True}, {"gradient_checkpointing": True}], ids=str)
def test_each_option_trains(changes, work, params, tmp_path):
    run(work, replace(params, epochs=1, **changes), tmp_path)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_gradient_checkpointing_changes_no_byte(work, params, tmp_path):
    for name, flag in (("without", False), ("with", True)):
        run(work, replace(params, gradient_checkpointing=flag), tmp_path / name)
    assert written(tmp_path / "without") == written(tmp_path / "with")


def column(curves, place):
    rows = [line.split("\t") for line in curves.read_text().splitlines()[1:]]
    return [float(row[place]) for row in rows if row[place]]


def losses(curves):
    """Nats a token of each step's batch, before the step."""
    return column(curves, 2)


def validation_bits(curves):
    """Bits a character after each epoch, the base model's first."""
    return column(curves, 3)


def bits_of(adapter, work, **options):
    """What a written adapter reaches, in one process and without the Trainer; 16 bits tell PEFT's way of adding it."""
    base, tokenizer = load_base(str(work / "base"), **options)
    check = read_lessons(work / "dataset" / "validation.jsonl", tokenizer, 2048)
    layout = choose_layout(base)
    model = PeftModel.from_pretrained(base, adapter)
    add_in_place(model)
    install(base)
    with torch.no_grad():
        return model(**layout.collate(check.samples))["loss"].item() / math.log(2) / check.characters


def test_patience_stops_early_and_keeps_the_best_epoch(work, params, tmp_path):
    run(work, replace(params, **EARLY), tmp_path)
    bits = validation_bits(tmp_path / "train.tsv")
    assert len(bits) < 31 and bits[-1] > min(bits)
    assert bits.index(min(bits)) == len(bits) - 2
    assert abs(bits_of(tmp_path / "adapter", work) - min(bits)) < 2e-6 < bits[-1] - min(bits)


@pytest.mark.parametrize(
    ("bits", "stops"),
    [
        ([5.0, 5.3, 5.1], False),
        ([5.0, 5.3, 5.1, 5.2], False),
        ([5.0, 5.3, 5.1, 5.2, 5.1], True),
        ([5.0, 4.9, 5.1, 5.2], True),
    ],
    ids=str,
)
def test_patience_counts_from_the_best_epoch_and_the_base_model_is_none(bits, stops):
    history = [{BITS: value, "step": step} for step, value in enumerate(bits)]
    control = TrainerControl(should_save=True)
    for end in range(1, len(history) + 1):
        assert not control.should_training_stop, "it would have stopped before"
        Keeper(2, 1).on_evaluate(None, TrainerState(log_history=history[:end]), control)
    assert (control.should_training_stop, control.should_save) == (stops, not stops)


def test_on_four_bits_two_runs_are_equal_and_the_adapter_is_for_four_bits(work, params, tmp_path):
    for name in ("one", "two"):
        run(work, replace(params, quantize="nf4"), tmp_path / name)
    assert written(tmp_path / "one") == written(tmp_path / "two")
    bits, adapter = validation_bits(tmp_path / "one" / "train.tsv"), tmp_path / "one" / "adapter"
    assert bits[-1] < bits[0]
    assert abs(bits_of(adapter, work, quantize="nf4") - bits[-1]) < 2e-6
    assert abs(bits_of(adapter, work) - bits[-1]) > 1e-4, "the whole weights are others"
    assert json.loads((adapter / "character.json").read_text())["quantize"] == "nf4"


# --- data


def test_every_learned_turn_is_supervised_once_with_its_end_and_nothing_else(work):
    tokenizer = make_tokenizer()
    path = work / "dataset" / "train.jsonl"
    rows = [json.loads(line)["messages"] for line in path.read_text().splitlines()]
    wanted = [m["content"] + "<end_of_turn>" for row in rows for m in row if m.get("learn")]
    lessons = read_lessons(path, tokenizer, 2048)
    labels = [tokenizer.decode([i for i in sample.labels if i != IGNORE]) for sample in lessons.samples]
    assert "".join(labels) == "".join(wanted)
    assert (lessons.turns, lessons.lost, lessons.characters) == (
        len(wanted),
        0,
        sum(len(text) - len("<end_of_turn>") for text in wanted),
    )


def test_a_turn_that_fits_in_no_sample_is_counted_as_lost(work):
    whole, short = (read_lessons(work / "dataset" / "train.jsonl", make_tokenizer(), most) for most in (2048, 75))
    assert short.turns == whole.turns and 0 < short.lost < short.turns
    ends = sum(sample.labels.count(4) for sample in short.samples)
    assert ends == short.turns - short.lost, "every other turn is learned"
    assert 0 < short.characters < whole.characters


def test_samples_are_filled_to_whole_batches():
    assert [len(sample.ids) for sample in fill([Sample([1], [1])] * 5, 4)] == [1] * 5 + [0] * 3


def test_the_adviser_warns_of_more_epochs_than_small_texts_stood():
    assert "at their best" in advise(9_000, 3, 3e-4)
    assert "over-fitting is likely" in advise(9_000, 6, 3e-4)
    assert "over-fitting is likely" in advise(9_000, 3, 1e-3)
    assert "not expected" in advise(10_000_000, 6, 3e-4)


def test_a_number_of_steps_is_as_many_epochs_as_it_fills(params):
    samples = [Sample([1], [1])] * 21
    assert steps_an_epoch(samples, 4) == 6, "the last batch holds one"
    assert stages.train.epochs(samples, params) == 2
    assert stages.train.epochs(samples, replace(params, max_steps=60)) == 10


def test_the_advice_is_for_the_steps_that_are_done(work, params, tmp_path, capfd):
    stages.train.be_quiet()
    for steps, words in ((2, "at their best"), (42, "over-fitting is likely")):
        params = replace(params, max_steps=steps, epochs=3, learning_rate=3e-4)
        train(params, work / "dataset", tmp_path / "adapter", tmp_path / "train.tsv", tmp_path / "checkpoints")
        assert words in capfd.readouterr().err


def test_curves_hold_no_times(tmp_path):
    history = [{"loss": 1.5, "epoch": 0.5, "step": 1}, {"train_runtime": 3.25, "step": 1}]
    write_curves(tmp_path / "train.tsv", history)
    assert (tmp_path / "train.tsv").read_text().splitlines()[1:] == ["1\t0.5000\t1.500000\t"]


# --- errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantize": "int3"}, "`train.quantize`: expected none or nf4, got 'int3'"),
        ({"schedule": "cosin"}, "`train.schedule`: expected constant or .*cosine or .*got 'cosin'"),
        ({"rank": 2048}, "`train.rank`: expected a whole number from 1 to 1,024, got 2048"),
        ({"alpha": -4}, "`train.alpha`: expected a number from 0 to 65,536, got -4"),
        ({"dropout": 1.5}, "`train.dropout`: expected a number from 0 to 1, got 1.5"),
        ({"epochs": 0}, "`train.epochs`: expected a whole number from 1 to .*, got 0"),
        ({"max_steps": -1}, "`train.max_steps`: expected a whole number from 0 to .*, got -1"),
        ({"batch_size": 0}, "`train.batch_size`: expected a whole number from 1 to .*, got 0"),
        ({"learning_rate": -1}, "`train.learning_rate`: expected a number from 1e-09 to 1, got -1"),
        ({"learning_rate": math.nan}, "`train.learning_rate`: expected a number from 1e-09 to 1, got nan"),
        ({"warmup": 1}, "`train.warmup`: expected a number from 0 to 0.99, got 1"),
        ({"weight_decay": -0.1}, "`train.weight_decay`: expected a number from 0 to 1, got -0.1"),
        ({"max_grad_norm": math.inf}, "`train.max_grad_norm`: expected a number from 0 to .*, got inf"),
        ({"max_length": 0}, "`train.max_length`: expected a whole number from 1 to .*, got 0"),
        ({"patience": -1}, "`train.patience`: expected a whole number from 0 to .*, got -1"),
        ({"seed": -1}, "`train.seed`: expected a whole number from 0 to 4,294,967,295, got -1"),
        ({"decoding": {"temperature": 1}}, "`train.decoding`: expected the keys"),
        ({"max_steps": 5, "patience": 1}, "exclude each other"),
    ],
    ids=str,
)
def test_a_wrong_value_is_named(changes, message, params):
    with pytest.raises(InputError, match=message):
        check_params(replace(params, **changes))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("temperature", "warm", "a number from 0"),
        ("top_p", 0, "a share above 0, at most 1"),
        ("top_k", -1, "a whole number from 0"),
        ("top_k", 50.0, "a whole number from 0"),
        ("repetition_penalty", 0, "a number above 0"),
        ("max_new_tokens", 160.5, "a whole number from 1"),
        ("max_new_tokens", True, "a whole number from 1"),
    ],
)
def test_a_decoding_that_no_front_would_take_is_refused_before_the_training(name, value, expected, params):
    with pytest.raises(InputError, match=f"`train.decoding.{name}`: expected {expected}.*, got {value!r}"):
        check_params(replace(params, decoding=params.decoding | {name: value}))


def test_every_number_and_every_choice_has_its_bounds(params):
    free = {"base_model", "revision", "rslora", "dora", "gradient_checkpointing", "decoding"}  # names and true or false
    assert {name for name in stages.train.FIELDS if "." not in name} == asdict(params).keys() - free
    check_params(params)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_four_bits_want_a_gpu(params):
    with pytest.raises(InputError, match="needs an NVIDIA GPU"):
        check_machine(replace(params, quantize="nf4"))


def test_where_every_turn_is_longer_than_a_sample_may_be_the_length_is_named(work, params, tmp_path):
    lost = read_lessons(work / "dataset" / "train.jsonl", make_tokenizer(), 20).lost
    with pytest.raises(InputError, match=f"at most 20 tokens .* all {lost} .*\nhint: raise `train.max_length`"):
        run(work, replace(params, max_length=20), tmp_path)


def test_a_train_split_without_a_turn_names_the_reports(work, params, tmp_path):
    shutil.copytree(work / "dataset", tmp_path / "dataset")
    (tmp_path / "dataset" / "train.jsonl").write_text("")
    with pytest.raises(InputError, match=r"no turn to learn\nhint: reports/filter.json and denoise.json say why"):
        run(tmp_path, params, tmp_path)


def test_a_tokenizer_with_more_tokens_than_the_base_has_embeddings_is_refused(work, params, tmp_path):
    shutil.copytree(work / "base", tmp_path / "base")
    tokenizer = make_tokenizer()
    rows = len(tokenizer)
    tokenizer.add_tokens(["夏生"])
    tokenizer.save_pretrained(tmp_path / "base")
    with pytest.raises(
        InputError, match=f"{tmp_path}/base: expected token ids below {rows}, .* its tokenizer gave {rows}"
    ):
        run(work, replace(params, base_model=str(tmp_path / "base")), tmp_path)


def test_a_batch_that_cannot_be_shared_out_is_refused(params, monkeypatch):
    monkeypatch.setenv("TRAIN_ACCUMULATION", "3")
    with pytest.raises(InputError, match="multiple of 3"):
        stages.train.make_arguments(params)


@pytest.mark.parametrize("parts", ["x", "0", "-1", ""])
def test_a_wrong_accumulation_is_named(parts, params, monkeypatch):
    monkeypatch.setenv("TRAIN_ACCUMULATION", parts)
    with pytest.raises(InputError, match="TRAIN_ACCUMULATION: expected a number of parts, 1 or more"):
        stages.train.make_arguments(params)


def test_a_second_trainer_is_told_which_process_holds_the_checkpoints(tmp_path):
    with locked(tmp_path), pytest.raises(InputError, match=f"process {os.getpid()}"), locked(tmp_path):
        pass


# --- kill -9


def test_only_a_sealed_checkpoint_counts_and_an_unsealed_one_is_removed(tmp_path):
    for step in (9, 10, 11):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "weights").touch()
    seal(tmp_path / "checkpoint-9")
    seal(tmp_path / "checkpoint-10")
    assert newest(tmp_path) == tmp_path / "checkpoint-10"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]
    prune(tmp_path, {"checkpoint-9"})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-9"]


@pytest.mark.parametrize("changes", [{}, {"patience": 1}], ids=str)
def test_stopped_between_the_last_step_and_the_adapter_it_resumes_to_the_same_bytes(changes, work, params, tmp_path):
    params, out = replace(params, **changes), tmp_path / "stopped"
    run(work, params, tmp_path / "whole")
    out.mkdir()
    (out / "adapter").write_text("a file where the folder belongs", encoding="utf-8")
    with pytest.raises(NotADirectoryError):
        run(work, params, out)
    (out / "adapter").unlink()
    (out / "train.tsv").unlink()  # as DVC does before it runs a stage again
    assert "checkpoint-12" in [path.name for path in out.glob("checkpoints/*/checkpoint-*")]
    run(work, params, out)
    assert written(out) == written(tmp_path / "whole")


def child(work, params, out):
    """A training that saves at each step, in a process of its own."""
    torch.set_num_threads(1)
    stages.trainer.SAVE_SECONDS = 0
    run(work, params, out)


@pytest.fixture(scope="module")
def spawn():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return lambda *args: context.Process(target=child, args=args)


def finish(process):
    process.start()
    process.join()
    assert process.exitcode == 0


def unsealed(out):
    return [path for path in out.glob("checkpoints/*/checkpoint-*") if not (path / "sealed").exists()]


def found(out):
    """What a kill left behind, in words: `pytest -rP` shows the table of them."""
    checkpoints = {int(path.name.rpartition("-")[2]): path for path in out.glob("checkpoints/*/checkpoint-*")}
    sealed = max((step for step, path in checkpoints.items() if (path / "sealed").exists()), default=0)
    torn = [f"; checkpoint of step {step} half written" for step, path in checkpoints.items() if path in unsealed(out)]
    return f"resumes from step {sealed}{''.join(torn)}"


def kill(process):
    """Kill it; false if it had ended by itself."""
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), "it failed by itself"
    return process.exitcode != 0


def kill_in_a_save(process, out, rng):
    """Start it, wait until a new checkpoint is being written, and kill it a moment later; false if it ended before."""
    process.start()
    before = set(unsealed(out))
    while process.is_alive() and not set(unsealed(out)) - before:
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.01))
    return kill(process)


def kill_after(process, seconds):
    process.start()
    process.join(seconds)
    return kill(process)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"patience": 2}, {"max_steps": 15}, {"quantize": "nf4"}], ids=str)
def test_killed_at_twenty_moments_and_resumed_gives_the_same_bytes(changes, work, params, tmp_path, spawn):
    params = replace(params, epochs=4, **changes)
    started = time.monotonic()
    finish(spawn(work, params, tmp_path / "whole"))
    duration, rng, out = time.monotonic() - started, random.Random(str(changes)), tmp_path / "killed"
    kills = torn = 0
    while kills < 20:
        again = spawn(work, params, out)
        killed = kill_in_a_save(again, out, rng) if rng.random() < 0.5 else kill_after(again, rng.uniform(0, duration))
        kills += killed
        torn += bool(unsealed(out))
        print(f"kill {kills}: {found(out)}" if killed else "it ended: the same bytes as undisturbed")
        if not killed:
            assert written(out) == written(tmp_path / "whole")
        (out / "train.tsv").unlink(missing_ok=True)  # as DVC does before it runs a stage again
    finish(spawn(work, params, out))
    assert written(out) == written(tmp_path / "whole")
    print(f"{kills} kills, {torn} of them in the write of a checkpoint: the same bytes as undisturbed")
    assert torn >= 4, "too few kills met a checkpoint being written"


# --- several processes


@pytest.mark.slow
@pytest.mark.parametrize(("options", "held"), [({}, "100%"), ({SHARD: "1"}, "50%")])
def test_two_processes_give_the_gradients_of_one(options, held, work, tmp_path):
    script = Path(__file__).parent / "two_processes.py"
    single = [sys.executable, str(script), str(work), str(tmp_path / "one.pt")]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **ALONE}
    for command, added, said in (
        (single, {}, ("1 processes, 4 dialogues", "100% of the layers held")),
        (
            [*launch, str(script), str(work), str(tmp_path / "two.pt")],
            options,
            ("2 processes, 2 dialogues", f"{held} of the layers held"),
        ),
    ):
        result = subprocess.run(command, env=environment | added, check=True, capture_output=True, text=True)
        assert all(words in result.stdout for words in said)
    one, two = torch.load(tmp_path / "one.pt"), torch.load(tmp_path / "two.pt")
    assert one.keys() == two.keys(), "the frozen weights have no gradient"
    assert max(((one[name] - two[name]).norm() / one[name].norm()).item() for name in one) < 1e-5


def start(work, params, folder, options):
    """`python -m stages.train` under way, in a folder of its own."""
    shutil.copytree(work / "dataset", folder / "processed" / "dataset", dirs_exist_ok=True)
    YAML().dump({"train": asdict(params)}, folder / "params.yaml")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **ALONE} | options
    command = [sys.executable, "-m", "stages.train"]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def launched(work, params, folder, options):
    """The adapter that it writes, and what it said."""
    process = start(work, params, folder, options)
    _, said = process.communicate()
    assert process.returncode == 0, said
    return load_file(folder / "models" / "adapter" / "adapter_model.safetensors"), said


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {SHARD: "1"}])
def test_the_environment_spreads_the_stage_over_processes(options, work, params, tmp_path):
    params = replace(params, dropout=0.0)
    one, _ = launched(work, params, tmp_path / "one", {})
    two, said = launched(work, params, tmp_path / "two", TWO | options)
    assert said.count("epoch 2:") == 1, "one of them speaks"
    assert one.keys() == two.keys()
    assert max(((one[name] - two[name]).norm() / one[name].norm()).item() for name in one) < 0.02, (
        "rounding, as Adam enlarges it"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("options", "changes"), [({}, {}), ({SHARD: "1"}, {}), ({SHARD: "1"}, EARLY)])
def test_two_processes_killed_and_resumed_give_the_same_bytes(options, changes, work, params, tmp_path):
    params, options, out = replace(params, **({"epochs": 4} | changes)), TWO | options, tmp_path / "killed"
    launched(work, params, tmp_path / "whole", options)
    process = start(work, params, out, options)
    while not list(out.glob("checkpoints/*/checkpoint-*/sealed")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    for victim in [*psutil.Process(process.pid).children(recursive=True), process]:
        victim.kill()
    process.communicate()
    _, said = launched(work, params, out, options)
    assert "epoch 0:" not in said, "it began anew"
    files = ("models/adapter/adapter_model.safetensors", "reports/train.tsv")
    assert all((out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in files)
    best = min(validation_bits(out / files[1])[-1 - params.patience :])
    assert abs(bits_of(out / "models" / "adapter", work) - best) < 2e-6


@pytest.mark.slow
def test_two_processes_save_at_the_same_step_whatever_their_clocks(work, params, tmp_path):
    launched(work, params, tmp_path / "two", TWO)
    shutil.copytree(tmp_path / "two" / "processed", tmp_path / "clocks" / "processed")
    shutil.copy(tmp_path / "two" / "params.yaml", tmp_path / "clocks")
    script = str(ROOT / "tests" / "two_clocks.py")
    command = [sys.executable, "-m", "torch.distributed.run", *TWO[LAUNCH].split(), script]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **ALONE}
    subprocess.run(command, cwd=tmp_path / "clocks", env=environment, check=True, timeout=300)
    one, other = (tmp_path / name / "models" / "adapter" / "adapter_model.safetensors" for name in ("two", "clocks"))
    assert one.read_bytes() == other.read_bytes()


def test_the_file_of_settings_for_a_base_that_fits_no_card_shares_it_out():
    source = "set -a && . deploy/fsdp.env && env"
    lines = subprocess.run(["bash", "-c", source], cwd=ROOT, env={}, check=True, capture_output=True, text=True).stdout
    settings = dict(line.split("=", 1) for line in lines.splitlines() if line.startswith("TRAIN_"))
    assert settings == {LAUNCH: "--nproc-per-node gpu", SHARD: "1"}
    assert settings.keys() <= YAML(typ="safe").load(ROOT / "deploy" / "sky.yaml")["envs"].keys()


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("0", False), ("", False)])
def test_an_empty_setting_is_none(value, expected, monkeypatch):
    monkeypatch.setenv(SHARD, value)
    assert shared() is expected


def test_a_wrong_setting_is_named(monkeypatch):
    monkeypatch.setenv(SHARD, "yes")
    with pytest.raises(InputError, match=f"{SHARD}: expected 0 or 1, got 'yes'"):
        shared()


@pytest.mark.parametrize("values", [{"quantize": "nf4"}, {"dora": True}], ids=str)
def test_what_reads_whole_weights_is_refused_where_they_are_shared_out(values, params, monkeypatch):
    monkeypatch.setenv(SHARD, "1")
    with pytest.raises(InputError, match=f"with {SHARD} expected `train.quantize: none` and `train.dora: false`"):
        check_machine(replace(params, **values))


def test_one_process_alone_shares_nothing_out(work, params, tmp_path):
    with pytest.raises(AssertionError, match=f"{SHARD} shares a base out among processes, and there is one"):
        launched(work, params, tmp_path / "one", {SHARD: "1"})


def test_a_launch_that_fails_is_told(monkeypatch):
    with pytest.raises(InputError, match="expected success, got status"):
        launch(["--no-such-option"])


def test_a_base_that_also_sees_learns_in_its_language_model_alone(params):
    text = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    model = add_lora(AutoModelForCausalLM.from_config(config), params)
    learned = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert len(learned) == 2 * 2 * 7 and not [name for name in learned if "vision" in name]
