"""The adapter added in place gives what PEFT's own layers give: outputs, gradients, dropout, and only where it may."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from stages.lora import InPlace, add_in_place


class Twice(nn.Module):
    """Two linear layers, one of them with a bias, around what has a slope of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(24, 40, bias=False), nn.Linear(40, 8)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def pair(**settings):
    """The same adapted model twice: as PEFT makes it, and adding in place."""
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["first", "second"], **settings)
    plain = get_peft_model(Twice(), config)
    for name, weight in plain.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight)  # zero at first: a product with it would hide much
    ours = copy.deepcopy(plain)
    add_in_place(ours)
    return plain, ours


def variants(model):
    return [v for m in model.modules() for v in getattr(m, "lora_variant", {}).values()]


def gradients(model, x):
    torch.manual_seed(2)  # of the dropout
    x = x.clone().requires_grad_()
    model(x).square().sum().backward()
    return {"x": x.grad, **{n: w.grad for n, w in model.named_parameters() if w.grad is not None}}


@pytest.mark.parametrize("shape", [(7, 24), (1, 7, 24), (2, 3, 7, 24)])
@pytest.mark.parametrize("settings", [{}, {"lora_dropout": 0.3}, {"use_rslora": True}], ids=str)
def test_gradients_are_those_of_peft(settings, shape):
    plain, ours = pair(**settings)
    assert [type(v) for v in variants(ours)] == [InPlace, InPlace] and not variants(plain)
    x = torch.randn(shape, dtype=torch.float64)
    wanted, got = (gradients(model.double(), x) for model in (plain, ours))
    assert got.keys() == wanted.keys() and len(got) == 5
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], rtol=1e-10, atol=1e-12)


def test_sixteen_bits_keep_the_adapter_in_fp32_and_come_close_to_peft():
    plain, ours = pair()
    exact = gradients(copy.deepcopy(plain).double(), x := torch.randn(50, 24).double())
    found = []
    for model in (plain, ours):
        model.get_base_model().to(torch.bfloat16)
        for name, weight in model.named_parameters():
            weight.data = weight.data.float() if "lora_" in name else weight.data
        with torch.autocast("cpu", torch.bfloat16):
            found.append(gradients(model, x.bfloat16()))
    errors = [{n: ((g[n] - exact[n]).norm() / exact[n].norm()).item() for n in exact} for g in found]
    assert all(ours_[n] < 1.5 * peft[n] + 2**-9 for peft, ours_ in [errors] for n in exact), errors
    assert all(g.dtype == torch.float32 for name, g in found[1].items() if name != "x")


def test_dora_stays_pefts_own():
    plain, ours = pair(use_dora=True)
    assert [type(v) for v in variants(ours)] == [type(v) for v in variants(plain)] != [InPlace, InPlace]


def test_the_first_layer_needs_no_gradient_of_its_input():
    plain, ours = pair()
    x = torch.randn(5, 24)
    for model in (plain, ours):
        model(x).sum().backward()
    for mine, pefts in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, pefts.grad)


def test_without_gradients_the_output_is_the_same():
    plain, ours = pair()
    x = torch.randn(5, 24)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), plain(x))
