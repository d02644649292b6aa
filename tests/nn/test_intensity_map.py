"""z-scores to −1 … 1 and back."""

import pytest
import torch

from nnunet_crossmod.nn import from_unit, to_unit


def test_there_and_back_again() -> None:
    z = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    torch.testing.assert_close(from_unit(to_unit(z)), z.float(), rtol=1e-4, atol=1e-4)


def test_linear_where_z_scores_are_and_monotonous_beyond() -> None:
    z = torch.linspace(-4, 4, 101)
    torch.testing.assert_close(to_unit(z), z / 5)
    wide = to_unit(torch.linspace(-20, 20, 2001, dtype=torch.float64))
    slope = wide.diff()
    assert (slope > 0).all()
    assert (slope.diff().abs() < 5e-4).all(), "the slope jumps"
    assert wide.abs().max() < 1


def test_beyond_the_limit_it_is_cut_and_stays_finite() -> None:
    assert torch.equal(to_unit(torch.tensor([20.0, 1e6, -1e6])), to_unit(torch.tensor([20.0, 20.0, -20.0])))
    torch.testing.assert_close(from_unit(torch.tensor([1.0, -1.0, 0.0])), torch.tensor([20.0, -20.0, 0.0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    z = torch.linspace(-4, 4, 101)
    back = from_unit(to_unit(z).to(dtype))
    assert back.dtype == torch.float32
    assert (back - z).abs().max() < (0.005 if dtype == torch.float16 else 0.02)


def test_gradients_are_finite_everywhere() -> None:
    z = torch.tensor([-30.0, -4.0, 0.0, 4.0, 30.0], requires_grad=True)
    to_unit(z).sum().backward()
    assert torch.isfinite(z.grad).all()
    u = torch.tensor([-1.0, -0.8, 0.0, 0.8, 1.0], requires_grad=True)
    from_unit(u).sum().backward()
    assert torch.isfinite(u.grad).all()
