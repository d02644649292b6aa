"""Whether a scan was cropped as in training: a modality channel that fills the whole array keeps nnU-Net from it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["has_empty_border"]

EMPTY = 0.02
"""Largest range of an empty face, as a share of the range of all voxels; resampling makes zeros ring."""


@torch.no_grad()
def has_empty_border(images: Tensor, channel: Tensor) -> bool:
    """Whether one of the outermost planes of the scan shows nothing: cut off at what is non-zero, none does.

    Args:
        images: (n, c, *s), of which the first sample is looked at.
        channel: (n, *s), the modality channel, 0 on padding.
    """
    image, inside = images[0].float(), channel[0] > 0
    for axis in range(inside.ndim):
        other = tuple(i for i in range(inside.ndim) if i != axis)
        occupied = inside.any(dim=other).nonzero().flatten()
        image = image.narrow(axis + 1, int(occupied[0]), int(occupied[-1] - occupied[0]) + 1)
    limit = EMPTY * (image.amax() - image.amin())
    for axis in range(inside.ndim):
        for position in {0, image.shape[axis + 1] - 1} if image.shape[axis + 1] > 1 else ():
            plane = image.select(axis + 1, position).flatten(1)
            if bool((plane.amax(1) - plane.amin(1) <= limit).all()):
                return True
    return False
