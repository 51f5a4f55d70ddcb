"""Losses of the head and their gradient against full logits in fp64, through any number of blocks."""

import pytest
import torch
import torch.nn.functional as F

from stages import head
from stages.head import HeadLoss

VOCABULARY, WIDTH, ROWS = 301, 16, 40


def material(dtype, *, biased, scale=1.0):
    generator = torch.Generator().manual_seed(1)
    hidden, weight = (torch.randn(n, WIDTH, generator=generator).mul(scale).to(dtype) for n in (ROWS, VOCABULARY))
    bias = torch.randn(VOCABULARY, generator=generator).to(dtype) if biased else None
    labels = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    return hidden, weight, bias, labels


def full(hidden, weight, bias, labels, cap):
    """The same from full logits in fp64."""
    hidden, weight = hidden.double().requires_grad_(), weight.double()
    logits = hidden @ weight.T + (0 if bias is None else bias.double())
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    losses = F.cross_entropy(logits, labels, reduction="none")
    return losses.detach(), torch.autograd.grad((losses * torch.arange(len(labels))).sum(), hidden)[0]


def ours(hidden, weight, bias, labels, cap):
    hidden = hidden.clone().requires_grad_()
    losses = HeadLoss.apply(hidden, weight, bias, labels, cap)
    return losses.detach(), torch.autograd.grad((losses * torch.arange(len(labels))).sum(), hidden)[0]


@pytest.mark.parametrize("columns", [1, 7, 300, 301, 1024])
@pytest.mark.parametrize("cap", [None, 5.0], ids=["plain", "soft cap"])
@pytest.mark.parametrize("biased", [False, True], ids=["no bias", "bias"])
def test_any_blocks_give_the_losses_and_slopes_of_full_logits(biased, cap, columns, monkeypatch):
    monkeypatch.setattr(head, "COLUMNS", columns)
    parts = material(torch.float64, biased=biased)
    for got, wanted in zip(ours(*parts, cap), full(*parts, cap), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-11)


def test_few_rows_have_more_columns_where_a_block_costs_a_launch():
    rows = torch.empty(100, 8)
    assert head._columns(rows) == head.COLUMNS
    assert head._columns(rows.to("meta")) * len(rows) * 4 == pytest.approx(head.BLOCK_BYTES, rel=1e-3)


def test_what_is_all_but_certain_keeps_its_small_slope_in_16_bits():
    hidden, weight, _, _ = material(torch.bfloat16, biased=False, scale=1.6)
    labels = (hidden.double() @ weight.double().T).argmax(-1)
    losses, slopes = full(hidden, weight, None, labels, None)
    sure = losses < 0.01  # 1 - p is below what a p in 16 bits can tell from 1
    assert sure.sum() > 5
    got, mine = ours(hidden, weight, None, labels, None)
    torch.testing.assert_close(got[sure].double(), losses[sure], rtol=0.2, atol=0)
    assert ((mine.double() - slopes)[sure].norm(dim=1) < 0.2 * slopes[sure].norm(dim=1)).all()


def test_logits_beyond_the_range_of_exp_stay_finite():
    hidden, weight, _, labels = material(torch.float32, biased=False, scale=30.0)
    parts = hidden, weight, None, labels, None
    for got, wanted in zip(ours(*parts), full(*parts), strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-2)


def test_no_row_at_all_is_no_loss():
    hidden, weight, _, labels = material(torch.float32, biased=False)
    losses, slopes = ours(hidden[:0], weight, None, labels[:0], None)
    assert losses.shape == (0,) and slopes.shape == (0, WIDTH)


def test_without_a_gradient_the_losses_are_the_same():
    hidden, weight, _, labels = material(torch.float32, biased=False)
    with torch.inference_mode():
        alone = HeadLoss.apply(hidden, weight, None, labels, None)
    torch.testing.assert_close(alone, ours(hidden, weight, None, labels, None)[0])
