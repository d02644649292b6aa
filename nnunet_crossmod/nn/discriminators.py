"""Discriminators in 2D and 3D: of maps, of images (of one or several domains) and of features.

One rule for anisotropic maps: axes that are already short, or whose voxels are long, are not strided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op, get_matching_instancenorm
from torch import Tensor, nn

__all__ = [
    "DiscriminatorDesign",
    "DomainImageDiscriminator",
    "ImageDiscriminator",
    "build_discriminator",
    "build_feature_discriminator",
]

DiscriminatorDesign = Literal["strided", "patch"]
SLOPE = 0.2
_ACTIVATION = ("LEAKYRELU", {"negative_slope": SLOPE})


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


class ImageDiscriminator(nn.Module):
    """Judges every patch of an image by itself (PatchGAN): 4-wide convolutions, instance norm, leaky ReLU 0.2.

    MONAI's ``PatchDiscriminator``, which halves all axes alike, where every axis is long enough for it; otherwise the
    same layers, not strided along short axes.

    Args:
        channels: of the image; classes k for a softmax map.
        size: of the images, in voxels.
        width: channels of the first layer, doubled in every further one.
        layers: convolutions after the first; all but the last of them halve. The paper's 70 x 70 patches have 3.
        outputs: decisions on every patch.
    """

    def __init__(self, channels: int, size: Sequence[int], width: int = 64, layers: int = 3, outputs: int = 1) -> None:
        super().__init__()
        # imported here: MONAI's networks take seconds, and inference needs none of them
        from monai.networks.nets.patchgan_discriminator import PatchDiscriminator

        # MONAI's layers halve `layers` times, then both last ones take a voxel each: one must be left
        if min(size) >= 3 * 2**layers:
            self.layers: nn.Module = PatchDiscriminator(
                len(size),
                width,
                channels,
                out_channels=outputs,
                num_layers_d=layers,
                activation=_ACTIVATION,
                norm="INSTANCE",
            )
        else:
            self.layers = _anisotropic(channels, size, width, layers, outputs)

    def forward(self, image: Tensor) -> Tensor:
        """The decision on every patch (n, outputs, *s), without a sigmoid, of an image (n, channels, *s)."""
        decision: Tensor | list[Tensor] = self.layers(image)
        return decision if isinstance(decision, Tensor) else decision[-1]


def _anisotropic(channels: int, size: Sequence[int], width: int, layers: int, outputs: int) -> nn.Module:
    from monai.networks.utils import normal_init

    grid = _Grid(size, [1.0] * len(size))
    network: list[nn.Module] = []
    for layer in range(layers + 1):
        network.append(grid.convolution(channels, width * 2**layer, 2 if layer < layers else 1))
        network += grid.norm(width * 2**layer) if layer > 0 else []
        network.append(nn.LeakyReLU(SLOPE, inplace=True))
        channels = width * 2**layer
    network.append(grid.convolution(channels, outputs, 1))
    return nn.Sequential(*network).apply(normal_init)


class DomainImageDiscriminator(nn.Module):
    """:class:`ImageDiscriminator` with an output convolution for every domain.

    Args:
        channels: of the images.
        size: of the images, in voxels.
        domains: m.
        width: channels of the first layer, doubled in every further one.

    Source: Su et al., "Mind the Gap": kernel 4; 64, 128 and 256 channels with stride, 512 without; instance norm (as in
    a PatchGAN not after the first layer), LeakyReLU 0.2.
    """

    def __init__(self, channels: int, size: Sequence[int], domains: int, width: int = 64) -> None:
        super().__init__()
        # every channel of a convolution has weights of its own: m output convolutions in one
        self.judge = ImageDiscriminator(channels, size, width, outputs=domains)

    def forward(self, image: Tensor, modality: Tensor) -> Tensor:
        """The decision of each sample's head on every patch (n, 1, *s), without a sigmoid.

        Args:
            image: (n, channels, *s).
            modality: index of the domain each image claims to be of (n,).
        """
        decisions: Tensor = self.judge(image)
        return decisions[torch.arange(len(image), device=image.device), modality][:, None]


def build_feature_discriminator(channels: int, size: Sequence[int], width: int = 256) -> nn.Sequential:
    """D1: a decision for every voxel of a feature map, (n, channels, *size) → logits (n, 1, *size).

    Five convolutions of kernel 3 (1 along axes of a single voxel) without stride, of ``width``, a half, a quarter, an
    eighth and 1 channels; LeakyReLU 0.2; instance norm after all but the first and the last, as in a PatchGAN.

    Args:
        channels: of the features.
        size: of the map, two or three axes; other sizes work, but for a single voxel.
        width: channels of the first layer, at least 8.

    Raises:
        ValueError: too narrow, or not two or three axes.

    Source: Su et al., "Mind the Gap", widths and layers after the authors' sibling project.
    """
    if width < 8 or len(size) not in (2, 3):
        raise ValueError(
            f"expected a width of at least 8 and two or three axes, got width {width} and size {list(size)}"
        )
    convolution: Any = convert_dim_to_conv_op(len(size))
    norm: Any = get_matching_instancenorm(dimension=len(size))
    kernel = [3 if length > 1 else 1 for length in size]
    padding = [k // 2 for k in kernel]
    layers: list[nn.Module] = []
    for layer in range(4):
        outputs = width // 2**layer
        layers.append(convolution(channels, outputs, kernel, padding=padding))
        # of a single voxel there is no variance
        if layer > 0 and math.prod(size) > 1:
            layers.append(norm(outputs))
        layers.append(nn.LeakyReLU(SLOPE, inplace=True))
        channels = outputs
    return nn.Sequential(*layers, convolution(channels, 1, kernel, padding=padding))
