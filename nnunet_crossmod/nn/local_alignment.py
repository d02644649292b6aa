"""Emphasise the places of a feature map that a domain discriminator tells apart (GLUA)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op, get_matching_instancenorm
from torch import Tensor, nn

__all__ = ["build_feature_discriminator", "local_feature_mask"]

SLOPE = 0.2


def local_feature_mask(features: Tensor, logits: Tensor) -> Tensor:
    """Raise features where the discriminator is sure of their domain, up to twice their size.

    .. math:: \\hat f = f + f \\cdot \\tanh |D_1(f)|

    Args:
        features: f (n, c, *s).
        logits: D1(f) (n, 1, *s), before any sigmoid. They carry gradient to f as far as the caller lets them: pass
            ``logits.detach()`` for a mask that is a constant.

    Returns:
        (n, c, *s).

    Raises:
        ValueError: shapes that do not fit.

    Source: Su et al., "Mind the Gap" (no released code). Whether the mask is detached is not said.
    """
    if features.ndim < 3 or logits.shape != (features.shape[0], 1, *features.shape[2:]):
        raise ValueError(
            f"expected features (n, c, *s) and logits (n, 1, *s), got {tuple(features.shape)} and {tuple(logits.shape)}"
        )
    return features + features * logits.abs().tanh()


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
