"""What is made of a network's own predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_crossmod.losses import prototype_cosines

__all__ = [
    "Embedding",
    "OrganPatches",
    "confident",
    "dense_organ_patches",
    "labels_at",
    "organ_patches",
    "self_paced",
    "valid_shares",
]

Embedding = Literal["mean", "flatten", "organ"]


class OrganPatches(NamedTuple):
    """``patches`` (p, d), the ``organs`` (p,) they were cut around and the ``sample`` (p,) they were cut from."""

    patches: Tensor
    organs: Tensor
    sample: Tensor


def labels_at(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Bring labels (n, *s) to another resolution by nearest neighbour: (n, *size)."""
    resized = functional.interpolate(labels[:, None].float(), tuple(size), mode="nearest-exact")
    return resized[:, 0].to(labels.dtype)


def organ_patches(
    features: Tensor, labels: Tensor, patch_size: Sequence[int], embedding: Embedding = "mean"
) -> OrganPatches:
    """Cut one cube of features around the centroid of every organ of every sample (PGPS).

    Along each axis the cube's first index is ``round(centroid − (size − 1) / 2)``, shifted to keep the cube inside
    the map. Centroids carry no gradient, features do.

    Args:
        features: (n, c, *f).
        labels: (n, *f), integer; 0 and negative values are no organ.
        patch_size: size of the cube in feature voxels, one number per axis; cut to the map.
        embedding: ``"mean"`` pools the cube to d = c numbers, ``"flatten"`` keeps all d = c · ∏ patch_size,
            ``"organ"`` pools those of its voxels that carry the organ's label (the whole cube where none does): cubes
            of concentric organs coincide, their voxels do not.

    Returns:
        the patches of the organs that are present, sample by sample, organs in increasing order.

    Raises:
        ValueError: shapes that do not fit.

    Source: AICL, MIDL 2026 submission, Eq. 2–3 (no released code). ``EB`` is not defined there: pooling is this
    project's default.
    """
    organs = max(int(labels.max()), 0)
    patches, present = dense_organ_patches(features, labels, patch_size, organs, embedding)
    sample, organ = present.nonzero(as_tuple=True)
    return OrganPatches(patches[sample, organ], organ + 1, sample)


def dense_organ_patches(
    features: Tensor,
    labels: Tensor,
    patch_size: Sequence[int],
    num_organs: int,
    embedding: Embedding = "mean",
    least_voxels: int = 1,
) -> tuple[Tensor, Tensor]:
    """As :func:`organ_patches`, for organs 1 … num_organs, without asking which are present (no host sync).

    An organ is present where at least ``least_voxels`` voxels carry its label: a single false one makes no patch.

    Returns:
        patches (n, num_organs, d) and ``present`` (n, num_organs); patches of absent organs hold no meaning.
    """
    axes = labels.ndim - 1
    if features.ndim != axes + 2 or features.shape[2:] != labels.shape[1:] or len(patch_size) != axes:
        raise ValueError(
            f"expected features (n, c, *f), labels (n, *f) and one patch size per axis, got {tuple(features.shape)}, "
            f"{tuple(labels.shape)} and {tuple(patch_size)}"
        )
    if embedding not in get_args(Embedding):
        raise ValueError(f"embedding must be one of {get_args(Embedding)}, got {embedding!r}")
    size = [min(max(int(s), 1), f) for s, f in zip(patch_size, labels.shape[1:], strict=True)]
    organs = torch.arange(1, num_organs + 1, device=labels.device)
    masks = (labels[:, None] == organs.view(1, -1, *[1] * axes)).float()
    count = masks.flatten(2).sum(2)
    present = count >= least_voxels
    within: list[Tensor] = []
    for axis, (length, width) in enumerate(zip(labels.shape[1:], size, strict=True)):
        along = masks.sum([2 + other for other in range(axes) if other != axis])
        centroid = (along * torch.arange(length, device=labels.device)).sum(2) / count.clamp(min=1)
        first = (centroid - (width - 1) / 2).round().long().clamp(0, length - width)
        indices = first[:, :, None] + torch.arange(width, device=labels.device)
        within.append(indices.view(len(labels), num_organs, *[width if other == axis else 1 for other in range(axes)]))
    sample = torch.arange(len(labels), device=labels.device).view(-1, *[1] * (1 + axes))
    place = (sample, *within)
    cubes = features.movedim(1, -1)[place].movedim(-1, 2)
    if embedding == "flatten":
        return cubes.flatten(2), present
    cubes = cubes.flatten(3)
    if embedding == "mean":
        return cubes.mean(3), present
    place = (sample, organs.view(1, -1, *[1] * axes) - 1, *within)
    weights = masks[place].flatten(2)
    weights = torch.where(weights.any(2, keepdim=True), weights, torch.ones_like(weights))
    return (cubes * weights[:, :, None]).sum(3) / weights.sum(2)[..., None], present


@torch.no_grad()
def self_paced(features: Tensor, prototypes: Tensor, threshold: float = 0.25) -> tuple[Tensor, Tensor]:
    """Label every pixel by its nearest prototype; valid is what is clearly nearer to it than to the second nearest.

    Background competes like any class. A class without a prototype (zero) is never chosen.

    Args:
        features: (n, d, *s).
        prototypes: (k, d), k ≥ 2.
        threshold: by how much the largest cosine must exceed the second largest (strictly).

    Returns:
        ``labels`` (n, *s), int64, and ``valid`` (n, *s), bool; neither carries a gradient.

    Raises:
        ValueError: shapes that do not fit.

    Source: Liu et al. (MPSCL), JBHI 2022, Eq. 6-7.
    """
    return confident(prototype_cosines(features, prototypes), prototypes, threshold)


@torch.no_grad()
def confident(cosines: Tensor, prototypes: Tensor, threshold: float = 0.25) -> tuple[Tensor, Tensor]:
    """:func:`self_paced` from cosines (n, k, *s) that are already there."""
    if len(prototypes) < 2 or cosines.shape[1] != len(prototypes):
        raise ValueError(
            f"expected cosines (n, k, *s) to at least two prototypes (k, d), got {tuple(cosines.shape)} and "
            f"{tuple(prototypes.shape)}"
        )
    absent = ~prototypes.any(1).view(1, -1, *[1] * (cosines.ndim - 2))
    nearest = cosines.masked_fill(absent, -1).topk(2, dim=1)
    best, second = nearest.values.unbind(1)
    return nearest.indices[:, 0], best - second > threshold


@torch.no_grad()
def valid_shares(labels: Tensor, valid: Tensor, num_classes: int) -> list[Tensor]:
    """For every class the share of the pixels with its label that are valid, 0 … 1; 0 where no pixel has it.

    Args:
        labels: (n, *s), integer.
        valid: (n, *s), bool.
        num_classes: k.

    Returns:
        k scalars.
    """
    own = [labels == value for value in range(num_classes)]
    return [(pixels & valid).float().sum() / pixels.float().sum().clamp(min=1) for pixels in own]
