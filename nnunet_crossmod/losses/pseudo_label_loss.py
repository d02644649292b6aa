"""Dice and cross-entropy on the voxels whose pseudo-label is trusted."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_crossmod.losses.precision import full_precision
from nnunet_crossmod.losses.processes import summed

__all__ = ["trusted_dice_ce"]


@full_precision
def trusted_dice_ce(logits: Tensor, labels: Tensor, trusted: Tensor, smooth: float = 1e-5) -> Tensor:
    """Pull predictions towards pseudo-labels where they are trusted; other voxels play no part.

    .. math:: \\frac{\\sum_v t_v CE_v}{\\max(1, \\sum_v t_v)}
        + 1 - \\frac{1}{k - 1} \\sum_{c \\geq 1}
        \\frac{2 \\sum_v t_v p_{cv} y_{cv} + s}{\\sum_v t_v p_{cv} + \\sum_v t_v y_{cv} + s}

    The Dice is that of the whole batch and leaves the background out; sums run over all processes of a distributed
    training.

    Args:
        logits: (n, k, *s).
        labels: (n, *s), 0 … k − 1.
        trusted: (n, *s), boolean.
        smooth: s, keeps the Dice of an absent class at 1.

    Returns:
        scalar, 0 … ; 0 where nothing is trusted.

    Raises:
        ValueError: shapes that do not fit.
    """
    if labels.shape != trusted.shape or logits.shape[:1] + logits.shape[2:] != labels.shape:
        raise ValueError(
            f"expected logits (n, k, *s), labels (n, *s) and trusted (n, *s), got {tuple(logits.shape)}, "
            f"{tuple(labels.shape)} and {tuple(trusted.shape)}"
        )
    weight = trusted.to(logits.dtype)
    labels = labels.long()
    cross_entropy = (functional.cross_entropy(logits, labels, reduction="none") * weight).sum()
    probabilities = logits.softmax(1) * weight[:, None]
    classes = torch.arange(logits.shape[1], device=logits.device).view(-1, *[1] * (logits.ndim - 2))
    one_hot = (labels[:, None] == classes) * weight[:, None]
    axes = [0, *range(2, logits.ndim)]
    overlap = (probabilities * one_hot).sum(axes)[1:]
    sizes = (probabilities.sum(axes) + one_hot.sum(axes))[1:]
    overlap, sizes, cross_entropy, voxels = summed(overlap, sizes, cross_entropy, weight.sum())
    dice = torch.mean((2 * overlap + smooth) / (sizes + smooth))
    return cross_entropy / voxels.clamp(min=1) + 1 - dice
