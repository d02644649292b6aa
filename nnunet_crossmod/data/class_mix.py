"""Structures of labelled scans pasted into unlabelled ones, with their labels."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_crossmod.data.batch import CrossModalBatch

__all__ = ["Mixed", "class_mix", "with_class_mix"]

MARGIN = 4  # voxels around the structures that come along: an edge is learnt from both of its sides


class Mixed(NamedTuple):
    """``images`` (n, c, *s), ``labels`` (n, *s) and where they are ``trusted`` (n, *s), bool."""

    images: Tensor
    labels: Tensor
    trusted: Tensor


@torch.no_grad()
def class_mix(
    images: Tensor, labels: Tensor, trusted: Tensor, source: Tensor, source_labels: Tensor, classes: int
) -> Mixed:
    """Paste all structures of the i-th source sample, and a margin around them, into the i-th sample.

    Args:
        images: (n, c, *s).
        labels: (n, *s), 0 … classes − 1, a teacher's.
        trusted: (n, *s), bool.
        source: fully annotated images (n, c, *s).
        source_labels: (n, *s); values outside 0 … classes − 1 (padding, ignore) are not pasted.
        classes: number of them, background included.

    Source: Olsson et al. (ClassMix), WACV 2021, and Tranheden et al. (DACS), WACV 2021. Differs from them: all
    structures are pasted, not a random half of the classes, and their surroundings with them.
    """
    known = (source_labels >= 0) & (source_labels < classes)
    structures = (known & (source_labels > 0))[:, None].float()
    pool = functional.max_pool2d if source.ndim == 4 else functional.max_pool3d
    near = pool(structures, 2 * MARGIN + 1, 1, MARGIN)[:, 0] > 0
    pasted = near & known
    return Mixed(
        torch.where(pasted[:, None], source, images),
        torch.where(pasted, source_labels.to(labels.dtype), labels),
        trusted | pasted,
    )


def with_class_mix(batch: CrossModalBatch, share: float) -> CrossModalBatch:
    """The batch with structures of fully annotated source samples in a share of its unannotated target samples.

    Args:
        batch: with pseudo-labels of its target samples.
        share: probability of a target sample; there may be fewer source samples than it wants.
    """
    assert batch.pseudo_labels is not None
    assert batch.trusted is not None
    structures = set(batch.block.labels.values())
    given = [
        row
        for row, case in enumerate(batch.cases)
        if case.modality in batch.block.source and structures <= case.visible
    ]
    free = batch.taught()
    # drawn on the host, where samples are chosen: the device is not waited for
    wanted = [free[i] for i in torch.randperm(len(free)).tolist() if torch.rand(()).item() < share]
    origins = [given[i] for i in torch.randperm(len(given)).tolist()][: len(wanted)]
    if not origins or not wanted:
        return batch
    rows, places = map(list, zip(*wanted[: len(origins)], strict=True))
    images, labels, trusted = batch.images.clone(), batch.pseudo_labels.clone(), batch.trusted.clone()
    images[rows], labels[places], trusted[places] = class_mix(
        images[rows],
        labels[places],
        trusted[places],
        batch.images[origins],
        batch.labels[0][origins],
        len(structures) + 1,
    )
    return replace(batch, images=images, pseudo_labels=labels, trusted=trusted)
