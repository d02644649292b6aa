"""Patch-wise contrast between an image and its translation (CISFA, Eq. 2-4)."""

from __future__ import annotations

from torch import Tensor

from nnunet_crossmod.losses.precision import full_precision

__all__ = ["patch_nce"]


@full_precision
def patch_nce(query: Tensor, key: Tensor, temperature: float, weight: Tensor | None = None) -> Tensor:
    """A location of the translated image is described like the same location of its source, and unlike all others.

    For location i of image b, among the locations j of the *same* image,

    .. math::
        \\ell_{bi} = -\\log \\frac{e^{q_{bi} \\cdot k_{bi}/\\tau}}{\\sum_j e^{q_{bi} \\cdot k_{bj}/\\tau}},
        \\qquad L = \\frac{1}{np} \\sum_{b,i} w_{bi} \\, \\ell_{bi}

    The mean is taken over all locations and not divided by the sum of the weights: a weight of 2 counts twice.

    Args:
        query: embeddings of the translated image (n, p, d), unit length.
        key: embeddings of the source image (n, p, d) at the same locations, unit length. Whoever calls detaches them.
        temperature: τ.
        weight: w (n, p), 0 or more; ``None`` is 1 everywhere.

    Returns:
        scalar; exactly 0, with a gradient path, for n · p = 0.

    Raises:
        ValueError: shapes that do not fit.

    Source: Hu, Wang and Shi, CISFA, Eq. 2-4; without weights, Park et al., CUT, ECCV 2020, Eq. 4. τ = 0.2 in the paper,
    0.07 in the authors' code.
    """
    if query.ndim != 3 or key.shape != query.shape:
        raise ValueError(f"expected query and key (n, p, d), got {tuple(query.shape)} and {tuple(key.shape)}")
    if weight is not None and weight.shape != query.shape[:2]:
        raise ValueError(f"expected weight (n, p) = {tuple(query.shape[:2])}, got {tuple(weight.shape)}")
    if query.shape[0] * query.shape[1] == 0:
        return query.sum() + key.sum()
    similarity = query @ key.transpose(1, 2) / temperature
    loss = similarity.logsumexp(2) - similarity.diagonal(dim1=1, dim2=2)
    return (loss if weight is None else weight * loss).mean()
