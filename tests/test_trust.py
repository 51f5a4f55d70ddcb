"""What is pulled is not trusted: each way in which an adapter folder could do harm is refused before it is loaded."""

import json
import os
import shutil
import struct
from dataclasses import fields

import numpy as np
import pytest
from peft import LoraConfig
from safetensors.numpy import save_file

from stages.messages import Card
from stages.records import InputError
from stages.settings import CONFIG, SENSES, WEIGHTS
from stages.trust import CARD_FIELDS, MAX_HEADER, check_adapter

LAYER = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
CARD = {
    "character": "亚托莉",
    "partner": "夏生",
    "user_name": "夏生",
    "persona": "你是亚托莉。",
    "narration": "opening",
    "base_model": "bases/tiny",
    "revision": None,
    "decoding": {"max_new_tokens": 160, "temperature": 0.7, "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.1},
}


@pytest.fixture
def adapter(tmp_path, monkeypatch):
    """A folder as the trainer writes it, in a repository without params.yaml."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "adapter"
    config = LoraConfig(task_type="CAUSAL_LM", base_model_name_or_path="bases/tiny", target_modules=["q_proj"])
    config.save_pretrained(folder)
    zeros = np.zeros((8, 16), dtype=np.float32)
    save_file({LAYER.format("A"): zeros, LAYER.format("B"): zeros}, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / "character.json").write_text(json.dumps(CARD), encoding="utf-8")
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    return folder


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def refused(folder):
    with pytest.raises(InputError) as error:
        check_adapter(folder)
    assert "nothing of it was loaded" in str(error.value)
    assert "hint: " in str(error.value)
    return str(error.value)


def test_what_the_trainer_writes_is_accepted(adapter):
    check_adapter(adapter)


def test_an_adapter_of_a_base_that_also_sees_is_accepted(adapter):
    edit(adapter / CONFIG, exclude_modules=SENSES)
    check_adapter(adapter)


def test_a_missing_folder_is_told_how_to_be_fetched(tmp_path):
    with pytest.raises(InputError, match="dvc pull models/adapter"):
        check_adapter(tmp_path / "none")


@pytest.mark.parametrize("name", ["adapter_model.bin", "weights.pt", "optimizer.pkl", "checkpoint/scheduler.pth"])
def test_a_pickle_is_refused_even_beside_good_weights(adapter, name):
    (adapter / name).parent.mkdir(exist_ok=True)
    (adapter / name).write_bytes(b"\x80\x04cos\nsystem\n")
    assert "a pickle" in refused(adapter) or "checkpoint" in refused(adapter)


@pytest.mark.parametrize("name", ["modeling_evil.py", "evil.so"])
def test_code_is_refused(adapter, name):
    (adapter / name).write_text("import os")
    assert f"{name}: expected only adapter_config.json" in refused(adapter) and "got code" in refused(adapter)


def test_an_unknown_file_is_refused(adapter):
    (adapter / "tokenizer.json").write_text("{}")
    assert "got another file" in refused(adapter)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, "character.json", "chat_template.jinja"])
def test_a_missing_file_is_named(adapter, name):
    (adapter / name).unlink()
    assert f"expected a file {name}, got none" in refused(adapter)


def test_a_pickle_under_the_name_of_the_weights_is_refused(adapter):
    (adapter / WEIGHTS).write_bytes(b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix" * 3)
    assert "safetensors header" in refused(adapter)


@pytest.mark.parametrize("length", [MAX_HEADER + 1, 2**63, 2**64 - 1, 0])
def test_an_oversized_header_is_refused_before_it_is_read(adapter, length):
    data = (adapter / WEIGHTS).read_bytes()
    (adapter / WEIGHTS).write_bytes(struct.pack("<Q", length) + data[8:])
    assert f"got one of {length:,}" in refused(adapter)


def test_cut_weights_are_refused(adapter):
    data = (adapter / WEIGHTS).read_bytes()
    (adapter / WEIGHTS).write_bytes(data[:-100])
    assert "fill the file without gap or overlap" in refused(adapter)


def test_overlapping_tensors_are_refused(adapter):
    entry = {"dtype": "F32", "shape": [8, 16], "data_offsets": [0, 512]}
    header = json.dumps({LAYER.format("A"): entry, LAYER.format("B"): entry}).encode()
    (adapter / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + bytes(512))
    assert "without gap or overlap" in refused(adapter)


def test_a_tensor_larger_than_its_bytes_is_refused(adapter):
    entry = {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 512]}
    header = json.dumps({LAYER.format("A"): entry}).encode()
    (adapter / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + bytes(512))
    assert "floats of the stated shape" in refused(adapter)


def test_weights_that_replace_the_base_are_refused(adapter):
    save_file({"base_model.model.lm_head.weight": np.zeros((2, 2), dtype=np.float32)}, adapter / WEIGHTS)
    assert "LoRA tensors alone" in refused(adapter)


@pytest.mark.parametrize("name", [CONFIG, "character.json"])
def test_auto_map_is_refused_at_any_depth(adapter, name):
    edit(adapter / name, extra=[{"auto_map": {"AutoModel": "evil.Model"}}])
    assert "auto_map, which loads code" in refused(adapter)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("megatron_config", {"tensor_model_parallel_size": 1}),  # PEFT imports what megatron_core names
        ("megatron_core", "antigravity"),
        ("auto_mapping", {"parent_library": "antigravity"}),
        ("corda_config", {"cache_file": "/tmp/evil.pt"}),  # PEFT unpickles it
        ("lora_ga_config", {"cache_file": "/tmp/evil.pt"}),
        ("layer_replication", [[0, 1]] * 1000),
        ("modules_to_save", ["lm_head"]),
        ("rank_pattern", {"(a+)+$": 4}),
        ("exclude_modules", "(a+)+$"),
        ("a_later_setting", True),
    ],
)
def test_settings_that_reach_beyond_lora_are_refused(adapter, key, value):
    edit(adapter / CONFIG, **{key: value})
    assert f"expected no `{key}`" in refused(adapter)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "PROMPT_TUNING"),
        ("peft_type", 5),
        ("target_modules", ".*"),
        ("target_modules", []),
        ("target_modules", ["../q_proj"]),
        ("r", 10**9),
        ("r", "16"),
        ("r", 4.5),  # PEFT would make tensors of that size
        ("r", True),
        ("lora_alpha", float("nan")),
        ("base_model_name_or_path", None),
    ],
)
def test_a_setting_of_the_wrong_kind_is_named(adapter, key, value):
    edit(adapter / CONFIG, **{key: value})
    assert f"as `{key}`" in refused(adapter)


@pytest.mark.parametrize(
    ("key", "value"), [("persona", None), ("character", " "), ("narration", "some"), ("decoding", "greedy")]
)
def test_a_card_of_the_wrong_kind_is_refused(adapter, key, value):
    edit(adapter / "character.json", **{key: value})
    assert f"as `{key}`, got {value!r}" in refused(adapter)


@pytest.mark.parametrize("key", ["character", "partner", "user_name"])
@pytest.mark.parametrize(
    "name", ["亚\x1b]52;c;ZQ==\x07", "亚\n托莉", "亚\0", "\ud800", "亚\u2028", "亚\u202e托莉", "名" * 81]
)
def test_a_name_that_cannot_be_shown_or_name_a_file_is_refused(adapter, key, name):
    edit(adapter / "character.json", **{key: name})
    said = refused(adapter)
    assert f"expected a name of printable characters, at most 240 bytes as `{key}`, got {name!r}" in said
    assert said.replace("\n", "").isprintable(), "the refusal shows it escaped"


@pytest.mark.parametrize("name", ["千反田　える", "Jean\xa0Luc", "名" * 80])
def test_a_name_of_a_script_is_accepted(adapter, name):
    edit(adapter / "character.json", character=name)
    check_adapter(adapter)
    (adapter / f"{name}.gguf.partial").write_text("")  # the longest name that an export makes of it


@pytest.mark.parametrize("key", ["persona", "base_model"])
@pytest.mark.parametrize("text", ["你是\0亚托莉。", "你是\udc00亚托莉。"])
def test_a_text_that_cannot_be_written_down_is_refused(adapter, key, text):
    edit(adapter / "character.json", **{key: text})
    assert f"as `{key}`, got {text!r}" in refused(adapter)


@pytest.mark.parametrize("key", CARD_FIELDS)
def test_a_card_that_lacks_a_key_is_refused(adapter, key):
    path = adapter / "character.json"
    path.write_text(json.dumps({name: value for name, value in CARD.items() if name != key}), encoding="utf-8")
    assert f"as `{key}`" in refused(adapter)


def test_a_card_holds_all_that_a_dialogue_asks_of_it():
    assert {field.name for field in fields(Card)} <= CARD_FIELDS.keys()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"top_p": "all"}, "a share above 0, at most 1 as `top_p`, got 'all'"),
        ({"top_p": 0}, "a share above 0, at most 1 as `top_p`, got 0"),
        ({"beams": 2}, "expected the keys ('max_new_tokens', "),
    ],
)
def test_a_decoding_that_cannot_be_used_is_refused(adapter, change, words):
    edit(adapter / "character.json", decoding=CARD["decoding"] | change)
    assert words in refused(adapter)


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000])
def test_settings_that_are_no_object_are_refused(adapter, text):
    (adapter / CONFIG).write_text(text)
    assert "expected a JSON object" in refused(adapter)


@pytest.mark.parametrize(
    "base", ["/etc/model", "../../model", "bases/../../model", "~/model", "C:\\model", "\\\\host\\x"]
)
def test_a_base_outside_of_the_repository_is_refused(adapter, base):
    edit(adapter / CONFIG, base_model_name_or_path=base)
    edit(adapter / "character.json", base_model=base)
    assert "path inside the repository" in refused(adapter)


def test_a_base_elsewhere_is_accepted_where_the_owner_trains_on_it(adapter):
    base = "/data/models/Baichuan2-7B-Chat"
    edit(adapter / CONFIG, base_model_name_or_path=base)
    edit(adapter / "character.json", base_model=base)
    (adapter.parent / "params.yaml").write_text(f"train:\n  base_model: {base}\n")
    check_adapter(adapter)


@pytest.mark.parametrize(("key", "value"), [("base_model", "Qwen/Qwen3-4B"), ("revision", "abc123")])
def test_an_adapter_for_another_base_is_refused(adapter, key, value):
    edit(adapter / "character.json", **{key: value})
    assert "an adapter for 'bases/tiny' (revision None)" in refused(adapter)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, "passwd"])
def test_a_link_out_of_the_folder_is_refused(adapter, name):
    (adapter / name).unlink(missing_ok=True)
    (adapter / name).symlink_to("/etc/passwd")
    assert "a link to /etc/passwd" in refused(adapter)


def test_a_link_into_the_cache_of_dvc_is_accepted(adapter, tmp_path):
    cached = tmp_path / "cache" / "files" / "md5" / "ab" / ("c" * 30)
    cached.parent.mkdir(parents=True)
    shutil.move(adapter / WEIGHTS, cached)
    (adapter / WEIGHTS).symlink_to(cached)
    check_adapter(adapter)


def test_a_pipe_in_the_place_of_a_file_is_refused(adapter):
    (adapter / CONFIG).unlink()
    os.mkfifo(adapter / CONFIG)
    assert "a plain file" in refused(adapter)


def test_a_huge_template_is_refused(adapter):
    (adapter / "chat_template.jinja").write_bytes(b"{" * (5 << 20))
    assert "at most" in refused(adapter)
