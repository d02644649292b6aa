"""Dice and cross-entropy on trusted voxels: loop oracle of value and gradient, limits, shapes."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_crossmod.losses import trusted_dice_ce

SIZES = [(5, 4), (3, 4, 2)]


def oracle(logits: torch.Tensor, labels: torch.Tensor, trusted: torch.Tensor) -> torch.Tensor:
    n, k = logits.shape[:2]
    flat = logits.reshape(n, k, -1)
    entropies, overlap, sizes, count = [], [0.0] * k, [0.0] * k, 0
    for sample in range(n):
        for voxel in range(flat.shape[2]):
            if not trusted.reshape(n, -1)[sample, voxel]:
                continue
            count += 1
            label = int(labels.reshape(n, -1)[sample, voxel])
            exponentials = flat[sample, :, voxel].exp()
            probabilities = exponentials / exponentials.sum()
            entropies.append(-probabilities[label].log())
            for c in range(k):
                overlap[c] = overlap[c] + probabilities[c] * (c == label)
                sizes[c] = sizes[c] + probabilities[c] + (c == label)
    dice = sum((2 * overlap[c] + 1e-5) / (sizes[c] + 1e-5) for c in range(1, k)) / (k - 1)
    return sum(entropies) / max(1, count) + 1 - dice  # type: ignore[return-value]


@pytest.mark.parametrize("size", SIZES)
def test_value_and_gradient_are_the_equations(size: tuple[int, ...]) -> None:
    logits = torch.randn(2, 3, *size, dtype=torch.double)
    labels, trusted = torch.randint(0, 3, (2, *size)), torch.rand(2, *size) < 0.6
    values, gradients = [], []
    for loss in (trusted_dice_ce, oracle):
        x = logits.clone().requires_grad_()
        values.append(loss(x, labels, trusted))
        values[-1].backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)


def test_voxels_that_are_not_trusted_get_no_gradient() -> None:
    logits = torch.randn(2, 3, 6, 6, requires_grad=True)
    trusted = torch.rand(2, 6, 6) < 0.5
    trusted_dice_ce(logits, torch.randint(0, 3, (2, 6, 6)), trusted).backward()
    assert logits.grad is not None
    moved = logits.grad.abs().sum(1) > 0
    assert torch.equal(moved, trusted)


def test_limits() -> None:
    labels = torch.randint(0, 3, (2, 6, 6))
    certain = 50.0 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1)
    everywhere = torch.ones(2, 6, 6, dtype=torch.bool)
    assert trusted_dice_ce(certain, labels, everywhere) == pytest.approx(0, abs=1e-5)
    assert trusted_dice_ce(certain, labels, ~everywhere) == 0
    even = trusted_dice_ce(torch.zeros(2, 3, 6, 6), torch.zeros(2, 6, 6), everywhere)
    assert even == pytest.approx(math.log(3) + 1, abs=1e-4)


def test_half_precision_is_finite_and_wrong_shapes_raise() -> None:
    logits = 100 * torch.randn(2, 3, 6, 6)
    labels, trusted = torch.randint(0, 3, (2, 6, 6)), torch.rand(2, 6, 6) < 0.5
    for precision in (torch.float16, torch.bfloat16):
        assert torch.isfinite(trusted_dice_ce(logits.to(precision), labels, trusted))
    with pytest.raises(ValueError, match="expected logits"):
        trusted_dice_ce(logits, labels[:1], trusted)
