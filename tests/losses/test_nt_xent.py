"""L_gcl against a loop written from CISFA's Eq. 5."""

import math

import pytest
import torch
from torch import Tensor

from nnunet_crossmod.losses import nt_xent


def by_loop(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    t = len(a)
    z = [*a, *b]

    def similarity(i: int, j: int) -> Tensor:
        return torch.dot(z[i], z[j]) / (z[i].norm() * z[j].norm()) / temperature

    total = torch.zeros((), dtype=a.dtype)
    for i in range(2 * t):
        partner = (i + t) % (2 * t)
        others = sum(torch.exp(similarity(i, j)) for j in range(2 * t) if j != i)
        total = total - torch.log(torch.exp(similarity(i, partner)) / others)
    return total / (2 * t)


@pytest.mark.parametrize("temperature", [0.07, 0.2])
def test_value_and_gradient_equal_the_equation(temperature: float) -> None:
    a, b = (torch.randn(5, 4, dtype=torch.float64).requires_grad_() for _ in range(2))
    found, expected = nt_xent(a, b, temperature), by_loop(a, b, temperature)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, (a, b)), torch.autograd.grad(expected, (a, b)))


def test_limits() -> None:
    apart = torch.eye(4)
    assert nt_xent(apart, apart, 0.05) < 1e-6
    assert nt_xent(torch.ones(4, 3), torch.ones(4, 3), 0.2).item() == pytest.approx(math.log(7), abs=1e-5)


def test_scale_order_and_direction_do_not_matter() -> None:
    a, b, order = torch.randn(6, 4), torch.randn(6, 4), torch.randperm(6)
    loss = nt_xent(a, b, 0.2)
    torch.testing.assert_close(nt_xent(a[order] * 7, b[order] * 0.1, 0.2), loss)
    torch.testing.assert_close(nt_xent(b, a, 0.2), loss)
    assert not torch.isclose(nt_xent(a, b.roll(1, 0), 0.2), loss)


@pytest.mark.parametrize("pairs", [0, 1])
def test_without_a_negative_it_is_exactly_zero_with_a_gradient_path(pairs: int) -> None:
    a = torch.randn(pairs, 3, requires_grad=True)
    loss = nt_xent(a, torch.randn(pairs, 3), 0.2)
    assert loss.item() == 0
    loss.backward()
    assert torch.isfinite(a.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_and_close(dtype: torch.dtype) -> None:
    a, b = torch.randn(8, 16).to(dtype).requires_grad_(), torch.randn(8, 16).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nt_xent(a, b, 0.01)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(a.grad).all()
    torch.testing.assert_close(loss, nt_xent(a.detach().float(), b.float(), 0.01))


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="descriptions"):
        nt_xent(torch.randn(3, 4), torch.randn(2, 4), 0.2)
    with pytest.raises(ValueError, match="descriptions"):
        nt_xent(torch.randn(3, 4, 2), torch.randn(3, 4, 2), 0.2)
