"""The plan counts what a real training step holds, and knows when a GPU is too small."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft.helpers import disable_input_dtype_casting
from transformers import AutoConfig, AutoModelForCausalLM, Gemma2Config, LlamaConfig, MistralConfig

import stages.plan
from stages import packed
from stages.base_model import find_device, load_base
from stages.packed import IGNORE, Sample, choose_layout, install, pack
from stages.params import load_params
from stages.plan import (
    IN_FP16,
    LORA_BYTES,
    RETURNED,
    Machine,
    Text,
    Way,
    activations,
    body,
    peak_bytes,
    plan,
    read_text,
    shareable,
    skeleton,
    verdict,
    weight_bytes,
)
from stages.records import InputError, write_jsonl
from stages.train import TrainParams, add_lora
from tests.characters import make_tokenizer
from tests.compatibility import BAICHUAN, baichuan_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")  # PEFT 0.21 asks by the old name

SHAPE = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
TINY = LlamaConfig(**SHAPE)
SAMPLES = [Sample([7] * 30 + [i] * 50, [IGNORE] * 40 + [i] * 40) for i in range(8)]


@pytest.fixture
def params():
    return load_params("train", TrainParams, Path(__file__).parents[1] / "params.yaml")


def adapted(params, device, config=TINY, dtype=torch.float32):
    with torch.device(device):
        return add_lora(AutoModelForCausalLM.from_config(config, dtype=dtype), params)


def held_by_a_real_step(model):
    """Bytes that autograd keeps of the body's forward pass, the weights aside."""
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    held = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    batch = pack(SAMPLES)
    labels = batch.pop("labels")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.get_base_model().get_decoder()(use_cache=False, **batch)
    return sum(size for size, _ in held.values()), labels.numel()


def test_the_planned_activations_are_those_of_a_real_step(params):
    model = adapted(params, "cpu")
    choose_layout(model.get_base_model())
    install(model.get_base_model())
    real, _ = held_by_a_real_step(model)
    planned, tokens = activations(adapted(params, "meta"), SAMPLES, fused=False)
    assert planned == pytest.approx(real, rel=0.02) and tokens == pack(SAMPLES)["labels"].numel()


@pytest.mark.parametrize("window", [None, 48])
def test_the_planned_activations_of_a_gpu_are_those_of_a_step_through_fused_attention(window, params, monkeypatch):
    monkeypatch.setattr(packed, "MOST_SCORES", 0)  # as on a GPU, where no part goes by plain matrices
    config = MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=window)
    model = adapted(params, "cpu", config, torch.bfloat16)
    choose_layout(model.get_base_model())
    real, _ = held_by_a_real_step(model)
    planned, _ = activations(adapted(params, "meta", config, torch.bfloat16), SAMPLES, fused=True)
    assert planned == pytest.approx(real, rel=0.02)


@pytest.mark.parametrize("fused", [False, True])
def test_an_attention_that_a_packed_row_does_without_is_planned_in_padded_rows(fused, params):
    config = Gemma2Config(**SHAPE, head_dim=8, sliding_window=16, attn_logit_softcapping=50.0)
    _, tokens = activations(adapted(params, "meta", config), SAMPLES[:2], fused=fused)
    assert tokens == 2 * len(SAMPLES[0].ids)


def test_four_bits_weigh_and_hold_what_is_planned(params, tmp_path):
    config = LlamaConfig(**SHAPE | {"hidden_size": 256, "intermediate_size": 512})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    base, _ = load_base(str(tmp_path), dtype="fp32", quantize="nf4")
    choose_layout(base)
    model = add_lora(base, params).train()
    skeleton = adapted(params, "meta", config)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    planned = weight_bytes(skeleton, Way("nf4", False, 1)) - LORA_BYTES * trained
    assert bytes_of_the_base(model) == pytest.approx(planned, rel=0.01)
    with disable_input_dtype_casting(model):
        held, _ = held_by_a_real_step(model)
    assert held == pytest.approx(activations(skeleton, SAMPLES, fused=False)[0], rel=0.05)


def bytes_of_the_base(model):
    """Of its weights, and of what stands beside those in four bits."""
    base = [weight for name, weight in model.named_parameters() if "lora_" not in name]
    states = [weight.quant_state for weight in base if hasattr(weight, "quant_state")]
    beside = [part for state in states for part in (state.absmax, state.state2.absmax)]
    return sum(part.numel() * part.element_size() for part in (*base, *beside))


def test_each_way_to_save_memory_saves_some(params):
    model = adapted(params, "meta")
    text = Text(SAMPLES, 0, 0)
    peaks = [
        peak_bytes(model, text, params, way, "cuda")
        for way in (Way("none", False, 1), Way("none", False, 4), Way("none", True, 4), Way("nf4", True, 4))
    ]
    assert peaks == sorted(peaks, reverse=True) and len(set(peaks)) == 4


def test_a_plan_is_made_without_weights_and_says_what_does_not_fit(params, tmp_path):
    TINY.save_pretrained(tmp_path / "base")
    assert AutoConfig.from_pretrained(tmp_path / "base").hidden_size == 32 and not list(tmp_path.rglob("*.safetensors"))
    for room, refused in ((24.0, False), (0.1, True)):
        said = plan(replace(params, base_model=str(tmp_path / "base")), str(tmp_path / "base"), room, 1, tmp_path)
        assert ("does not fit" in said) is refused
        assert "(assumed)" in said and "nf4" in said


def test_a_base_that_reads_its_mask_cannot_be_planned_and_is_named(params, tmp_path):
    kinds = {"layer_types": ["linear_attention", "full_attention"], "num_hidden_layers": 2}
    AutoConfig.for_model("qwen3_5_text", hidden_size=16, intermediate_size=24, **kinds).save_pretrained(
        tmp_path / "base"
    )
    with pytest.raises(InputError, match="follows a model without its weights, which qwen3_5_text does not bear"):
        plan(replace(params, base_model=str(tmp_path / "base")), str(tmp_path / "base"), 24.0, 1, tmp_path)


@pytest.mark.parametrize(
    ("peak", "checkpointing", "device", "said"),
    [
        (7.0, True, "cpu", "fits if freed memory is given back"),
        (7.0, False, "cpu", ""),
        (7.0, True, "cuda", ""),
        (9.6, False, "cpu", "does not fit"),
        (9.6, False, "cuda", "does not fit"),
    ],
)
def test_on_a_cpu_what_the_allocator_keeps_must_fit_too(peak, checkpointing, device, said):
    assert (
        verdict(peak, Way("none", checkpointing, 1), Machine(device, torch.float32, 10.0, 1, True))
        .strip()
        .removesuffix(" (below)")
        == said
    )


def test_without_a_data_set_an_epoch_of_the_usual_size_is_assumed(params, tmp_path):
    text = read_text("unused", params, tmp_path)
    assert len(text.samples) == 150 and text.tokens == 150 * 350 and text.assumed


def test_with_a_data_set_its_own_epoch_is_planned(params, tmp_path):
    TINY.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    messages = [{"role": "user", "content": "早上好。"}, {"role": "assistant", "content": "早！", "learn": True}]
    write_jsonl(tmp_path / "train.jsonl", [{"id": "1", "messages": messages}])
    text = read_text(str(tmp_path), params, tmp_path)
    assert len(text.samples) == 1 and 0 < text.supervised < text.tokens and not text.assumed


def test_on_a_cpu_the_plan_says_what_the_allocator_keeps(params, tmp_path):
    TINY.save_pretrained(tmp_path / "base")
    here = replace(params, base_model=str(tmp_path / "base"))
    for gpu_gb, on_cpu in ((24.0, False), (None, find_device().type == "cpu")):
        assert (f"GLIBC_TUNABLES={RETURNED}" in plan(here, here.base_model, gpu_gb, 1, tmp_path)) is on_cpu


@pytest.mark.parametrize(("dtype", "warned"), [(torch.float16, True), (torch.float32, False)])
def test_in_fp16_the_plan_says_that_some_bases_take_twice_as_much(dtype, warned, params, tmp_path, monkeypatch):
    monkeypatch.setattr(stages.plan, "find_dtype", lambda *_: dtype)
    TINY.save_pretrained(tmp_path / "base")
    here = replace(params, base_model=str(tmp_path / "base"))
    assert (IN_FP16 in plan(here, here.base_model, None, 1, tmp_path)) is warned


def test_cards_that_share_a_base_out_hold_less_of_it_each(params):
    model = adapted(params, "meta", LlamaConfig(**{**SHAPE, "num_hidden_layers": 12}))
    text = Text(SAMPLES, 0, 0)
    one, copies, parts = (
        peak_bytes(model, text, params, Way("none", False, 1, *cards), "cuda") for cards in ((), (4,), (4, True))
    )
    assert parts < copies < one, "a quarter of the batch a card, and then a part of the weights"
    whole = bytes_of_the_base(model)
    ends = whole - 4 * body(model)  # embeddings, head and norms, gathered for the whole step
    assert copies - parts == pytest.approx(whole * 3 / 4 - ends - 4 * body(model) * 4 / 12)


def test_the_plan_for_several_cards_says_when_to_share(params, tmp_path):
    TINY.save_pretrained(tmp_path / "base")
    there = replace(params, base_model=str(tmp_path / "base"), batch_size=8)
    said = plan(there, there.base_model, 24.0, 2, tmp_path)
    assert "24.0 GB on that GPU, 2 times" in said and "TRAIN_SHARD" in said and "on 2 cards" in said
    assert "TRAIN_SHARD" not in plan(there, there.base_model, 24.0, 1, tmp_path)
    with pytest.raises(InputError, match=r"--gpus: expected a divisor of `train\.batch_size`, 8, got 3"):
        plan(there, there.base_model, 24.0, 3, tmp_path)


def test_only_a_base_that_can_be_cut_is_planned_as_shared_out(params, tmp_path):
    TINY.save_pretrained(tmp_path / "base")
    baichuan_checkpoint(BAICHUAN[0], tmp_path / "baichuan")
    tiny, fused = (skeleton(str(tmp_path / name), params, torch.float32) for name in ("base", "baichuan"))
    assert shareable(tiny, params) and not shareable(fused, params) and not shareable(tiny, replace(params, dora=True))


@pytest.mark.skipif(find_device().type == "cuda", reason="there is a GPU")
def test_several_gpus_of_a_machine_without_one_want_their_memory(params, tmp_path):
    TINY.save_pretrained(tmp_path / "base")
    there = replace(params, base_model=str(tmp_path / "base"), batch_size=8)
    with pytest.raises(InputError, match=r"--gpus: expected GPUs.*\nhint: --gpu-gb"):
        plan(there, there.base_model, None, 2, tmp_path)
