"""Baichuan's four models against a plain reference of their attention, SentencePiece and the published builders."""

import json
import math

import pytest
import sentencepiece
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch.nn.functional import normalize, silu

from deploy.wpack import export_adapter, save_model
from stages import baichuan
from stages.base_model import load_base, load_tokenizer, lora_targets
from stages.conversation import encode, encode_supervised, label_ids, stop_ids
from stages.records import InputError
from tests.compatibility import BAICHUAN, TEXTS, baichuan_checkpoint, sentencepiece_model

BY_NAME = {case.name: case for case in BAICHUAN}
IDS = torch.arange(20, 44)[None] * 13 % 400


# --- the reference: one sentence, no cache, no library


def reference(weights, case, ids):
    """Logits [1, tokens, vocabulary] from the published weights, step by step as the papers describe it."""
    heads = case.config["num_attention_heads"]
    x = weights["model.embed_tokens.weight"][ids]
    for layer in range(2):
        part = {name.split(f"layers.{layer}.")[1]: w for name, w in weights.items() if f"layers.{layer}." in name}
        x = x + attention(rms(x, part["input_layernorm.weight"]), part, heads, case.alibi)
        y = rms(x, part["post_attention_layernorm.weight"])
        gate, up = y @ part["mlp.gate_proj.weight"].T, y @ part["mlp.up_proj.weight"].T
        x = x + (silu(gate) * up) @ part["mlp.down_proj.weight"].T
    head = weights["lm_head.weight"]
    return rms(x, weights["model.norm.weight"]) @ (normalize(head) if case.norm_head else head).T


def rms(x, weight):
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def attention(x, part, heads, alibi):
    length, width = x.shape[1:]
    fused = (x @ part["self_attn.W_pack.weight"].T).view(1, length, 3, heads, width // heads)
    q, k, v = fused.permute(2, 0, 3, 1, 4)
    at = torch.arange(length)
    if not alibi:
        q, k = rotate(q, at), rotate(k, at)
    scores = q @ k.transpose(-1, -2) / math.sqrt(width // heads)
    if alibi:
        slopes = torch.tensor([2 ** (-8 * (h + 1) / heads) for h in range(heads)])
        scores = scores + slopes[:, None, None] * (at[None, :] - at[:, None])
    scores = scores.masked_fill(at[None, :] > at[:, None], -math.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(1, length, width) @ part["self_attn.o_proj.weight"].T


def rotate(x, at):
    half = x.shape[-1] // 2
    angle = at[:, None] / 10000 ** (torch.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def reference_greedy(weights, case, ids, steps):
    for _ in range(steps):
        ids = torch.cat([ids, reference(weights, case, ids)[:, -1:].argmax(-1)], 1)
    return ids


@pytest.fixture(params=BAICHUAN, ids=lambda case: case.name)
def case(request):
    return request.param


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    root = tmp_path_factory.mktemp("baichuan")
    return {case.name: (root / case.name, baichuan_checkpoint(case, root / case.name)) for case in BAICHUAN}


def greedy(model, ids, **others):
    return model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=-1, pad_token_id=0, **others)


# --- the model


def test_a_baichuan_model_is_never_cut_over_processes(checkpoints):
    folder, _ = next(iter(checkpoints.values()))
    with pytest.raises(InputError, match="W_pack would be cut across queries, keys and values"):
        load_base(str(folder), dtype="fp32", shards=2)


def test_logits_are_those_of_the_reference(case, checkpoints):
    folder, weights = checkpoints[case.name]
    model, _ = load_base(str(folder), dtype="fp32")
    assert (model.config.alibi, model.config.norm_head) == (case.alibi, case.norm_head)
    with torch.no_grad():
        difference = (model(IDS).logits - reference(weights, case, IDS)).abs().max()
    assert difference < 1e-4


def test_a_wrong_position_code_or_head_would_show(case, checkpoints):
    _, weights = checkpoints[case.name]
    right = reference(weights, case, IDS)
    for wrong in (case._replace(alibi=not case.alibi), case._replace(norm_head=not case.norm_head)):
        assert (reference(weights, wrong, IDS) - right).abs().max() > 0.3


def test_greedy_tokens_are_those_of_the_reference_alone_and_padded(case, checkpoints):
    folder, weights = checkpoints[case.name]
    model, _ = load_base(str(folder), dtype="fp32")
    expected = reference_greedy(weights, case, IDS, 8)
    assert torch.equal(greedy(model, IDS), expected)
    short = IDS[:, 10:]
    rows = torch.cat([IDS, torch.cat([torch.zeros(1, 10, dtype=torch.long), short], 1)])
    mask = torch.ones_like(rows)
    mask[1, :10] = 0
    batch = greedy(model, rows, attention_mask=mask)
    assert torch.equal(batch[:1], expected)
    assert torch.equal(batch[1:, 10:], reference_greedy(weights, case, short, 8))
    assert torch.equal(greedy(model, IDS, cache_implementation="static"), expected)


@pytest.mark.parametrize(("layout", "dtype"), [("bin", torch.float16), ("bin-shards", torch.bfloat16)])
def test_every_published_layout_loads(case, layout, dtype, tmp_path):
    weights = {name: w.float() for name, w in baichuan_checkpoint(case, tmp_path, layout, dtype).items()}
    model, _ = load_base(str(tmp_path), dtype="fp32")
    with torch.no_grad():
        assert (model(IDS).logits - reference(weights, case, IDS)).abs().max() < 2e-2 * weights["lm_head.weight"].std()


def test_attention_that_would_lose_alibi_is_refused(checkpoints):
    model, _ = load_base(str(checkpoints["Baichuan-13B"][0]), dtype="fp32")
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match="ALiBi needs sdpa or eager"):
        model(IDS)


def test_alibi_slopes_are_the_published_ones():
    assert torch.allclose(baichuan.slopes(8), torch.tensor([2.0**-n for n in range(1, 9)]))
    assert torch.allclose(
        baichuan.slopes(40)[32:], torch.tensor([2 ** (-4 * n / 32) for n in (1, 3, 5, 7, 9, 11, 13, 15)])
    )


def test_four_bits_are_the_reference_with_its_layers_rounded_and_its_head_whole(case, checkpoints):
    folder, weights = checkpoints[case.name]
    model, _ = load_base(str(folder), dtype="fp32", quantize="nf4")
    layers = {name: in_four_bits(weight) for name, weight in weights.items() if "proj" in name or "W_pack" in name}
    with torch.no_grad():
        logits = model(IDS).logits
    assert (logits - reference(weights | layers, case, IDS)).abs().max() < 1e-4
    assert (logits - reference(weights, case, IDS)).abs().max() > 1e-2, "nothing was rounded"


def in_four_bits(weight):
    """Rounded as bitsandbytes does it; q, k and v each by itself."""
    parts = weight.chunk(3) if len(weight) == 3 * weight.shape[1] else (weight,)
    codes = [quantize_4bit(part.contiguous(), compress_statistics=True, quant_type="nf4") for part in parts]
    return torch.cat([dequantize_4bit(*code) for code in codes])


# --- what a folder is


def test_signs_that_contradict_each_other_stop(checkpoints, tmp_path):
    config = {"architectures": ["BaiChuanForCausalLM"], "max_position_embeddings": 4096}
    with pytest.raises(InputError, match="norm_head"):
        baichuan.shape_of(config, "<reserved_106>")
    with pytest.raises(InputError, match="no sign of either"):
        baichuan.shape_of({"architectures": ["BaichuanForCausalLM"], "vocab_size": 100}, None)


def test_explicit_keys_win():
    config = {
        "architectures": ["BaichuanForCausalLM"],
        "max_position_embeddings": 4096,
        "alibi": True,
        "norm_head": False,
    }
    assert baichuan.shape_of(config, "<reserved_106>") == (True, False)


def test_a_published_4_bit_model_is_refused_with_a_sentence(tmp_path):
    baichuan_checkpoint(BY_NAME["Baichuan2-7B"], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"published quantised \(4-bit\).*\n.*quantize: nf4"):
        load_base(str(tmp_path))


# --- the tokenizer


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_sentencepiece(text, case, checkpoints):
    folder, _ = checkpoints[case.name]
    own = load_tokenizer(str(folder))
    official = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    given = text if case.norm_head or not text else f" {text}"  # the dummy prefix of Baichuan 1, spelled out
    assert own(given, add_special_tokens=False)["input_ids"] == official.encode(text)


def test_decoding_gives_the_text_back(case, checkpoints):
    own = load_tokenizer(str(checkpoints[case.name][0]))
    for text in TEXTS:
        assert own.decode(own(f"x{text}", add_special_tokens=False)["input_ids"]) == f"x{text}"


def test_a_saved_tokenizer_loads_without_sentencepiece(case, checkpoints, tmp_path):
    own = load_tokenizer(str(checkpoints[case.name][0]))
    own.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((checkpoints[case.name][0] / "config.json").read_bytes())
    again = load_tokenizer(str(tmp_path))
    assert [again(text)["input_ids"] for text in TEXTS] == [own(text)["input_ids"] for text in TEXTS]
    assert again.chat_template == own.chat_template


def test_something_else_named_tokenizer_model_is_refused(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="expected a SentencePiece model"):
        baichuan.read_sentencepiece(tmp_path / "tokenizer.model")


# --- conversations

CHAT = (
    {"role": "user", "content": "早上好"},
    {"role": "assistant", "content": "夏生先生，早上好。"},
    {"role": "user", "content": " 大海真漂亮\n"},
    {"role": "assistant", "content": "高性能！"},
    {"role": "user", "content": "哼哼"},
)
SYSTEM = {"role": "system", "content": "我是亚托莉。"}


def built(official, messages, second):
    """The ids that the published `build_chat_input` makes, without its cutting to length."""
    ids = []
    for message in messages:
        if message["role"] != "system":
            ids.append(195 if message["role"] == "user" else 196)
        ids += official.encode(message["content"])
        if message["role"] == "assistant" and not second:
            ids.append(2)
    return [*ids, 196]


def test_chat_ids_are_those_of_the_published_builder(case, checkpoints):
    folder, _ = checkpoints[case.name]
    official = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    messages = [SYSTEM, *CHAT] if case.norm_head else list(CHAT)
    ids = encode(load_tokenizer(str(folder)), messages, add_generation_prompt=True)
    assert ids == built(official, messages, case.norm_head)


def test_baichuan_1_hears_the_system_text_in_the_first_user_turn(checkpoints):
    tokenizer = load_tokenizer(str(checkpoints["Baichuan-13B"][0]))
    joined = [{"role": "user", "content": "我是亚托莉。\n\n早上好"}]
    with_system = [SYSTEM, CHAT[0]]
    assert encode(tokenizer, with_system, add_generation_prompt=True) == encode(
        tokenizer, joined, add_generation_prompt=True
    )


def test_labels_are_those_of_the_official_fine_tuning(checkpoints):
    """Input: role, text, …, end-of-text once; label: end-of-text at each later user token, the answers, and the end."""
    folder, _ = checkpoints["Baichuan2-7B"]
    official = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    tokenizer = load_tokenizer(str(folder))
    expected_ids, expected_labels = [], []
    for number, message in enumerate(CHAT[:4]):
        text = official.encode(message["content"])
        user = message["role"] == "user"
        expected_ids += [195 if user else 196, *text]
        expected_labels += [2 if user and number else -100, *([-100] * len(text) if user else text)]
    ids, supervised = encode_supervised(tokenizer, CHAT[:4])
    assert ids == [*expected_ids, 2]
    assert label_ids(tokenizer, ids, supervised) == [*expected_labels, 2]
    assert stop_ids(tokenizer) == [2, 195, 196]


# --- adapters and merged models


def trained(folder, targets):
    """A model with an adapter that does something, and its logits."""
    model, _ = load_base(str(folder), dtype="fp32")
    config = LoraConfig(r=3, lora_alpha=5, target_modules=targets or lora_targets(model), task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        return model.eval(), model(IDS).logits


def test_lora_reaches_all_seven_projections(case, checkpoints):
    model, _ = load_base(str(checkpoints[case.name][0]), dtype="fp32")
    assert lora_targets(model) == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def test_a_merged_model_is_saved_in_the_published_layout(case, checkpoints, tmp_path):
    folder, weights = checkpoints[case.name]
    model, logits = trained(folder, None)
    save_model(model.merge_and_unload(), tmp_path, folder)
    saved = load_file(tmp_path / "model.safetensors")
    assert {name: w.shape for name, w in saved.items()} == {name: w.shape for name, w in weights.items()}
    assert (reference(saved, case, IDS) - logits).abs().max() < 1e-4
    again, tokenizer = load_base(str(tmp_path), dtype="fp32")
    with torch.no_grad():
        assert (again(IDS).logits - logits).abs().max() < 1e-4
    assert tokenizer("高性能")["input_ids"] == load_tokenizer(str(folder))("高性能")["input_ids"]


def with_deltas(weights, adapter, scale):
    """The published weights with a W_pack adapter worked in: W + scale B A."""
    merged = dict(weights)
    for name, down in adapter.items():
        if "lora_A" in name:
            target = name.removeprefix("base_model.model.").replace(".lora_A", "")
            merged[target] = weights[target] + scale * adapter[name.replace("lora_A", "lora_B")] @ down
    return merged


def test_our_adapter_is_exported_on_w_pack(case, checkpoints, tmp_path):
    folder, weights = checkpoints[case.name]
    model, logits = trained(folder, None)
    model.save_pretrained(tmp_path / "ours")
    export_adapter(tmp_path / "ours", tmp_path / "fused")
    config = json.loads((tmp_path / "fused" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (9, 15)
    assert sorted(config["target_modules"]) == ["W_pack", "down_proj", "gate_proj", "o_proj", "up_proj"]
    fused = load_file(tmp_path / "fused" / "adapter_model.safetensors")
    assert {w.shape[0 if "lora_A" in name else 1] for name, w in fused.items()} == {9}
    assert (reference(with_deltas(weights, fused, 15 / 9), case, IDS) - logits).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"use_rslora": True}, "use_rslora"),
        ({"target_modules": ["q_proj"]}, "q_proj"),
    ],
    ids=str,
)
def test_what_w_pack_cannot_hold_is_named(changes, got, tmp_path):
    targets = ["q_proj", "k_proj", "v_proj"]
    LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": targets, **changes}).save_pretrained(tmp_path)
    words = f"expected a plain LoRA on q_proj, k_proj, v_proj, got {got}\nhint: python -m deploy.export merged"
    with pytest.raises(InputError, match=words):
        export_adapter(tmp_path, tmp_path / "fused")


def test_a_dummy_prefix_is_seen_in_the_model_file(tmp_path):
    for wanted in (True, False):
        path = tmp_path / f"{wanted}.model"
        path.write_bytes(sentencepiece_model(106, dummy_prefix=wanted))
        assert baichuan.read_sentencepiece(path).dummy_prefix is wanted
