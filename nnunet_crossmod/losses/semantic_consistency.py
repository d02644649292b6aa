"""Classes mean the same in every modality: their embeddings, and how they relate to one another (EAM, Eq. 10-11)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from nnunet_crossmod.losses.precision import full_precision

__all__ = [
    "image_consistency",
    "image_consistency_of_all",
    "modality_consistency",
    "modality_consistency_of_all",
]


@full_precision
def modality_consistency(a: Tensor, b: Tensor) -> Tensor:
    """The embedding of a class points the same way in both modalities.

    .. math:: \\sum_i \\left(1 - \\cos(a_i, b_i)\\right)

    Args:
        a: class embeddings (z, c) of one modality, of any length.
        b: class embeddings (z, c) of the other.

    Returns:
        scalar, 0 … 2z.

    Raises:
        ValueError: shapes that do not fit.

    Source: Yang et al., MIDL 2023, Eq. 10 (no released code).
    """
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"expected two tensors of class embeddings (z, c), got {tuple(a.shape)} and {tuple(b.shape)}")
    return (1 - functional.cosine_similarity(a, b, dim=1)).sum()


@full_precision
def modality_consistency_of_all(embeddings: Tensor) -> Tensor:
    """:func:`modality_consistency`, mean over all pairs of m modalities, at a cost linear in m.

    With unit vectors u, the cosines of all pairs sum to (‖Σ u‖² − Σ ‖u‖²) / 2.

    Args:
        embeddings: class embeddings (m, z, c).

    Returns:
        scalar; exactly 0, with a gradient path, for fewer than two modalities.

    Raises:
        ValueError: a shape that does not fit.

    Source: Yang et al., MIDL 2023, Eq. 10, there for two modalities.
    """
    if embeddings.ndim != 3:
        raise ValueError(f"expected class embeddings (m, z, c), got {tuple(embeddings.shape)}")
    modalities, classes, _ = embeddings.shape
    if modalities < 2:
        return embeddings.sum() * 0
    unit = functional.normalize(embeddings, dim=2)
    cosines = (unit.sum(0).square().sum() - unit.square().sum()) / 2
    return classes - cosines / _pairs(modalities)


@full_precision
def image_consistency(a: Tensor, b: Tensor, temperature: float = 4.0) -> Tensor:
    """The classes of an image relate to one another as they do in an image of the other modality.

    .. math::
        \\sum_i \\mathrm{KL}(p^a_i \\| p^b_i) + \\mathrm{KL}(p^b_i \\| p^a_i), \\quad
        p_i = \\mathrm{softmax}_j(E_{ij} / \\tau)

    Args:
        a: semantic correlations E (n, z, z) of one modality; row i is class i's relevance to every class.
        b: E (n, z, z) of the other; sample i is paired with sample i.
        temperature: τ.

    Returns:
        scalar, mean over n; exactly 0, with a gradient path, for n = 0.

    Raises:
        ValueError: shapes that do not fit.

    Source: Yang et al., MIDL 2023, Eq. 11 (no released code), one scale of it. No factor ½ or τ², as printed.
    """
    if a.ndim != 3 or a.shape != b.shape:
        raise ValueError(f"expected two tensors of correlations (n, z, z), got {tuple(a.shape)} and {tuple(b.shape)}")
    log_a, log_b = (functional.log_softmax(each / temperature, dim=2) for each in (a, b))
    return ((log_a.exp() - log_b.exp()) * (log_a - log_b)).sum() / max(len(a), 1)


@full_precision
def image_consistency_of_all(correlations: Tensor, temperature: float = 4.0) -> Tensor:
    """:func:`image_consistency`, mean over all pairs of m modalities, at a cost linear in m.

    The symmetric divergence of two distributions is Σ (p − q)(log p − log q), an inner product of differences: over all
    pairs it sums to m times the sum of the products of the deviations from the mean over modalities.

    Args:
        correlations: semantic correlations E (m, n, z, z); sample i of every modality is paired with sample i of all
            others.
        temperature: τ.

    Returns:
        scalar, mean over n and pairs; exactly 0, with a gradient path, for n = 0 or fewer than two modalities.

    Raises:
        ValueError: a shape that does not fit.

    Source: Yang et al., MIDL 2023, Eq. 11, there for two modalities.
    """
    if correlations.ndim != 4:
        raise ValueError(f"expected correlations (m, n, z, z), got {tuple(correlations.shape)}")
    modalities, samples = correlations.shape[:2]
    if modalities < 2:
        return correlations.sum() * 0
    log_p = functional.log_softmax(correlations / temperature, dim=3)
    p = log_p.exp()
    divergence = modalities * ((p - p.mean(0)) * (log_p - log_p.mean(0))).sum()
    return divergence / (_pairs(modalities) * max(samples, 1))


def _pairs(modalities: int) -> int:
    return modalities * (modalities - 1) // 2
