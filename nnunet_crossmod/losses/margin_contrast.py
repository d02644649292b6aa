"""Contrast of pixels with class prototypes under an angular margin (MPSCL, Eq. 8)."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from nnunet_crossmod.losses.precision import full_precision
from nnunet_crossmod.losses.processes import summed
from nnunet_crossmod.losses.prototype_cosines import prototype_cosines

__all__ = ["MarginMode", "margin_contrast"]

MarginMode = Literal["paper", "released"]


@full_precision
def margin_contrast(
    features: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    margin: float,
    temperature: float = 1.0,
    valid: Tensor | None = None,
    mode: MarginMode = "paper",
    balanced: bool = False,
) -> Tensor:
    """A pixel is closer to the prototype of its class than to all others, by an angular margin.

    With θ_i the angle to prototype i, y the pixel's class and m the margin,

    .. math::
        \\ell = -\\log \\frac{e^{\\cos(\\theta_y + m)/\\tau}}
            {e^{\\cos(\\theta_y + m)/\\tau} + \\sum_{i \\neq y} e^{\\cos\\theta_i/\\tau}}

    averaged over the valid pixels, of all processes in a distributed training. Beyond θ = π − m, where cos(θ + m) would
    rise again, cos θ − m·sin(π − m) takes its place.

    Args:
        features: (n, d, *s), of any length.
        prototypes: (k, d), of any length; prototypes of absent classes are zero.
        labels: (n, *s), integer; pixels whose label is not in 0 … k − 1 are left out.
        margin: m in radians.
        temperature: τ.
        valid: (n, *s), bool; pixels that count, all where ``None``.
        mode: ``"paper"``: the equation. ``"released"``: as the authors' code computes it.
        balanced: average over the classes that have valid pixels, each by its own mean, so that a large background
            does not outweigh a small structure; the mean over the pixels, as in the paper, otherwise.

    Returns:
        scalar; exactly 0, with a gradient path, where no pixel is valid.

    Raises:
        ValueError: shapes that do not fit, or an unknown mode.

    Source: Liu et al. (MPSCL), JBHI 2022, Eq. 8. The authors' code subtracts the row's largest cos(θ + m) from the
    label's logit and its largest cos θ from the others, as if both were one shift of one softmax: wherever the label is
    the nearest prototype the margin then drops out of the value. ``"released"`` keeps that, the 1e-4 in its logarithm
    and, where ``valid`` is given, the 1e-4 in its divisor; its factor τ/τ_base is 1 in all its configurations and here.
    """
    if labels.shape != (features.shape[0], *features.shape[2:]):
        raise ValueError(f"expected labels (n, *s) for features {tuple(features.shape)}, got {tuple(labels.shape)}")
    if valid is not None and valid.shape != labels.shape:
        raise ValueError(f"expected valid as large as labels {tuple(labels.shape)}, got {tuple(valid.shape)}")
    if mode not in get_args(MarginMode):
        raise ValueError(f"mode must be one of {get_args(MarginMode)}, got {mode!r}")
    classes = len(prototypes)
    cosines = prototype_cosines(features, prototypes)
    counted = (labels >= 0) & (labels < classes)
    if valid is not None:
        counted = counted & valid
    index = labels.long().clamp(0, classes - 1)[:, None]
    own = _widened(cosines.gather(1, index), margin) / temperature
    logits = cosines / temperature
    if mode == "paper":
        log_sum = logits.scatter(1, index, own).logsumexp(1, keepdim=True)
    else:
        own = own - (_widened(cosines.detach(), margin) / temperature).amax(1, keepdim=True)
        logits = (logits - logits.detach().amax(1, keepdim=True)).scatter(1, index, own)
        log_sum = torch.log(logits.exp().sum(1, keepdim=True) + 1e-4)
    losses = (log_sum - own)[:, 0] * counted
    if balanced:
        sums = losses.new_zeros(classes).index_add(0, index.flatten(), losses.flatten())
        counts = losses.new_zeros(classes).index_add(0, index.flatten(), counted.flatten().to(losses.dtype))
        sums, counts = summed(sums, counts)
        return (sums / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)
    total, pixels = summed(losses.sum(), counted.sum())
    if mode == "released" and valid is not None:
        return total / (pixels + 1e-4)
    return total / pixels.clamp(min=1)


def _widened(cosine: Tensor, margin: float) -> Tensor:
    """cos(θ + m) from cos θ, monotonous in θ."""
    # the floor keeps the slope of the root finite where a pixel lies on its prototype
    sine = (1 - cosine.square()).clamp(1e-4, 1).sqrt()
    widened = cosine * math.cos(margin) - sine * math.sin(margin)
    return torch.where(cosine > math.cos(math.pi - margin), widened, cosine - margin * math.sin(math.pi - margin))
