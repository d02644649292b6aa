"""The local feature mask against a loop written from f + f · tanh |D1(f)|."""

import math

import pytest
import torch
from torch import Tensor

from nnunet_crossmod.nn import local_feature_mask

SHAPES = pytest.mark.parametrize("size", [(3, 4), (2, 3, 4)])


def by_loop(features: Tensor, logits: Tensor) -> Tensor:
    flat, decisions = features.flatten(2), logits.flatten(2)
    rows = []
    for i in range(flat.shape[0]):
        channels = []
        for c in range(flat.shape[1]):
            places = []
            for s in range(flat.shape[2]):
                m = decisions[i, 0, s].abs()
                tanh = (m.exp() - (-m).exp()) / (m.exp() + (-m).exp())
                places.append(flat[i, c, s] + flat[i, c, s] * tanh)
            channels.append(torch.stack(places))
        rows.append(torch.stack(channels))
    return torch.stack(rows).reshape(features.shape)


@SHAPES
def test_value_and_gradients_equal_the_formula(size: tuple[int, ...]) -> None:
    features = torch.randn(2, 3, *size, dtype=torch.float64)
    logits = 2 * torch.randn(2, 1, *size, dtype=torch.float64)
    ours, theirs = ([x.clone().requires_grad_() for x in (features, logits)] for _ in range(2))
    masked, expected = local_feature_mask(*ours), by_loop(*theirs)
    torch.testing.assert_close(masked, expected)
    weights = torch.randn_like(features)
    (masked * weights).sum().backward()
    (expected * weights).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_undecided_features_stay_and_decided_ones_double_whichever_domain_they_are_of() -> None:
    features = torch.randn(1, 2, 3, 3)
    assert torch.equal(local_feature_mask(features, torch.zeros(1, 1, 3, 3)), features)
    for sign in (-1, 1):
        torch.testing.assert_close(local_feature_mask(features, torch.full((1, 1, 3, 3), sign * 50.0)), 2 * features)


def test_the_gradient_takes_both_ways_to_the_features() -> None:
    """f̂ depends on f by itself and through D1(f): d/df (f + f · tanh |w f|) has both terms."""
    f = torch.tensor([[[[0.7]]]], dtype=torch.float64, requires_grad=True)
    w = 1.3
    through, constant = (
        torch.autograd.grad(local_feature_mask(f, logits).sum(), f)[0].item() for logits in (w * f, (w * f).detach())
    )
    tanh = math.tanh(w * 0.7)
    assert constant == pytest.approx(1 + tanh)
    assert through == pytest.approx(1 + tanh + 0.7 * w * (1 - tanh**2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite(dtype: torch.dtype) -> None:
    features = torch.randn(2, 3, 4, 4).to(dtype).requires_grad_()
    masked = local_feature_mask(features, 100 * torch.randn(2, 1, 4, 4).to(dtype))
    masked.float().sum().backward()
    assert masked.dtype == dtype
    assert torch.isfinite(masked).all()
    assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize("logits", [(2, 3, 4, 4), (1, 1, 4, 4), (2, 1, 4, 5), (2, 4, 4)])
def test_shapes_that_do_not_fit_are_refused(logits: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="logits"):
        local_feature_mask(torch.randn(2, 3, 4, 4), torch.randn(logits))
