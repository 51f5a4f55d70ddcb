"""Each supported family, tiny: its own template, its labels and LoRA targets, and the whole way to a reply."""

import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    MambaConfig,
    Phi3Config,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from stages import evaluate, format, train
from stages.base_model import load_base, lora_targets
from stages.conversation import encode, encode_supervised, stop_ids
from stages.inference import load_character, reply_all
from stages.records import InputError
from tests.compatibility import BAICHUAN, FAMILIES, baichuan_checkpoint, family_checkpoint, print_tables

SMALL = dict(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
ROOT = Path(__file__).parents[1]
SYSTEM = {"role": "system", "content": "你是亚托莉。"}
TURNS = (
    {"role": "user", "content": "早上好"},
    {"role": "assistant", "content": "夏生先生，早上好。"},
    {"role": "user", "content": "大海真漂亮"},
    {"role": "assistant", "content": "哼哼", "learn": False},
    {"role": "user", "content": "嗯"},
    {"role": "assistant", "content": "高性能！"},
)
DIALOGUE = (SYSTEM, *TURNS)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Family -> (model, tokenizer), each through load_base."""
    folder = tmp_path_factory.mktemp("families")
    for family in FAMILIES:
        family_checkpoint(family, folder / family.name)
    return {family.name: load_base(str(folder / family.name), dtype="fp32") for family in FAMILIES}


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request):
    return request.param


def test_lora_targets_are_the_family_s_projections_by_name(family, loaded):
    model, _ = loaded[family.name]
    assert tuple(lora_targets(model)) == family.targets


def test_labels_are_each_learn_turn_and_its_end(family, loaded):
    _, tokenizer = loaded[family.name]
    ids, supervised = encode_supervised(tokenizer, DIALOGUE)
    learnt = tokenizer.decode([token for token, wanted in zip(ids, supervised, strict=True) if wanted])
    assert learnt == f"夏生先生，早上好。{family.end}高性能！{family.end}"


def test_the_first_reply_stands_behind_the_prompt_that_a_front_sends(family, loaded):
    _, tokenizer = loaded[family.name]
    ids, supervised = encode_supervised(tokenizer, DIALOGUE)
    prompt = encode(tokenizer, DIALOGUE[:2], add_generation_prompt=True)
    assert ids[: len(prompt)] == prompt
    assert supervised.index(True) == len(prompt)


def test_every_later_reply_does_so_too(family, loaded):
    """Qwen3 alone takes the empty thoughts out of what was said before; that of the reply itself stays."""
    _, tokenizer = loaded[family.name]
    ids, _ = encode_supervised(tokenizer, DIALOGUE)
    text = tokenizer.decode(ids)
    for end in (4, 6):
        prompt = tokenizer.decode(encode(tokenizer, DIALOGUE[:end], add_generation_prompt=True))
        thought = "<think>\n\n</think>\n\n"
        if family.name == "Qwen3":
            assert prompt.endswith(thought)
            prompt, text = prompt.replace(thought, ""), text.replace(thought, "")
        assert text.startswith(prompt)


def test_encode_is_what_the_tokenizer_s_own_template_gives(family, loaded):
    _, tokenizer = loaded[family.name]
    messages = [{"role": m["role"], "content": m["content"]} for m in DIALOGUE[:-1]]
    official = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, enable_thinking=False, date_string="26 Jul 2024", return_dict=False
    )
    assert encode(tokenizer, messages, add_generation_prompt=True) == official


def test_the_end_of_a_reply_stops_generation(family, loaded):
    _, tokenizer = loaded[family.name]
    assert tokenizer.convert_tokens_to_ids(family.end) in stop_ids(tokenizer)
    assert tokenizer.eos_token_id in stop_ids(tokenizer)


def test_qwen_never_speaks_as_qwen(loaded):
    _, tokenizer = loaded["Qwen2.5"]
    text = tokenizer.decode(encode(tokenizer, TURNS[:1], add_generation_prompt=True))
    assert text.startswith("<|im_start|>system\n<|im_end|>\n")


def test_gemma_takes_neighbours_of_one_role_and_a_greeting_first(loaded):
    _, tokenizer = loaded["Gemma 3"]
    greeting = {"role": "assistant", "content": "早上好。"}
    text = tokenizer.decode(encode(tokenizer, [SYSTEM, greeting, *TURNS[:1], *TURNS[:1]], add_generation_prompt=True))
    assert text.count("<start_of_turn>user") == 2
    assert "早上好\n早上好<end_of_turn>" in text


def test_a_mixture_of_experts_is_refused():
    config = Qwen3MoeConfig(**SMALL, moe_intermediate_size=8, num_experts=4, num_experts_per_tok=2, head_dim=8)
    with pytest.raises(InputError, match="mixture of experts"):
        lora_targets(Qwen3MoeForCausalLM(config))


@pytest.mark.parametrize(
    ("config", "targets"),
    [
        (
            Phi3Config(**SMALL, pad_token_id=0, intermediate_size=24),
            ["o_proj", "qkv_proj", "down_proj", "gate_up_proj"],
        ),
        (
            BloomConfig(vocab_size=97, n_layer=1, n_head=2, hidden_size=16),
            ["query_key_value", "dense_h_to_4h", "dense_4h_to_h"],
        ),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_fused_projections_are_targets_too(config, targets):
    assert lora_targets(AutoModelForCausalLM.from_config(config)) == targets


def test_a_base_with_attention_of_unknown_names_is_refused_rather_than_adapted_by_half():
    config = MambaConfig(vocab_size=97, hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(InputError, match="expected attention projections of a known name"):
        lora_targets(AutoModelForCausalLM.from_config(config))


@pytest.mark.slow
def test_the_tables_of_the_readme_hold(capsys):
    print_tables()
    printed = capsys.readouterr().out
    assert "WRONG" not in printed
    assert "DIFFERS" not in printed
    assert len(printed.splitlines()) == len(BAICHUAN) + len(FAMILIES) + 5


# --- the whole way


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A working folder after format, with eight dialogues to train on: one step."""
    folder = tmp_path_factory.mktemp("work")
    for name in ("raw", "stages"):
        (folder / name).symlink_to(ROOT / name)
    params = YAML().load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["train"] |= {"epochs": 1, "batch_size": 8, "rank": 2, "learning_rate": 1e-3}
    params["train"]["decoding"]["max_new_tokens"] = 4
    params["evaluate"] |= {"held_out_replies": 2, "chat_replies": 2, "chat_probes": 1, "ranked_turns": 2}
    params["evaluate"] |= {"max_new_tokens": 4, "draws": 50}
    os.makedirs(folder / "processed")
    before = Path.cwd()
    try:
        os.chdir(folder)
        YAML().dump(params, Path("params.yaml"))
        prepare_data()
    finally:
        os.chdir(before)
    return folder


def prepare_data():
    from stages import denoise, extract, filter

    for stage in (extract, filter, denoise, format):
        stage.main()
    for split, count in (("train", 8), ("validation", 2)):
        path = Path(f"processed/dataset/{split}.jsonl")
        path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:count]), encoding="utf-8")


BASES = {
    **{family.name: partial(family_checkpoint, family) for family in FAMILIES},
    **{case.name: partial(baichuan_checkpoint, case) for case in BAICHUAN},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BASES)
def test_the_whole_way_from_format_to_a_reply(name, work, tmp_path, monkeypatch):
    BASES[name](tmp_path / "base")
    monkeypatch.chdir(work)
    monkeypatch.setattr(sys, "argv", ["evaluate"])
    params = YAML().load(Path("params.yaml").read_text(encoding="utf-8"))
    params["train"]["base_model"] = str(tmp_path / "base")
    YAML().dump(params, Path("params.yaml"))
    shutil.rmtree("models", ignore_errors=True)
    train.main()
    adapter = json.loads(Path("models/adapter/adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(tmp_path / "base")
    evaluate.main()
    metrics = json.loads(Path("reports/metrics.json").read_text(encoding="utf-8"))
    assert 0 < metrics["adapter"]["bits_per_character"] < metrics["base"]["bits_per_character"] + 1
    character = load_character(Path("models/adapter"))
    (reply,) = reply_all(character, [[SYSTEM, TURNS[0]]], character.card["decoding"])
    assert isinstance(reply.text, str)
