"""Class-local intensity curves: every structure gets an intensity transform of its own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_crossmod.losses.precision import full_precision

__all__ = ["class_local_curves"]


@torch.no_grad()
@full_precision
def class_local_curves(
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    pieces: int = 5,
    scale_deviation: float = 0.3,
    shift_deviation: float = 0.15,
    grid: int = 4,
) -> Tensor:
    """Send the voxels of every class through a random curve of their own and blend the result with the image.

    An image is brought to 0 … 1. Every class, the background included, draws a monotone piecewise-linear curve, which
    is inverted in half of the cases, a scale N(1, ``scale_deviation``) and a shift N(0, ``shift_deviation``). A smooth
    random field, between two uniform shares, blends the curves with the image, so that the edges of the labels are no
    edges of the intensities everywhere. Mean and standard deviation of the image are restored. Every image and channel
    draws by itself.

    Args:
        images: (n, c, *s), z-scored.
        labels: (n, *s), 0 … ``num_classes`` − 1; any other value (padding, ignore) counts as background.
        num_classes: k, with the background.
        pieces: linear pieces of a curve.
        scale_deviation: standard deviation of a class's scale.
        shift_deviation: standard deviation of a class's shift, in units of the image's range.
        grid: points of the random field along every axis, before it is interpolated.

    Returns:
        (n, c, *s), single precision.

    Source: after Su et al. (SLAug), AAAI 2023. Differs: piecewise-linear curves instead of Bézier curves, a random
    field instead of saliency as the blend.
    """
    n, c, *size = images.shape
    axes = tuple(range(2, images.ndim))
    lowest, highest = images.amin(axes, keepdim=True), images.amax(axes, keepdim=True)
    extent = highest - lowest
    unit = (images - lowest) / extent.clamp(min=1e-6)

    knots = _random_knots(n * c * num_classes, pieces, images).view(n, c, num_classes, pieces + 1)
    scale = 1 + scale_deviation * torch.randn(n, c, num_classes, 1, device=images.device)
    shift = shift_deviation * torch.randn(n, c, num_classes, 1, device=images.device)
    curves = (knots * scale + shift).flatten(2)

    labels = labels.long()
    labels = labels.masked_fill((labels < 0) | (labels >= num_classes), 0)
    position = (unit * pieces).clamp(0, pieces - 1e-4).flatten(2)
    piece = position.floor().long()
    knot = labels.flatten(1)[:, None] * (pieces + 1) + piece
    bent = torch.lerp(curves.gather(2, knot), curves.gather(2, knot + 1), position - piece).view_as(unit)

    share = _smooth_shares(n, size, grid, images)
    blended = (share * bent + (1 - share) * unit) * extent + lowest
    deviation = blended.std(axes, keepdim=True).clamp(min=1e-6)
    restored = (blended - blended.mean(axes, keepdim=True)) / deviation * images.std(axes, keepdim=True)
    return restored + images.mean(axes, keepdim=True)


def _random_knots(number: int, pieces: int, like: Tensor) -> Tensor:
    """Values of monotone curves, half of them falling, at ``pieces`` + 1 evenly spaced points: (number, pieces + 1)."""
    steps = torch.rand(number, pieces, device=like.device).square() + 0.02
    rising = functional.pad((steps / steps.sum(1, keepdim=True)).cumsum(1), (1, 0))
    return torch.where(torch.rand(number, 1, device=like.device) < 0.5, 1 - rising, rising)


def _smooth_shares(n: int, size: list[int], grid: int, like: Tensor) -> Tensor:
    """Smooth fields (n, 1, *size) between two uniform shares of each image."""
    axes = tuple(range(2, 2 + len(size)))
    coarse = torch.rand(n, 1, *[grid] * len(size), device=like.device)
    mode = "bicubic" if len(size) == 2 else "trilinear"
    field = functional.interpolate(coarse, size=size, mode=mode, align_corners=False).clamp(0, 1)
    lowest, highest = field.amin(axes, keepdim=True), field.amax(axes, keepdim=True)
    field = (field - lowest) / (highest - lowest).clamp(min=1e-6)
    first, second = torch.rand(2, n, *[1] * (1 + len(size)), device=like.device)
    return torch.lerp(first, second, field)
