"""Cosine similarity of every pixel to a few prototypes, without a normalised copy of the features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from nnunet_crossmod.losses.precision import full_precision

__all__ = ["prototype_cosines"]

SHORTEST = 1e-12  # features and prototypes below this length have no direction


class _Cosines(torch.autograd.Function):
    """Autograd would keep the normalised features and walk over them several times: they are by far the largest tensor
    of the loss, and all that is needed of them is their length."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, directions: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(features, dim=1, keepdim=True)
        inverse = torch.where(length > SHORTEST, length.clamp(min=SHORTEST).reciprocal(), 0)
        cosines = (directions @ features).mul_(inverse)
        ctx.save_for_backward(features, directions, inverse, cosines)
        return cosines

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        features, directions, inverse, cosines = ctx.saved_tensors
        along_directions = gradient * inverse
        to_features = to_directions = None
        if ctx.needs_input_grad[0]:
            along_features = (gradient * cosines).sum(1, keepdim=True).mul_(inverse.square())
            to_features = (directions.T @ along_directions).addcmul_(features, along_features, value=-1)
        if ctx.needs_input_grad[1]:
            to_directions = torch.einsum("nks,nds->kd", along_directions, features)
        return to_features, to_directions


@full_precision
def prototype_cosines(features: Tensor, prototypes: Tensor) -> Tensor:
    """Cosine of the angle between every pixel's features and every prototype.

    Args:
        features: (n, d, *s), of any length.
        prototypes: (k, d), of any length.

    Returns:
        (n, k, *s), in −1 … 1; 0, without gradient, where the features or the prototype are zero.

    Raises:
        ValueError: shapes that do not fit.
    """
    if features.ndim < 3 or prototypes.ndim != 2 or features.shape[1] != prototypes.shape[1]:
        raise ValueError(
            f"expected features (n, d, *s) and prototypes (k, d), got {tuple(features.shape)} and "
            f"{tuple(prototypes.shape)}"
        )
    directions = functional.normalize(prototypes.to(features.dtype), dim=1, eps=SHORTEST)
    cosines: Tensor = _Cosines.apply(features.flatten(2), directions)
    return cosines.reshape(*cosines.shape[:2], *features.shape[2:])
