"""Boxes of unlabelled scans pasted into each other, with what a teacher says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nnunet_crossmod.data.batch import CrossModalBatch
from nnunet_crossmod.data.class_mix import Mixed

__all__ = ["cut_mix", "random_boxes", "with_cut_mix"]

SMALLEST, LARGEST = 0.4, 0.8  # extent of a box along every axis, as a share of the sample's


def random_boxes(number: int, size: Sequence[int], share: float, device: torch.device) -> Tensor:
    """Where a box lies, in the given share of the samples; nowhere in the others: (number, *size), bool."""
    drawn = torch.rand(number, device=device) < share
    inside = drawn.view(number, *[1] * len(size))
    for axis, length in enumerate(size):
        extent = (SMALLEST + (LARGEST - SMALLEST) * torch.rand(number, device=device)) * length
        first = torch.rand(number, device=device) * (length - extent)
        place = torch.arange(length, device=device) + 0.5
        along = (place >= first[:, None]) & (place < (first + extent)[:, None])
        inside = inside & along.view(number, *[length if other == axis else 1 for other in range(len(size))])
    return inside


@torch.no_grad()
def cut_mix(images: Tensor, labels: Tensor, trusted: Tensor, share: float) -> Mixed:
    """Paste a random box of the sample before into every sample, the last one's into the first.

    Args:
        images: (n, c, *s), of one modality.
        labels: (n, *s), a teacher's.
        trusted: (n, *s), bool.
        share: probability of a sample.

    Source: Yun et al. (CutMix), ICCV 2019; for segmentation by a mean teacher French et al., BMVC 2020. Differs: the
    extent of a box is drawn, not its area fixed.
    """
    box = random_boxes(len(images), images.shape[2:], share, images.device)
    return Mixed(
        torch.where(box[:, None], images.roll(1, 0), images),
        torch.where(box, labels.roll(1, 0), labels),
        torch.where(box, trusted.roll(1, 0), trusted),
    )


def with_cut_mix(batch: CrossModalBatch, share: float) -> CrossModalBatch:
    """The batch with boxes of its unannotated target samples pasted into others of their modality.

    Samples of registered scans stay as they are: they would no longer show one place of one subject.

    Args:
        batch: with pseudo-labels of its target samples.
        share: probability of a target sample.
    """
    assert batch.pseudo_labels is not None
    assert batch.trusted is not None
    if batch.registered:
        return batch
    images, labels, trusted = batch.images.clone(), batch.pseudo_labels.clone(), batch.trusted.clone()
    for modality in batch.block.target:
        rows, places = batch.taught_rows(modality)
        images[rows], labels[places], trusted[places] = cut_mix(images[rows], labels[places], trusted[places], share)
    return replace(batch, images=images, pseudo_labels=labels, trusted=trusted)
