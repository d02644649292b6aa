"""Structural consistency between the class-wise predictions of two modalities (AICL, Eq. 5)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_crossmod.losses.precision import full_precision
from nnunet_crossmod.losses.processes import summed

__all__ = ["class_descriptors", "structural_consistency"]


@full_precision
def structural_consistency(a: Tensor, b: Tensor, temperature: float = 0.5) -> Tensor:
    """Class c of one modality is described like class c of the other, and unlike the other's other classes.

    .. math::
        -\\frac{1}{nk} \\sum_{i,c} \\log
        \\frac{e^{\\cos(a_{ic}, b_{ic})/\\tau}}{\\sum_{c'} e^{\\cos(a_{ic}, b_{ic'})/\\tau}}

    Args:
        a: class descriptors (n, k, d) of one modality: flattened probability maps of registered pairs, or
            :func:`class_descriptors`.
        b: class descriptors (n, k, d) of the other; sample i is paired with sample i.
        temperature: τ.

    Returns:
        scalar, one direction (a → b); exactly 0, with a gradient path, for n = 0.

    Raises:
        ValueError: shapes that do not fit.

    Source: AICL, MIDL 2026 submission, Eq. 5 (no released code). Printed without ``exp``, a ratio of raw cosines is
    unbounded: ``exp(cos/τ)`` is used. τ is not given; 0.5 is this project's default.
    """
    if a.ndim != 3 or a.shape != b.shape:
        raise ValueError(
            f"expected two tensors of class descriptors (n, k, d), got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if len(a) == 0:
        return a.sum() + b.sum()
    similarity = functional.normalize(a, dim=2) @ functional.normalize(b, dim=2).transpose(1, 2) / temperature
    log_probability = functional.log_softmax(similarity, dim=2)
    return -log_probability.diagonal(dim1=1, dim2=2).mean()


@full_precision
def class_descriptors(features: Tensor, probabilities: Tensor, pooled: bool = False) -> Tensor:
    """Average the features of each class, weighted by its probability: a description that ignores position.

    Args:
        features: (n, d, *s).
        probabilities: (n, k, *s).
        pooled: describe a class by all samples together, those of all processes in a distributed training.

    Returns:
        (n, k, d), or (1, k, d) where pooled.

    Raises:
        ValueError: shapes that do not fit.
    """
    if features.shape[:1] != probabilities.shape[:1] or features.shape[2:] != probabilities.shape[2:]:
        raise ValueError(
            f"expected features (n, d, *s) and probabilities (n, k, *s), got {tuple(features.shape)} and "
            f"{tuple(probabilities.shape)}"
        )
    weights = probabilities.flatten(2)
    masses, sums = weights.sum(2, keepdim=True), weights @ features.flatten(2).transpose(1, 2)
    if pooled:
        masses, sums = summed(masses.sum(0, keepdim=True), sums.sum(0, keepdim=True))
    return sums / masses.clamp(min=torch.finfo(weights.dtype).tiny)
