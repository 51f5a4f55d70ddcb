"""RMSNorm's own derivative: that of autograd, for every scale a model gives it, and nothing held but the input."""

import pytest
import torch
from torch import nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.phi3.modeling_phi3 import Phi3RMSNorm

from stages.norm import derive_norms

WIDTH = 16


class CentredRMSNorm(LlamaRMSNorm):
    """Not what its name says: it subtracts the mean."""

    def forward(self, hidden_states):
        return super().forward(hidden_states - hidden_states.mean(-1, keepdim=True))


class BareRMSNorm(nn.Module):
    """Without a weight."""

    eps = 1e-6

    def forward(self, hidden_states):
        return hidden_states * (hidden_states.square().mean(-1, keepdim=True) + self.eps).rsqrt()


def norm(kind, dtype=torch.float64):
    module = kind(WIDTH, eps=1e-3)
    nn.init.normal_(module.weight, generator=torch.Generator().manual_seed(0))
    return module.to(dtype).requires_grad_(False)


def states(dtype=torch.float64):
    return torch.randn(2, 5, 3, WIDTH, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()


def through(module, x):
    """What comes out, its gradient for x, and the tensors that were held for that."""
    held = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: held.append(tensor) or tensor, lambda tensor: tensor):
        y = module(x)
    return y, torch.autograd.grad(y, x, y.detach().cos())[0], held


@pytest.mark.parametrize("kind", [Gemma3RMSNorm, LlamaRMSNorm, Phi3RMSNorm])
def test_the_derivative_is_that_of_autograd(kind):
    module, x = norm(kind), states()
    y, gradient, _ = through(module, x)
    derive_norms(module)
    again, mine, _ = through(module, x)
    assert type(again.grad_fn).__name__ == "RMSNormBackward", "not derived"
    assert torch.equal(y, again)
    assert (mine - gradient).norm() < 1e-7 * gradient.norm()


@pytest.mark.parametrize("kind", [Gemma3RMSNorm, LlamaRMSNorm, Phi3RMSNorm])
def test_in_16_bits_the_output_is_the_same_and_no_32_bit_copy_is_held(kind):
    module, x = norm(kind, torch.bfloat16), states(torch.bfloat16)
    y, gradient, held = through(module, x)
    assert any(tensor.dtype == torch.float32 and tensor.shape == x.shape for tensor in held)
    derive_norms(module)
    again, mine, held = through(module, x)
    assert torch.equal(y, again)
    assert (mine - gradient).norm() < 0.01 * gradient.norm()
    assert [(tensor.dtype, tensor.shape) for tensor in held] == [(x.dtype, x.shape), (torch.float32, (WIDTH,))]


@pytest.mark.parametrize("module", [norm(CentredRMSNorm), BareRMSNorm(), nn.LayerNorm(WIDTH)], ids=repr)
def test_what_is_no_plain_rms_norm_stays_as_it_is(module):
    derive_norms(module)
    assert "forward" not in vars(module)


def test_shapes_alone_are_enough_for_a_plan():
    with torch.device("meta"):
        module = norm(LlamaRMSNorm, torch.bfloat16)
        derive_norms(module)
        assert module(states(torch.bfloat16)).shape == (2, 5, 3, WIDTH)
    assert "forward" in vars(module)
