"""The least-squares game."""

import pytest
import torch

from nnunet_crossmod.losses import discriminate, fool


def test_value_and_gradient_equal_the_equation() -> None:
    real, fake = (torch.randn(2, 1, 3, 4, dtype=torch.float64).requires_grad_() for _ in range(2))
    telling = discriminate(real, fake)
    expected = 0.5 * sum((v - 1) ** 2 for v in real.flatten()) / 24 + 0.5 * sum(v**2 for v in fake.flatten()) / 24
    torch.testing.assert_close(telling, expected)
    torch.testing.assert_close(torch.autograd.grad(telling, (real, fake)), torch.autograd.grad(expected, (real, fake)))
    torch.testing.assert_close(fool(fake), sum((v - 1) ** 2 for v in fake.flatten()) / 24)


def test_limits() -> None:
    one, zero = torch.ones(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2)
    assert discriminate(one, zero) == 0
    assert discriminate(one / 2, one / 2) == 0.25
    assert fool(one) == 0
    assert fool(zero) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype: torch.dtype) -> None:
    far = torch.full((2, 1, 4, 4), 300.0, dtype=dtype)
    assert fool(far).dtype == torch.float32
    assert torch.isfinite(fool(far))
    assert torch.isfinite(discriminate(far, far))
