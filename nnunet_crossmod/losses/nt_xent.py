"""Global contrast between images and their translations (CISFA, Eq. 5)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_crossmod.losses.precision import full_precision
from nnunet_crossmod.losses.processes import gathered

__all__ = ["nt_xent"]


@full_precision
def nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """An image and its translation are described alike, and unlike every other image of the batch.

    With z the 2n descriptions, s their cosine similarity and i' the partner of i,

    .. math::
        L = \\frac{1}{2n} \\sum_{i=1}^{2n} -\\log \\frac{e^{s_{ii'}/\\tau}}{\\sum_{j \\neq i} e^{s_{ij}/\\tau}}

    Args:
        a: descriptions (n, d) of one member of every pair, of any length.
        b: descriptions (n, d) of the other.
        temperature: τ.

    In a distributed training the pairs of all processes are contrasted.

    Returns:
        scalar; exactly 0, with a gradient path, for n = 0. It is 0 for n = 1, too: a single pair has no negative.

    Raises:
        ValueError: shapes that do not fit.

    Source: Hu, Wang and Shi, CISFA, Eq. 5 (NT-Xent of Chen et al., SimCLR, ICML 2020, Eq. 1), τ = 0.2. Differs from the
    authors' code, which pairs a translated source slice with an unrelated target slice.
    """
    if a.ndim != 2 or b.shape != a.shape:
        raise ValueError(f"expected two tensors of descriptions (n, d), got {tuple(a.shape)} and {tuple(b.shape)}")
    a, b = gathered(a, b)
    n = len(a)
    if n == 0:
        return a.sum() + b.sum()
    embedding = functional.normalize(torch.cat((a, b)), dim=1)
    similarity = embedding @ embedding.T / temperature
    itself = torch.eye(2 * n, dtype=torch.bool, device=a.device)
    positive = torch.cat((similarity.diagonal(n), similarity.diagonal(-n)))
    return (similarity.masked_fill(itself, -torch.inf).logsumexp(1) - positive).mean()
