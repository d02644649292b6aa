"""Weighted self-information."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn import functional

from nnunet_crossmod.losses import self_information


@pytest.mark.parametrize("size", [(3, 4), (2, 3, 2)])
def test_value_and_gradient_equal_the_equation(size: tuple[int, ...]) -> None:
    logits = torch.randn(2, 5, *size, dtype=torch.float64, requires_grad=True)
    probabilities = logits.softmax(1)
    found = self_information(probabilities)
    weights = torch.randn_like(probabilities)
    total = torch.zeros((), dtype=torch.float64)
    for where in itertools.product(*map(range, probabilities.shape)):
        p = probabilities[where]
        expected = -p * torch.log2(p) / math.log2(5)
        torch.testing.assert_close(found[where], expected)
        total = total + weights[where] * expected
    (slow,) = torch.autograd.grad(total, logits, retain_graph=True)
    (fast,) = torch.autograd.grad((weights * found).sum(), logits)
    torch.testing.assert_close(fast, slow)


def test_certain_is_zero_and_uniform_sums_to_one() -> None:
    certain = functional.one_hot(torch.tensor([[0, 2]]), 3).movedim(-1, 1).float().requires_grad_()
    information = self_information(certain)
    assert not information.any()
    information.sum().backward()
    assert torch.isfinite(certain.grad).all()
    torch.testing.assert_close(self_information(torch.full((1, 4, 6), 0.25)).sum(1), torch.ones(1, 6))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite(dtype: torch.dtype) -> None:
    probabilities = torch.tensor([[1.0, 0.0, 0.0]]).view(1, 3, 1).to(dtype).requires_grad_()
    information = self_information(probabilities)
    information.sum().backward()
    assert information.dtype == torch.float32
    assert torch.isfinite(information).all()
    assert torch.isfinite(probabilities.grad).all()


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="two classes"):
        self_information(torch.ones(1, 1, 4))
