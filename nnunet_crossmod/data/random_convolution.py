"""Global intensity non-linear augmentation: the same anatomy as another scanner might show it (GIN)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_crossmod.losses.precision import full_precision

__all__ = ["random_convolution"]


@torch.no_grad()
@full_precision
def random_convolution(images: Tensor, layers: int = 4, width: int = 2) -> Tensor:
    """Pass every image through a random shallow convolutional network of its own and blend it with the original.

    Each image draws its own weights, its own kernel size (1 or 3) in every layer and its own share of the blend; the
    result has the energy (Frobenius norm) of the input. One grouped convolution per layer serves the whole batch.

    Args:
        images: (n, c, *s), z-scored.
        layers: convolutions of the random network.
        width: its hidden channels.

    Returns:
        (n, c, *s), single precision.

    Source: Ouyang et al., "Causality-inspired single-source domain generalization", IEEE TMI 2022, Sec. III-A.
    """
    n, c, *size = images.shape
    axes = len(size)
    convolve = functional.conv2d if axes == 2 else functional.conv3d
    widths = [c] + [width] * (layers - 1) + [c]
    x = images.reshape(1, n * c, *size)
    for layer, (inputs, outputs) in enumerate(pairwise(widths)):
        weight = torch.randn(n, outputs, inputs, *[3] * axes, device=images.device, dtype=images.dtype)
        pointwise = torch.rand(n, device=images.device) < 0.5
        centre = torch.zeros([3] * axes, device=images.device, dtype=images.dtype)
        centre[(1,) * axes] = 1
        weight = torch.where(pointwise.view(n, 1, 1, *[1] * axes), weight * centre, weight)
        shift = torch.randn(n * outputs, device=images.device, dtype=images.dtype)
        x = convolve(x, weight.flatten(0, 1), shift, padding=1, groups=n)
        if layer < layers - 1:
            x = functional.leaky_relu(x)
    x = x.reshape(images.shape)
    share = torch.rand(n, 1, *[1] * axes, device=images.device, dtype=images.dtype)
    x = share * x + (1 - share) * images
    return x * (_energy(images) / _energy(x).clamp(min=1e-5))


def _energy(images: Tensor) -> Tensor:
    energy: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1).view(-1, *[1] * (images.ndim - 1))
    return energy
