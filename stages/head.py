"""Hidden states and labels in, cross-entropies out: the output head, whose logits are never all there."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

COLUMNS = 1024  # of a block of logits: on a CPU 5,289 columns of 793 rows took 1.7 times as long, a column
BLOCK_BYTES = 2**27  # of fp32 logits: elsewhere, where a block costs launches and a wait, few rows have more columns


def label_losses(model: PreTrainedModel, hidden: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in nats of each label after its hidden state, [rows]; hidden is [rows, width], labels [rows]."""
    head = model.get_output_embeddings()
    config = model.config.get_text_config()
    states = hidden.to(head.weight.dtype) / getattr(config, "logits_scaling", 1)
    cap = getattr(config, "final_logit_softcapping", None)
    return HeadLoss.apply(states, head.weight, getattr(head, "bias", None), labels, cap)


class HeadLoss(torch.autograd.Function):
    """Cross-entropies of `softcap(hidden @ weight.T + bias)`, with their gradient for hidden alone: the head is frozen.

    That gradient is softmax(logits) @ weight less the label's row of weight: attention, with weight as keys and values.
    So both come from one pass over blocks of the vocabulary, as in FlashAttention (arXiv:2205.14135). The label stays
    out of the sums and comes in at the end: 1 - p of a label that is all but certain is then exact in 16 bits too.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, cap: float | None
    ) -> Tensor:
        """hidden [rows, width], weight [vocabulary, width]; the losses are fp64 for fp64, else fp32."""
        exact = torch.promote_types(hidden.dtype, torch.float32)
        own = weight[labels].to(exact)
        own_bias = None if bias is None else bias[labels, None]
        target, steepness = _finish((hidden.to(exact) * own).sum(-1, keepdim=True), own_bias, cap)
        top, others, mean = target, torch.zeros_like(target), torch.zeros_like(own)
        columns = _columns(hidden)
        for start in range(0, weight.shape[0], columns):
            block = slice(start, start + columns)
            logits = (hidden @ weight[block].T).to(exact)
            logits, slope = _finish(logits, None if bias is None else bias[block], cap)
            _hide(logits, labels - start)
            before, top = top, torch.maximum(top, logits.amax(-1, keepdim=True))
            shrink, shares = (before - top).exp(), logits.sub_(top).exp_()
            others = others * shrink + shares.sum(-1, keepdim=True)
            if ctx.needs_input_grad[0]:
                shares = shares if slope is None else shares.mul_(slope)
                mean.mul_(shrink).add_(shares.to(weight.dtype) @ weight[block])
        if ctx.needs_input_grad[0]:
            gradient = (mean - others * own * steepness) / (others + (target - top).exp())
            ctx.save_for_backward(gradient.to(hidden.dtype))
        return torch.logaddexp(torch.zeros_like(target), others.log() + top - target)[:, 0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad[:, None].to(gradient.dtype), None, None, None, None


def _columns(hidden: Tensor) -> int:
    """Columns of a block of logits."""
    return COLUMNS if hidden.device.type == "cpu" else max(COLUMNS, BLOCK_BYTES // (4 * max(1, len(hidden))))


def _finish(logits: Tensor, bias: Tensor | None, cap: float | None) -> tuple[Tensor, Tensor | float]:
    """The finished logits and the derivative of the soft cap."""
    logits = logits if bias is None else logits + bias
    if cap is None:
        return logits, 1.0
    bent = (logits / cap).tanh()
    return bent * cap, 1 - bent.square()


def _hide(logits: Tensor, labels: Tensor) -> None:
    """Leave the labels that are within this block out of every sum."""
    inside = ((labels >= 0) & (labels < logits.shape[1])).nonzero()[:, 0]
    logits[inside, labels[inside]] = -torch.inf
