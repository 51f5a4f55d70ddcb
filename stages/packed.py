"""Dialogues through a language model without waste: one row, no padding, the head on supervised positions alone.

In: a batch as `collate` makes it. Out: the summed cross-entropy of the supervised tokens, which `install` makes the
model's forward give.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MethodType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from stages.attention import plain
from stages.conversation import IGNORE, common_start
from stages.head import label_losses
from stages.records import InputError

MOST_QUERIES = 256  # of one matrix of scores: more of it would be hidden by the causal mask, and computed for nothing
MOST_SCORES = 2**24  # on a CPU, plain matrices below this size are 1.2 (fp32) to 4 times (bf16) as fast as SDPA
Batch = dict[str, Any]


class Sample(NamedTuple):
    """One dialogue: token ids, and what each position must predict of itself (`IGNORE`: nothing)."""

    ids: list[int]
    labels: list[int]


# --- batches


def pack(samples: Sequence[Sample]) -> Batch:
    """All tokens in one row: the opening that the dialogues share (the persona) once, then what follows in each.

    `lengths` are those of the opening and of each rest; positions count on from the opening in every rest.
    """
    samples = _some(samples)
    shared = _shared(samples)
    rests = [samples[0].ids[:shared], *(sample.ids[shared:] for sample in samples)]
    starts = [0] + [shared] * len(samples)
    labels = [IGNORE] * shared + [label for sample in samples for label in (IGNORE, *sample.labels[shared + 1 :])]
    return {
        "input_ids": torch.tensor([[token for rest in rests for token in rest]]),
        "position_ids": torch.tensor(
            [[start + i for start, rest in zip(starts, rests, strict=True) for i in range(len(rest))]]
        ),
        "labels": torch.tensor([labels]),
        "lengths": tuple(len(rest) for rest in rests),
    }


def pad(samples: Sequence[Sample]) -> Batch:
    """One row a dialogue, padded on the right: for models whose attention knows no borders within a row."""
    samples = _some(samples)
    width = max(len(sample.ids) for sample in samples)
    rows = [(s.ids, (IGNORE, *s.labels[1:]), width - len(s.ids)) for s in samples]
    return {
        "input_ids": torch.tensor([[*ids, *[0] * empty] for ids, _, empty in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * empty for ids, _, empty in rows]),
        "labels": torch.tensor([[*labels, *[IGNORE] * empty] for _, labels, empty in rows]),
    }


def _some(samples: Sequence[Sample]) -> list[Sample]:
    """Without the empty samples that fill a batch; a batch of nothing else becomes one token that teaches nothing."""
    return [sample for sample in samples if sample.ids] or [Sample([0], [IGNORE])]


def _shared(samples: Sequence[Sample]) -> int:
    """Tokens that all dialogues open with, short of any whose successor is a label or the end."""
    if len(samples) == 1:
        return 0
    labelled = [i for sample in samples for i, label in enumerate(sample.labels) if i and label != IGNORE]
    most = min([*labelled, *(len(sample.ids) for sample in samples)]) - 1
    return max(0, min(most, common_start(sample.ids for sample in samples)))


# --- attention


def dialogue_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    lengths: Sequence[int],
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    attend: Callable[..., Tensor] | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention of a packed row: the opening within itself, each rest to the opening and within itself.

    `attend` computes one such part; None is the fastest way for the device. Tensors are [1, heads, tokens, head size].
    Raises NotImplementedError for a model whose attention is more than that; `choose_layout` then pads.
    """
    _refuse_more(module, attention_mask, dropout, others)
    attend = attend or _attend
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    (_, *queries), (opening, *keys), (opened, *values) = (t.split(list(lengths), dim=2) for t in (query, key, value))
    outputs = [attend(query[:, :, : lengths[0]], opening, opened, sliding_window, scale)]
    for q, k, v in zip(queries, keys, values, strict=True):
        outputs.append(attend(q, torch.cat((opening, k), 2), torch.cat((opened, v), 2), sliding_window, scale))
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _refuse_more(module: nn.Module, mask: Tensor | None, dropout: float, others: Mapping[str, Any]) -> None:
    asked = {name: others.get(name) is not None for name in ("softcap", "s_aux", "position_bias")}
    asked |= {"dropout": dropout, "a mask": mask is not None, "the future": not getattr(module, "is_causal", True)}
    extra = [name for name, wanted in asked.items() if wanted]
    if extra:
        raise NotImplementedError(f"packed attention is plain and causal, {type(module).__name__} asks for {extra}")


def _attend(query: Tensor, key: Tensor, value: Tensor, window: int | None, scale: float) -> Tensor:
    """Attention of the last tokens of key and value, as many as query has, to all before them."""
    (_, heads, new, size), (_, groups, total, _) = query.shape, key.shape
    fold = heads // groups
    if query.device.type not in ("cpu", "meta") or heads * new * total > MOST_SCORES:
        return fused_attend(query, key, value, window, scale)
    if new > MOST_QUERIES:
        half, seen = new // 2, total - new + new // 2
        first = _attend(query[:, :, :half], key[:, :, :seen], value[:, :, :seen], window, scale)
        return torch.cat((first, _attend(query[:, :, half:], key, value, window, scale)), 2)
    seen = _seen(new, total, window, query.device)
    bias = query.new_zeros(new, total).masked_fill_(~seen, -torch.inf)
    folded = (query * scale).reshape(1, groups, fold * new, size)  # heads that share a key, as rows of one matrix
    scores = (folded @ key.mT).view(1, groups, fold, new, total) + bias
    return (scores.softmax(-1).view(1, groups, fold * new, total) @ value).reshape(1, heads, new, value.shape[-1])


def fused_attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int | None,
    scale: float,
    kernel: Callable[..., Tensor] = F.scaled_dot_product_attention,
) -> Tensor:
    """The same by a kernel that keeps no scores."""
    (_, heads, new, _), (_, groups, total, _) = query.shape, key.shape
    key, value = (
        t[:, :, None].expand(-1, -1, heads // groups, -1, -1).reshape(1, heads, total, t.shape[-1])
        for t in (key, value)
    )
    plain = new == total <= (window or total)
    mask = None if plain else _seen(new, total, window, query.device)
    return kernel(query, key, value, attn_mask=mask, is_causal=plain, scale=scale)


@lru_cache(maxsize=32)  # every layer asks for the same few
def _seen(new: int, total: int, window: int | None, device: torch.device) -> Tensor:
    """[new, total]: which tokens each of the last `new` attends to."""
    places = torch.arange(total, device=device)
    distance = places[total - new :, None] - places
    return (distance >= 0) & (distance < (window or total))


# --- loss


def head_loss(model: PreTrainedModel, hidden: Tensor, labels: Tensor) -> Tensor:
    """Summed loss of hidden [batch, tokens, width] against labels [batch, tokens]; position i predicts label i + 1."""
    rows = labels[:, 1:] != IGNORE
    return label_losses(model, hidden[:, :-1][rows], labels[:, 1:][rows]).sum()


# --- the model


class Layout(NamedTuple):
    """How batches are laid out: a name, the attention that goes with it, the function that makes a batch."""

    name: str
    attention: str
    collate: Callable[[Sequence[Sample]], Batch]


PACKED = Layout("packed", "dialogues", pack)
LAYOUTS = (PACKED, Layout("padded", "sdpa", pad), Layout("padded", "eager", pad))


def install(model: PreTrainedModel) -> None:
    """Make `model(**batch)` return {"loss": summed loss} without logits, also through a PEFT wrapper."""
    model.forward = MethodType(_forward, model)


def _forward(self: PreTrainedModel, input_ids: Tensor, labels: Tensor, **attention: Any) -> dict[str, Tensor]:
    # Autocast lets fp32 LoRA weights multiply in the base's 16 bits: a quarter faster on a CPU, with PEFT's casts off.
    with torch.autocast(input_ids.device.type, self.dtype, enabled=self.dtype.itemsize == 2):
        hidden = self.get_decoder()(input_ids=input_ids, use_cache=False, **attention).last_hidden_state
    return {"loss": head_loss(self, hidden, labels)}


def choose_layout(model: PreTrainedModel) -> Layout:
    """The first layout under which the model gives what it gives to single dialogues; sets the model's attention to it.

    Raises InputError where none does: the head is then more than a matrix, a bias and a soft cap.
    """
    truth = _truth(model)
    for layout in LAYOUTS:
        if (layout is not PACKED or packable(model)) and _agrees(model, layout, truth):
            return layout
    raise InputError(f"the loss of {type(model).__name__} is not that of its last hidden state and its head")


def packable(model: PreTrainedModel) -> bool:
    """Attention through the common interface in every layer: no recurrent state, chunks, mask or dropout of its own."""
    dropout = getattr(model.config.get_text_config(), "attention_dropout", 0)
    return model._can_set_attn_implementation() and plain(model) and not dropout


def _probe(model: PreTrainedModel) -> list[Sample]:
    size = model.get_input_embeddings().weight.shape[0]
    rows = [
        [(7 * i * i + start * max(0, i - 2)) % size for i in range(length)]
        for start, length in ((3, 9), (5, 14), (1, 6))
    ]
    return [Sample(ids, [IGNORE] * 4 + ids[4:]) for ids in rows]


@torch.no_grad()
def _truth(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """Last hidden states and summed loss of the probe by the plain model, one dialogue at a time."""
    hidden, loss = [], 0.0
    for sample in _probe(model):
        ids, labels = (torch.tensor([part], device=model.device) for part in sample)
        output = model(input_ids=ids, use_cache=False, output_hidden_states=True)
        hidden.append(output.hidden_states[-1][0])
        loss = loss + F.cross_entropy(output.logits[0, :-1].float(), labels[0, 1:], reduction="sum")
    return torch.cat(hidden), loss


@torch.no_grad()
def _agrees(model: PreTrainedModel, layout: Layout, truth: tuple[Tensor, Tensor]) -> bool:
    probe = _probe(model)
    batch = {k: v.to(model.device) if isinstance(v, Tensor) else v for k, v in layout.collate(probe).items()}
    labels = batch.pop("labels")
    try:
        model.set_attn_implementation(layout.attention)
        states = model.get_decoder()(use_cache=False, **batch).last_hidden_state
    except (NotImplementedError, ValueError, TypeError, AttributeError):
        return False
    # In 16 bits attentions of equal worth differ by 4 % here; a dialogue that sees its neighbour is off by far more.
    allowed = 0.15 if states.dtype.itemsize == 2 else 1e-3
    pairs = (_unpacked(states, batch, probe), truth[0]), (head_loss(model, states, labels), truth[1])
    return all((mine - plain).norm() <= allowed * plain.norm() for mine, plain in pairs)


def _unpacked(states: Tensor, batch: Batch, probe: list[Sample]) -> Tensor:
    """The states of whole dialogues, one after the other."""
    if "lengths" not in batch:
        return torch.cat([row[: len(sample.ids)] for row, sample in zip(states, probe, strict=True)])
    opening, *rests = states[0].split(batch["lengths"])
    return torch.cat([part for rest in rests for part in (opening, rest)])


ALL_ATTENTION_FUNCTIONS.register("dialogues", dialogue_attention)
