"""RMSNorm with its derivative as one formula: autograd would pass over the states a dozen times, and hold an fp32 copy.

The forward pass stays the model's own, bit for bit.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

Forward = Callable[[Tensor], Tensor]


class RMSNorm(torch.autograd.Function):
    """`own(x)`, which is `x / sqrt(mean(x ** 2) + eps) * scale`; x [..., width], scale [width], frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, own: Forward, scale: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.eps = eps
        return own(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, scale = ctx.saved_tensors
        exact, slope = x.to(scale.dtype), grad * scale
        root = (exact.square().mean(-1, keepdim=True) + ctx.eps).rsqrt()
        along = (slope * exact).mean(-1, keepdim=True)
        of_x = slope.mul_(root).addcmul_(exact, root**3 * along, value=-1)
        return of_x.to(x.dtype), None, None, None


def derive_norms(model: nn.Module) -> None:
    """Give the model's RMSNorms this derivative; one that computes anything else, or is sharded, stays as it is."""
    for module in model.modules():
        eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        weight = getattr(module, "weight", None)
        whole = isinstance(weight, Tensor) and not isinstance(weight, DTensor)
        if type(module).__name__.endswith("RMSNorm") and eps and whole:
            _derive(module, weight, eps)


def _derive(module: nn.Module, weight: Tensor, eps: float) -> None:
    own = module.forward
    exact = torch.promote_types(weight.dtype, torch.float32)
    with torch.no_grad():  # of ones it gives its scale, be that the weight or one more than the weight
        scale = own(torch.ones(weight.shape, dtype=exact, device=weight.device)) * (1 + eps) ** 0.5
    if weight.is_meta or _agrees(own, scale, eps):
        module.forward = lambda x: RMSNorm.apply(x, own, scale, eps)


def _agrees(own: Forward, scale: Tensor, eps: float) -> bool:
    """Whether the formula is the derivative of this module."""
    x = (torch.arange(3.0 * len(scale)).sin() + 0.1).to(scale).view(3, -1).requires_grad_()
    slope = x.detach().flip(0, 1)
    mine, its = (torch.autograd.grad(f(x), x, slope)[0] for f in (lambda x: RMSNorm.apply(x, own, scale, eps), own))
    return bool((mine - its).norm() <= 1e-5 * its.norm())
