"""What training a base model takes, from its configuration alone: `python -m stages.train --plan` prints it.

In: the train parameters, a base model's name, the data set if there is one. Out: text. The model is built without
weights, and run without arithmetic, to count the bytes that its backward pass will hold.
"""

import json
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from stages import baichuan
from stages.base_model import find_device, find_dtype, find_folder, load_tokenizer
from stages.lessons import read_lessons
from stages.packed import IGNORE, PACKED, Batch, Sample, dialogue_attention, fused_attend, pack, packable, pad
from stages.records import InputError
from stages.train import TrainParams, add_lora, epochs

NF4_BYTES = 0.516  # a weight: half a byte, a byte for each 64, four for each 256 of those (QLoRA, arXiv:2305.14314)
LORA_BYTES = 16  # a weight: itself, its gradient, two moments, all fp32
RUNTIME = {"cpu": 0.9e9, "cuda": 0.8e9}  # libraries, allocator, kernels
RETURNED = "glibc.malloc.mmap_threshold=1048576"  # freed memory is given back at once, and fetched anew
SHARE = {2: 0.50, 4: 0.62}  # of the matrix limit that training reached on a CPU, by bytes of a weight
KEPT = {False: 0.2, True: 0.5}  # freed memory that glibc keeps, to that in use, without and with checkpointing
ON_A_CPU = (
    f"these peaks are what is in use; glibc keeps freed memory too, {KEPT[False]:.0%} more, with "
    f"gradient_checkpointing {KEPT[True]:.0%}:\n"
    f"GLIBC_TUNABLES={RETURNED} gives it back, for about a quarter more time"
)
IN_FP16 = (
    "counted in fp16; a base whose values overflow it (the embedded one's do) is loaded in fp32, at twice the size"
)
FILL = 0.95  # of the memory, at most
ASSUMED_GPU_FLOPS = 100e12  # for a GPU that is not here
ASSUMED_DIALOGUES = 150, 350, 0.25  # samples, tokens each, share supervised: where there is no data set yet


class Text(NamedTuple):
    """An epoch: its samples, longest first, tokens in packed rows, and supervised tokens."""

    samples: list[Sample]
    tokens: int
    supervised: int
    assumed: bool = False  # there is no data set yet


class Way(NamedTuple):
    """One setting of what saves memory."""

    quantize: str
    checkpointing: bool
    accumulation: int
    cards: int = 1
    shared: bool = False  # each card holds its part of the base's weights


class Machine(NamedTuple):
    """What it is planned for: this machine, or GPUs that are not here."""

    device: str
    dtype: torch.dtype
    room: float  # bytes of memory of a card
    cards: int
    here: bool


def plan(params: TrainParams, base: str, gpu_gb: float | None, cards: int, dataset: Path) -> str:
    """The whole answer, ready to print."""
    require_parts(params, cards)
    machine = find_machine(gpu_gb, cards)
    model = skeleton(base, params, machine.dtype)
    text = read_text(base, params, dataset)
    lines = [describe(base, model), describe_text(text), describe_machine(machine), ""]
    lines += [f"quantize  gradient_checkpointing  {'TRAIN_SHARD  ' * (cards > 1)}TRAIN_ACCUMULATION  peak GB"]
    lines += [row(model, text, params, ways, machine) for ways in settings(params, machine, shareable(model, params))]
    if machine.device == "cpu":
        lines += ["", ON_A_CPU]
    if machine.dtype == torch.float16:
        lines += ["", IN_FP16]
    return "\n".join([*lines, "", expected_time(model, text, params, machine)])


def require_parts(params: TrainParams, cards: int) -> None:
    """Each card takes as many dialogues of a batch."""
    if cards < 1 or params.batch_size % cards:
        raise InputError(f"--gpus: expected a divisor of `train.batch_size`, {params.batch_size}, got {cards}")


def find_machine(gpu_gb: float | None, cards: int) -> Machine:
    """This machine, or so many GPUs of that memory, in bf16."""
    if gpu_gb:
        return Machine("cuda", torch.bfloat16, gpu_gb * 1e9, cards, here=False)
    device = find_device()
    if cards > 1 and device.type != "cuda":
        raise InputError(f"--gpus: expected GPUs, this machine has a {device.type}\nhint: --gpu-gb, the memory of each")
    return Machine(device.type, find_dtype("auto", device), memory_of(device.type), cards, here=True)


def skeleton(base: str, params: TrainParams, dtype: torch.dtype) -> PeftModel:
    """The model with its adapter, all shapes and no weights."""
    folder = find_folder(base, revision=revision_of(base, params), weights=False)
    with torch.device("meta"):
        return add_lora(_bare_model(folder, dtype), params).to(dtype)


def _bare_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    if kind == baichuan.MODEL_TYPE:
        return baichuan.BaichuanForCausalLM(baichuan.read_config(folder)).to(dtype)
    return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=dtype)


def memory_of(device: str) -> float:
    """Bytes of memory of this machine or its GPU."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def read_text(base: str, params: TrainParams, dataset: Path) -> Text:
    """The train split as this base reads it, or one of the usual size."""
    path = dataset / "train.jsonl"
    assumed = not path.exists()
    if assumed:
        samples = usual_samples()
    else:
        tokenizer = load_tokenizer(base, revision=revision_of(base, params))
        samples = read_lessons(path, tokenizer, params.max_length).samples
    batches = [samples[i : i + params.batch_size] for i in range(0, len(samples), params.batch_size)]
    rows = [pack(batch)["labels"] for batch in batches]
    longest_first = sorted(samples, key=lambda sample: -len(sample.ids))
    supervised = sum(int((labels != IGNORE).sum()) for labels in rows)
    return Text(longest_first, sum(labels.numel() for labels in rows), supervised, assumed)


def usual_samples() -> list[Sample]:
    """Samples of the usual size, no two of which begin alike."""
    count, length, share = ASSUMED_DIALOGUES
    labels = [IGNORE if place > share * length else 0 for place in range(length)]
    return [Sample([number, *[0] * (length - 1)], labels) for number in range(count)]


def revision_of(base: str, params: TrainParams) -> str | None:
    """That of the parameters, where the base is theirs."""
    return params.revision if base == params.base_model else None


def describe_text(text: Text) -> str:
    """How much there is to learn from."""
    sizes = f"{text.tokens:,} tokens in packed rows, {text.supervised:,} supervised"
    return f"text: {len(text.samples)} samples an epoch, {sizes}{' (assumed)' if text.assumed else ''}"


def describe_machine(machine: Machine) -> str:
    """How much memory there is, and where."""
    where = f"here ({machine.device})" if machine.here else "on that GPU"
    return f"memory: {machine.room / 1e9:.1f} GB {where}" + (f", {machine.cards} times" if machine.cards > 1 else "")


def describe(base: str, model: PeftModel) -> str:
    """Sizes, in words."""
    whole, layers, learned = (count(model) / 1e6 for count in (frozen, body, trained))
    sizes = f"{whole:,.0f} M weights, {layers:,.0f} M of them in layers, {learned:.2f} M to train"
    return f"{base} ({model.config.model_type}): {sizes}"


def trained(model: PeftModel) -> int:
    """Weights of the adapter."""
    return sum(weight.numel() for name, weight in model.named_parameters() if "lora_" in name)


def frozen(model: PeftModel) -> int:
    """Weights of the base."""
    return sum(weight.numel() for weight in model.parameters()) - trained(model)


def body(model: PeftModel) -> int:
    """Weights of the layers' matrices, without embeddings, head and adapter."""
    return sum(linear.weight.numel() for name, linear in linears(model) if "lora_" not in name)


def linears(model: PeftModel) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers within the body, the adapter's among them."""
    head = model.get_base_model().get_output_embeddings()
    named = model.named_modules()
    return ((name, module) for name, module in named if isinstance(module, nn.Linear) and module is not head)


# --- memory


def shareable(model: PeftModel, params: TrainParams) -> bool:
    """Whether cards may share the base out: DoRA reads whole weights, and W_pack would be cut across its parts."""
    return not params.dora and not isinstance(model.get_base_model(), baichuan.BaichuanForCausalLM)


def settings(params: TrainParams, machine: Machine, shareable: bool) -> Iterator[list[Way]]:
    """The ways worth a row; in each the accumulations, fewest first."""
    each = params.batch_size // machine.cards
    steps = [n for n in range(1, each + 1) if each % n == 0]
    kinds = [("none", False)] + ([("nf4", False)] if machine.device == "cuda" else [])
    kinds += [("none", True)] if machine.cards > 1 and shareable else []
    for quantize, shared in kinds:
        for checkpointing in (False, True):
            yield [Way(quantize, checkpointing, n, machine.cards, shared) for n in steps]


def row(model: PeftModel, text: Text, params: TrainParams, ways: list[Way], machine: Machine) -> str:
    """The fewest accumulation steps that fit, or that none does."""
    for way in ways:
        peak = peak_bytes(model, text, params, way, machine.device)
        if peak <= FILL * machine.room:
            break
    shared = f"{way.shared:<13d}" if machine.cards > 1 else ""
    columns = f"{way.quantize:<10}{str(way.checkpointing).lower():<24}{shared}{way.accumulation:<20}"
    return f"{columns}{peak / 1e9:.1f}{verdict(peak, way, machine)}"


def verdict(peak: float, way: Way, machine: Machine) -> str:
    """What stands in the way, if anything does."""
    if peak > FILL * machine.room:
        return "  does not fit"
    kept = KEPT[way.checkpointing] if machine.device == "cpu" else 0
    return "" if peak * (1 + kept) <= FILL * machine.room else "  fits if freed memory is given back (below)"


def peak_bytes(model: PeftModel, text: Text, params: TrainParams, way: Way, device: str) -> float:
    """Weights, optimiser, what the longest row's backward pass holds."""
    part = text.samples[: params.batch_size // way.cards // way.accumulation]
    layers = model.config.get_text_config().num_hidden_layers
    held, tokens = activations(model, part, fused=device == "cuda")
    width = model.config.get_text_config().hidden_size * model.dtype.itemsize * tokens
    kept = held / layers + layers * width if way.checkpointing else held
    return weight_bytes(model, way) + kept + held / layers + RUNTIME.get(device, 1e9)


def weight_bytes(model: PeftModel, way: Way) -> float:
    """The frozen base, and the adapter with its gradients and moments.

    A card with a part of the weights gathers embeddings and head for the whole step, and two layers at a time, the one
    at work and the next: each twice, as it arrives and as it is used.
    """
    quantized = body(model) if way.quantize == "nf4" else 0
    held = (frozen(model) - quantized) * model.dtype.itemsize + quantized * NF4_BYTES
    if way.shared:
        layers = model.config.get_text_config().num_hidden_layers
        held = held / way.cards + (frozen(model) - body(model) + 4 * body(model) / layers) * model.dtype.itemsize
    return held + trained(model) * LORA_BYTES


def activations(model: PeftModel, samples: list[Sample], *, fused: bool) -> tuple[int, int]:
    """Bytes that autograd keeps of one forward pass of the body over these samples, and the pass's tokens."""
    if packable(model.get_base_model()):
        try:
            return _held(model, pack(samples), "fused" if fused else PACKED.attention)
        except NotImplementedError:  # an attention that a packed row does without
            pass
    return _held(model, pad(samples), "eager")  # keeps more than others: a cautious plan


def _held(model: PeftModel, batch: Batch, attention: str) -> tuple[int, int]:
    held: dict[int, int] = {}
    own = {weight.untyped_storage()._cdata for weight in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            held[storage._cdata] = storage.nbytes()
        return tensor

    base: PreTrainedModel = model.get_base_model()
    base.set_attn_implementation(attention)
    row = {name: v.to("meta") if isinstance(v, Tensor) else v for name, v in batch.items() if name != "labels"}
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            base.get_decoder()(use_cache=False, **row)
    except NotImplementedError:
        raise  # packed attention asks for padded rows
    except RuntimeError as error:  # some ask a mask for its values, and on meta there are none
        kind = base.config.get_text_config().model_type
        raise InputError(f"--plan follows a model without its weights, which {kind} does not bear: {error}") from error
    return sum(held.values()), batch["labels"].numel()


class _Fused(torch.autograd.Function):
    """What a fused attention kernel keeps: its inputs, the mask as a bias, and its output."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, output, None if mask is None else mask.to(query.dtype))
        return output


def _kernel(query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor | None, **_: Any) -> Tensor:
    return _Fused.apply(query, key, value, attn_mask)


ALL_ATTENTION_FUNCTIONS.register("fused", partial(dialogue_attention, attend=partial(fused_attend, kernel=_kernel)))


# --- time


def expected_time(model: PeftModel, text: Text, params: TrainParams, machine: Machine) -> str:
    """Useful arithmetic over the speed of this device's matrices, or over an assumed one."""
    head = model.get_base_model().get_output_embeddings().weight.numel()
    # A forward and an input gradient, of two operations a weight each; frozen weights have no gradient of their own.
    passes = 6 if params.gradient_checkpointing else 4
    times = epochs(text.samples, params)
    work = times * (text.tokens * (passes * body(model) + 6 * trained(model)) + text.supervised * 4 * head)
    speed = matrix_flops(machine.device, machine.dtype) if machine.here else ASSUMED_GPU_FLOPS
    share = SHARE[machine.dtype.itemsize]
    seconds = work / speed / share / machine.cards
    source = "measured just now" if machine.here else "assumed"
    time_left = f"{seconds:,.0f} s" if seconds < 600 else f"{seconds / 60:,.0f} min"
    cards = f" on {machine.cards} cards" if machine.cards > 1 else ""
    return (
        f"time: about {time_left} of matrix work{cards} for {times:.4g} epochs ({work / 1e12:,.0f} TFLOP, "
        f"{share:.0%} of {speed / 1e12:.2f} TFLOP/s, {source})"
    )


def matrix_flops(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations a second of large matrix products here: the median of a few."""
    size = 1024 if device == "cpu" else 8192  # a GPU is done with a small one before it is asked for the result
    left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    times = []
    for _ in range(12):
        start = time.perf_counter()
        product = left @ right
        float(product[0, 0])  # waits for the device
        times.append(time.perf_counter() - start)
    return 2 * size**3 / sorted(times)[len(times) // 2]
