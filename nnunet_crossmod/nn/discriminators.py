"""Discriminators of maps, 2D or 3D: five strided convolutions, or a PatchGAN."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op, get_matching_instancenorm
from torch import nn

__all__ = ["DiscriminatorDesign", "build_discriminator"]

DiscriminatorDesign = Literal["strided", "patch"]
SLOPE = 0.2


class _Grid:
    """Size and spacing of the map between two layers, from which the next layer's shape follows."""

    def __init__(self, size: Sequence[int], spacing: Sequence[float]) -> None:
        self.size = list(size)
        self.spacing = list(spacing)

    def convolution(self, channels: int, width: int, stride: int) -> nn.Module:
        """A convolution of kernel 4; of kernel 1 along axes whose voxels are twice as long as the shortest, of kernel 3
        along axes of fewer than 4 voxels, neither of which is strided."""
        large = [voxel for length, voxel in zip(self.size, self.spacing, strict=True) if length >= 4]
        shortest = min(large, default=math.inf)
        kernels, strides, paddings = [], [], []
        for axis, (length, voxel) in enumerate(zip(self.size, self.spacing, strict=True)):
            if length < 4:
                kernel, step, padding = 3, 1, 1
            elif voxel >= 2 * shortest:
                kernel, step, padding = 1, 1, 0
            else:
                kernel, step, padding = 4, stride, 1
            self.size[axis] = (length + 2 * padding - kernel) // step + 1
            self.spacing[axis] = voxel * step
            kernels.append(kernel)
            strides.append(step)
            paddings.append(padding)
        kind: type[nn.Module] = convert_dim_to_conv_op(len(self.size))
        return kind(channels, width, tuple(kernels), tuple(strides), tuple(paddings))

    def norm(self, width: int) -> list[nn.Module]:
        """Instance norm; none where a single voxel is left, of which there is no variance."""
        if math.prod(self.size) == 1:
            return []
        return [get_matching_instancenorm(dimension=len(self.size))(width)]


def build_discriminator(
    design: DiscriminatorDesign,
    channels: int,
    size: Sequence[int],
    spacing: Sequence[float] | None = None,
    width: int = 64,
) -> nn.Sequential:
    """A fully convolutional discriminator: maps (n, channels, *size) → scores (n, 1, *smaller).

    ``"strided"``: five 4 × 4 convolutions of stride 2 and 1, 2, 4, 8 times ``width`` channels, LeakyReLU 0.2.
    ``"patch"``: a PatchGAN; three of stride 2 and two of stride 1, instance norm after all but the first and the last.
    Axes that are already small, or whose voxels are at least twice as long as the shortest, keep their resolution.

    Args:
        design: which of the two.
        channels: of the map.
        size: of the map, two or three axes.
        spacing: length of a voxel along every axis, in any unit; isotropic where ``None``.
        width: channels of the first layer.

    Raises:
        ValueError: an unknown design, not two or three axes, or a spacing of another length.

    Source: Liu et al. (MPSCL), JBHI 2022; the PatchGAN after Isola et al., CVPR 2017. The authors' PatchGAN has batch
    norm, which mixes the two domains where they share a batch: here it is instance norm.
    """
    spacing = [1.0] * len(size) if spacing is None else spacing
    if len(size) not in (2, 3) or len(spacing) != len(size):
        raise ValueError(
            f"expected two or three axes and one spacing for each, got size {list(size)} and spacing {list(spacing)}"
        )
    if design not in get_args(DiscriminatorDesign):
        raise ValueError(f"design must be one of {get_args(DiscriminatorDesign)}, got {design!r}")
    grid = _Grid(size, spacing)
    patch = design == "patch"
    layers: list[nn.Module] = []
    for layer, (factor, stride) in enumerate([(1, 2), (2, 2), (4, 2), (8, 1 if patch else 2)]):
        layers.append(grid.convolution(channels, width * factor, stride))
        layers += grid.norm(width * factor) if patch and layer > 0 else []
        layers.append(nn.LeakyReLU(SLOPE, inplace=True))
        channels = width * factor
    layers.append(grid.convolution(channels, 1, 1 if patch else 2))
    return nn.Sequential(*layers)
