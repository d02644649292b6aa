"""nnU-Net's augmentation in two parts: in space by the loader, of intensities in the training step."""

from __future__ import annotations

import torch
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from torch import Tensor

from nnunet_crossmod.losses.precision import full_precision

__all__ = ["augment_intensity", "spatial_part"]


def spatial_part(transforms: ComposeTransforms) -> ComposeTransforms:
    """nnU-Net's training transforms without those that change the intensities of the image alone."""

    def of_intensity(transform: object) -> bool:
        inner = transform.transform if isinstance(transform, RandomTransform) else transform
        return isinstance(inner, ImageOnlyTransform)

    return ComposeTransforms([transform for transform in transforms.transforms if not of_intensity(transform)])


@torch.no_grad()
@full_precision
def augment_intensity(images: Tensor, keep_first_axis: bool = False) -> Tensor:
    """What nnU-Net's training transforms do to intensities, with its probabilities and ranges, for a whole batch.

    In nnU-Net's order: noise, blur, brightness, contrast, low resolution, gamma of the inverted image, gamma. Every
    image and channel draws by itself. All is done on the device, for all images, and chosen from: nnU-Net's own
    transforms bring their random choices to the host. Blur and low resolution are matrices along one axis after the
    other, so their edges are renormalised instead of mirrored.

    Args:
        images: (n, c, *s), z-scored.
        keep_first_axis: never coarsen along the first axis: nnU-Net does so where it is short against the others.

    Returns:
        (n, c, *s), single precision.
    """
    x = images.float().flatten(0, 1)
    drawn = _Draw(len(x), x.ndim, x.device)
    x = x + drawn.uniform(0.0, 0.1) * torch.randn_like(x) * drawn.chance(0.1)
    blur, scale = drawn.chance(0.2) * drawn.chance(0.5), drawn.chance(0.25) * drawn.chance(0.5)
    x = _along_every_axis(x, [_blurring(length, drawn.uniform(0.5, 1.0), blur) for length in x.shape[1:]])
    x = torch.where(drawn.chance(0.15) > 0, x * drawn.around_one(0.75, 1.25), x)
    x = torch.where(drawn.chance(0.15) > 0, _contrast(x, drawn.around_one(0.75, 1.25)), x)
    factor = drawn.uniform(0.5, 1.0)
    coarse = [_coarsening(length, factor, scale) for length in x.shape[1:]]
    if keep_first_axis:
        coarse[0] = torch.eye(x.shape[1], device=x.device).expand_as(coarse[0])
    x = _along_every_axis(x, coarse)
    x = torch.where(drawn.chance(0.1) > 0, -_gamma(-x, drawn.around_one(0.7, 1.5)), x)
    x = torch.where(drawn.chance(0.3) > 0, _gamma(x, drawn.around_one(0.7, 1.5)), x)
    return x.reshape(images.shape)


class _Draw:
    """Random numbers, one an image, that fit on it: (n, 1, …)."""

    def __init__(self, number: int, axes: int, device: torch.device) -> None:
        self.shape, self.device = (number, *[1] * (axes - 1)), device

    def uniform(self, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(self.shape, device=self.device)

    def chance(self, probability: float) -> Tensor:
        return (torch.rand(self.shape, device=self.device) < probability).float()

    def around_one(self, low: float, high: float) -> Tensor:
        """As often below one as above."""
        return torch.where(self.chance(0.5) > 0, self.uniform(low, 1.0), self.uniform(1.0, high))


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    axes = tuple(range(1, x.ndim))
    mean = x.mean(axes, keepdim=True)
    stretched = (x - mean) * factor + mean
    return stretched.clamp(x.amin(axes, keepdim=True), x.amax(axes, keepdim=True))


def _gamma(x: Tensor, gamma: Tensor) -> Tensor:
    axes = tuple(range(1, x.ndim))
    low, high = x.amin(axes, keepdim=True), x.amax(axes, keepdim=True)
    extent = high - low
    # a constant image has no extent, and no gamma
    bent = ((x - low) / extent.clamp(min=1e-7)).pow(gamma) * extent + low
    deviation, kept = bent.std(axes, keepdim=True), x.std(axes, keepdim=True)
    return (bent - bent.mean(axes, keepdim=True)) * kept / deviation.clamp(min=1e-7) + x.mean(axes, keepdim=True)


def _along_every_axis(x: Tensor, matrices: list[Tensor]) -> Tensor:
    for axis, matrix in enumerate(matrices, start=1):
        moved = x.movedim(axis, -1)
        x = (moved.flatten(1, -2) @ matrix.transpose(1, 2)).reshape(moved.shape).movedim(-1, axis)
    return x


def _blurring(length: int, sigma: Tensor, chosen: Tensor) -> Tensor:
    """Gaussian filters (n, length, length), the identity where an image is not chosen."""
    place = torch.arange(length, device=sigma.device, dtype=torch.float32)
    weights = torch.exp(-0.5 * ((place[:, None] - place) / sigma.view(-1, 1, 1)).square())
    return _where_chosen(weights / weights.sum(2, keepdim=True), chosen)


def _coarsening(length: int, factor: Tensor, chosen: Tensor) -> Tensor:
    """Nearest voxel of a coarser grid, then linear interpolation back, as matrices (n, length, length)."""
    place = torch.arange(length, device=factor.device, dtype=torch.float32)
    coarse = (length * factor.view(-1, 1, 1)).round().clamp(min=1)
    position = ((place[:, None] + 0.5) * coarse / length - 0.5).clamp(min=0)
    low = position.floor()
    high = torch.minimum(low + 1, coarse - 1)
    share = position - low
    taken_low, taken_high = (((grid + 0.5) * length / coarse).floor().clamp(max=length - 1) for grid in (low, high))
    matrix = (1 - share) * (taken_low == place).float() + share * (taken_high == place).float()
    return _where_chosen(matrix, chosen)


def _where_chosen(matrices: Tensor, chosen: Tensor) -> Tensor:
    identity = torch.eye(matrices.shape[1], device=matrices.device)
    return torch.where(chosen.view(-1, 1, 1) > 0, matrices, identity)
