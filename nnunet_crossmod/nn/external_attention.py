"""External attention: class embeddings look at a feature map, and tell how the classes relate in it (EAM, Eq. 1-8)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_crossmod.losses.precision import full_precision

__all__ = ["ClassEmbeddings", "ExternalAttention", "SemanticMaps", "pooled", "semantic_correlations"]


class SemanticMaps(NamedTuple):
    """What the classes see at one scale.

    ``attention``: A (n, z, h, *t), the semantic-aware maps of z classes and h heads, before any softmax, in single
    precision. ``kernels``: K (n, z, h), each class's weight of the heads.
    """

    attention: Tensor
    kernels: Tensor


@full_precision
def semantic_correlations(attention: Tensor, kernels: Tensor) -> Tensor:
    """How relevant every class is to every other in an image.

    .. math::
        S_{ij}(s) = \\sum_h K_{ih} A_{jh}(s), \\quad G_{ij}(s) = \\mathrm{softmax}_j\\, S_{ij}(s), \\quad
        E_{ij} = \\frac{\\sum_s G_{ij}(s) \\sum_h A_{jh}(s)}{\\sum_s G_{ij}(s)}

    The kernels of class i filter the maps of class j at every place: no token meets another, time and memory are
    linear in the size of the map.

    Args:
        attention: A (n, z, h, *s), before the softmax.
        kernels: K (z, h), or (n, z, h) where they differ between images.

    Returns:
        E (n, z, z); row i is class i's relevance to every class.

    Raises:
        ValueError: shapes that do not fit.

    Source: Yang et al., MIDL 2023, Eq. 6-8 (no released code).
    """
    if attention.ndim < 4 or kernels.shape not in (attention.shape[1:3], attention.shape[:3]):
        raise ValueError(
            f"expected attention (n, z, h, *s) and kernels (z, h) or (n, z, h), got {tuple(attention.shape)} and "
            f"{tuple(kernels.shape)}"
        )
    maps = attention.flatten(3)
    # b image, i and j class, h head, s place
    similarity = torch.einsum("bih,bjhs->bijs", kernels.expand(maps.shape[:3]), maps)
    # G / Σ G, by logarithms: a class that loses everywhere would be 0 / 0
    weight = similarity.log_softmax(2).softmax(3)
    return torch.einsum("bijs,bjs->bij", weight, maps.sum(2))


def pooled(features: Tensor, max_tokens: int) -> Tensor:
    """Average features (n, c, *s) to a map of at most ``max_tokens`` voxels, halving the longest axis as often as
    needed; a smaller map is left as it is."""
    size = list(features.shape[2:])
    while math.prod(size) > max_tokens:
        longest = size.index(max(size))
        size[longest] = -(-size[longest] // 2)
    if size == list(features.shape[2:]):
        return features
    pool: Callable[..., Tensor] = functional.adaptive_avg_pool2d if len(size) == 2 else functional.adaptive_avg_pool3d
    return pool(features, size)


class ClassEmbeddings(nn.Module):
    """Q: a learnable embedding of every class in every modality, ``weight`` (m, z, c)."""

    def __init__(self, modalities: int, classes: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(modalities, classes, width))


class ExternalAttention(nn.Module):
    """The attention of one modality's classes to the features of one scale.

    .. math::
        A = \\frac{(\\mathrm{LN}\\,Q\\,W_Q)(\\mathrm{LN}\\,F\\,W_K)^T}{\\sqrt d}, \\quad
        \\hat Q = \\mathrm{softmax}_s(A)\\,\\mathrm{LN}\\,F\\,W_V + Q, \\quad
        \\tilde Q = \\mathrm{MLP}(\\mathrm{LN}\\,\\hat Q) + \\hat Q

    Args:
        classes: z, including the background.
        width: c, of the embeddings and the features.
        heads: as many heads as possible up to this number; h is the largest divisor of ``width``.
        next_width: width of the next scale, to which Q̃ is projected; ``None`` at the last scale, whose Q̃ nobody reads.
        max_tokens: larger feature maps are averaged to at most this many voxels.

    Source: Yang et al., MIDL 2023, Eq. 1-9 (no released code). The number of heads is not given.
    """

    def __init__(
        self, classes: int, width: int, heads: int = 8, next_width: int | None = None, max_tokens: int = 4096
    ) -> None:
        super().__init__()
        self.heads = max(h for h in range(1, min(heads, width) + 1) if width % h == 0)
        self.max_tokens = max_tokens
        self.embedding_norm = nn.LayerNorm(width)
        self.feature_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.kernel = nn.Parameter(torch.randn(classes, width, self.heads) / math.sqrt(width))
        self.predictor = nn.Linear(self.heads, 1, bias=False)
        # the sum of the heads, which is also what the semantic correlations pool
        nn.init.ones_(self.predictor.weight)
        self.update: _Update | None = None if next_width is None else _Update(width, self.heads, next_width)

    def forward(self, embeddings: Tensor, features: Tensor) -> tuple[Tensor | None, SemanticMaps]:
        """Look at the features.

        Args:
            embeddings: Q (z, c), or (n, z, c) where they come from a scale below.
            features: F (n, c, *s).

        Returns:
            the next scale's Q (n, z, next_width), or ``None`` at the last scale, and the maps of this scale, (*t) being
            (*s) unless it holds more than ``max_tokens`` voxels.
        """
        features = pooled(features, self.max_tokens)
        tokens = self.feature_norm(features.flatten(2).transpose(1, 2))
        embeddings = embeddings.expand(len(features), *embeddings.shape[-2:])
        query = self.query(self.embedding_norm(embeddings)).unflatten(2, (self.heads, -1))
        attention = _scores(query, self.key(tokens).unflatten(2, (self.heads, -1)))
        maps = SemanticMaps(
            attention.reshape(*attention.shape[:3], *features.shape[2:]), _kernels(embeddings, self.kernel)
        )
        return None if self.update is None else self.update(embeddings, attention, tokens), maps

    def predict(self, attention: Tensor) -> Tensor:
        """Auxiliary logits (n, z, *t) from the maps A (n, z, h, *t): a convolution over heads, the same for all
        classes."""
        logits: Tensor = self.predictor(attention.movedim(2, -1)).squeeze(-1)
        return logits


class _Update(nn.Module):
    """From Q and what it sees to the next scale's Q."""

    def __init__(self, width: int, heads: int, next_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.value = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.to_next = nn.Linear(width, next_width)

    def forward(self, embeddings: Tensor, attention: Tensor, tokens: Tensor) -> Tensor:
        seen = _attend(attention, self.value(tokens).unflatten(2, (self.heads, -1))).flatten(2)
        updated = seen + embeddings
        updated = self.mlp(self.mlp_norm(updated)) + updated
        following: Tensor = self.to_next(updated)
        return following


# n image, z class, s place, h head, d channel of a head, c channel


@full_precision
def _scores(query: Tensor, key: Tensor) -> Tensor:
    return torch.einsum("nzhd,nshd->nzhs", query, key) / math.sqrt(query.shape[-1])


@full_precision
def _attend(attention: Tensor, value: Tensor) -> Tensor:
    return torch.einsum("nzhs,nshd->nzhd", attention.softmax(3), value)


@full_precision
def _kernels(embeddings: Tensor, kernel: Tensor) -> Tensor:
    return torch.einsum("nzc,zch->nzh", embeddings, kernel)
