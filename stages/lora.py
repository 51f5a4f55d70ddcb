"""PEFT's LoRA layers without passes over their outputs: what the adapter adds is scaled while it is small, and added
within the product.
"""

from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora.layer import Linear, LoraVariant
from torch import Tensor


class Added(torch.autograd.Function):
    """`result + scale * x @ a.T @ b.T` in result's own memory; x [..., in], a [rank, in], b [out, rank]."""

    @staticmethod
    def forward(ctx: Any, result: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        a, b = a.to(x.dtype), b.to(x.dtype)
        low = (x @ a.T).mul_(scale)
        result.view(-1, b.shape[0]).addmm_(low.flatten(0, -2), b.T)
        ctx.mark_dirty(result)
        ctx.save_for_backward(x, low, a, b)
        ctx.scale = scale
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor, None]:
        x, low, a, b = ctx.saved_tensors
        slope = (grad @ b).mul_(ctx.scale)
        of_x = slope @ a if ctx.needs_input_grad[1] else None
        of_a = slope.flatten(0, -2).T @ x.flatten(0, -2)
        of_b = grad.flatten(0, -2).T @ low.flatten(0, -2)
        return grad, of_x, of_a, of_b, None


class InPlace(LoraVariant):
    """PEFT's hook for another way to add the adapter to a layer's result."""

    @staticmethod
    def forward(module: Linear, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        a, b = module.lora_A[active_adapter].weight, module.lora_B[active_adapter].weight
        dropped = module.lora_dropout[active_adapter](x).to(result.dtype)
        return Added.apply(result, dropped, a, b, module.scaling[active_adapter])


def add_in_place(model: PeftModel) -> None:
    """Let plain LoRA on unquantised linear layers add in place; DoRA and others stay PEFT's."""
    for module in model.modules():
        if type(module) is Linear:
            for name in module.lora_A.keys() - module.lora_variant.keys():
                module.lora_variant[name] = InPlace()
