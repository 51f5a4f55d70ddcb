"""Dialogues through a language model without waste: one row, no padding, the head on supervised positions alone.

In: a batch as `collate` makes it. Out: the summed cross-entropy of the supervised tokens, which `install` makes the
model's forward give. Logits live a few rows at a time, and never reach autograd: the head is frozen.
"""

from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

IGNORE = -100
CHUNK_BYTES = 2**26  # fp32 logits alive at once: 64 rows of a 262,144 vocabulary
Batch = dict[str, Any]


class Sample(NamedTuple):
    """One dialogue: token ids, and what each position must predict of itself (`IGNORE`: nothing)."""

    ids: list[int]
    labels: list[int]


# --- batches


def pack(samples: Sequence[Sample]) -> Batch:
    """All tokens in one row, positions restarting with each dialogue, lengths for the attention."""
    samples = [sample for sample in samples if sample.ids] or [Sample([0], [IGNORE])]
    return {
        "input_ids": torch.tensor([[token for sample in samples for token in sample.ids]]),
        "position_ids": torch.tensor([[i for sample in samples for i in range(len(sample.ids))]]),
        "labels": torch.tensor([[label for sample in samples for label in (IGNORE, *sample.labels[1:])]]),
        "lengths": tuple(len(sample.ids) for sample in samples),
    }


def pad(samples: Sequence[Sample]) -> Batch:
    """One row a dialogue, padded on the right: for models whose attention knows no borders within a row."""
    samples = [sample for sample in samples if sample.ids] or [Sample([0], [IGNORE])]
    width = max(len(sample.ids) for sample in samples)
    rows = [(s.ids, (IGNORE, *s.labels[1:]), width - len(s.ids)) for s in samples]
    return {
        "input_ids": torch.tensor([[*ids, *[0] * empty] for ids, _, empty in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * empty for ids, _, empty in rows]),
        "labels": torch.tensor([[*labels, *[IGNORE] * empty] for _, labels, empty in rows]),
    }


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
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each dialogue of a packed row; tensors are [1, heads, tokens, head size].

    Raises NotImplementedError for a model whose attention is more than that; `choose_layout` then pads.
    """
    extra = [name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None]
    if extra or attention_mask is not None or not getattr(module, "is_causal", True):
        raise NotImplementedError(f"packed attention is plain and causal, {type(module).__name__} asks for {extra}")
    options = {"scale": scaling, "dropout_p": dropout, "enable_gqa": query.shape[1] != key.shape[1]}
    parts = zip(*(tensor.split(list(lengths), dim=2) for tensor in (query, key, value)), strict=True)
    outputs = [_attend(*part, sliding_window, options) for part in parts]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _attend(query: Tensor, key: Tensor, value: Tensor, window: int | None, options: dict[str, Any]) -> Tensor:
    length = query.shape[2]
    if window is None or length <= window:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, **options)
    distance = torch.arange(length, device=query.device)[:, None] - torch.arange(length, device=query.device)
    near = (distance >= 0) & (distance < window)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=near, **options)


# --- loss


class HeadLoss(torch.autograd.Function):
    """Summed cross-entropy of `softcap(hidden @ weight.T + bias)`, with its gradient for hidden alone.

    Both come from one pass over the logits, a chunk of rows at a time, so that they are computed once and never kept.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, cap: float | None
    ) -> Tensor:
        """hidden [rows, width], weight [vocabulary, width], labels [rows]; the sum is fp32 (fp64 for fp64)."""
        wide = torch.promote_types(hidden.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=hidden.device)
        gradient = torch.empty_like(hidden) if hidden.requires_grad else None
        rows = max(1, CHUNK_BYTES // (4 * weight.shape[0]))
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            scores, slope = _scores(hidden[part], weight, bias, cap, wide)
            at = torch.arange(scores.shape[0], device=scores.device), labels[part]
            log_p = torch.log_softmax(scores, -1, out=scores)
            total -= log_p[at].sum()
            if gradient is not None:
                error = log_p.exp_()
                error[at] -= 1
                error = error if slope is None else error.mul_(slope)
                torch.mm(error.to(weight.dtype), weight, out=gradient[part])
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad.to(gradient.dtype), None, None, None, None


def _scores(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, cap: float | None, wide: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Logits in the wide type, and the derivative of the soft cap where there is one."""
    scores = (hidden @ weight.T if bias is None else torch.addmm(bias, hidden, weight.T)).to(wide)
    if cap is None:
        return scores, None
    squashed = torch.tanh(scores / cap)
    return squashed * cap, 1 - squashed.square()


def head_loss(model: PreTrainedModel, hidden: Tensor, labels: Tensor) -> Tensor:
    """Summed loss of hidden [batch, tokens, width] against labels [batch, tokens]; position i predicts label i + 1."""
    head = model.get_output_embeddings()
    rows = labels[:, 1:] != IGNORE
    chosen = hidden[:, :-1][rows].to(head.weight.dtype)
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return HeadLoss.apply(chosen, head.weight, getattr(head, "bias", None), labels[:, 1:][rows], cap)


# --- the model


class Layout(NamedTuple):
    """How batches are laid out: a name, the attention that goes with it, the function that makes a batch."""

    name: str
    attention: str
    collate: Callable[[Sequence[Sample]], Batch]


PACKED = Layout("packed", "dialogues", pack)
LAYOUTS = (PACKED, Layout("padded", "sdpa", pad), Layout("padded", "eager", pad))
PLAIN_LAYERS = {"full_attention", "sliding_attention"}


def install(model: PreTrainedModel) -> None:
    """Make `model(**batch)` return {"loss": summed loss} without logits, also through a PEFT wrapper."""
    model.forward = MethodType(_forward, model)


def _forward(self: PreTrainedModel, input_ids: Tensor, labels: Tensor, **attention: Any) -> dict[str, Tensor]:
    hidden = self.get_decoder()(input_ids=input_ids, use_cache=False, **attention).last_hidden_state
    return {"loss": head_loss(self, hidden, labels)}


def choose_layout(model: PreTrainedModel) -> Layout:
    """The first layout under which the model gives what it gives to single dialogues; sets the model's attention to it.

    Raises ValueError where none does: the head is then more than a matrix, a bias and a soft cap.
    """
    truth = _truth(model)
    for layout in LAYOUTS:
        if (layout is not PACKED or _packable(model)) and _agrees(model, layout, truth):
            return layout
    raise ValueError(f"the loss of {type(model).__name__} is not that of its last hidden state and its head")


def _packable(model: PreTrainedModel) -> bool:
    """Attention through the common interface in every layer: no recurrent state, no chunks, no mask of its own."""
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None) or PLAIN_LAYERS
    own_mask = getattr(config, "alibi", False)
    return model._can_set_attn_implementation() and set(layers) <= PLAIN_LAYERS and not own_mask


def _probe(model: PreTrainedModel) -> list[Sample]:
    size = model.get_input_embeddings().weight.shape[0]
    rows = [[(7 * i * i + 11 * i + start) % size for i in range(length)] for start, length in ((3, 9), (5, 14), (1, 6))]
    return [Sample(ids, ids) for ids in rows]


@torch.no_grad()
def _truth(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """Last hidden states and summed loss of the probe by the plain model, one dialogue at a time."""
    hidden, loss = [], 0.0
    for sample in _probe(model):
        ids = torch.tensor([sample.ids], device=model.device)
        output = model(input_ids=ids, use_cache=False, output_hidden_states=True)
        hidden.append(output.hidden_states[-1][0])
        loss = loss + F.cross_entropy(output.logits[0, :-1].float(), ids[0, 1:], reduction="sum")
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
    rows = states if layout is PACKED else [row[: len(s.ids)] for row, s in zip(states, probe, strict=True)]
    return _close(torch.cat([*rows]), truth[0]) and _close(head_loss(model, states, labels), truth[1])


def _close(mine: Tensor, plain: Tensor) -> bool:
    """Within what another order of summation explains; a dialogue that sees its neighbour is off by far more."""
    allowed = 0.05 if mine.dtype.itemsize == 2 else 1e-3
    return bool((mine.float() - plain.float()).norm() <= allowed * plain.float().norm())


ALL_ATTENTION_FUNCTIONS.register("dialogues", dialogue_attention)
