"""Intensity augmentation of a batch, on the device: class-local curves, then GIN, then nnU-Net's own changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from nnunet_crossmod.data.batch import CrossModalBatch, Rows
from nnunet_crossmod.data.class_local_curves import class_local_curves
from nnunet_crossmod.data.intensity_augmentation import augment_intensity
from nnunet_crossmod.data.random_convolution import random_convolution

__all__ = ["GinSamples", "IntensityAugmentation"]

GinSamples = Literal["off", "source", "all"]


@dataclass(frozen=True)
class IntensityAugmentation:
    """Changes the intensities of a batch; its geometry and labels stay.

    The padding beyond a scan's edge changes along with the scan; the batch remembers where the scan was.

    Args:
        curve_probability: share of the annotated samples whose classes get curves of their own (SLAug).
        curves_by_teacher: whether the classes of unannotated target samples do, too, as a teacher labels them.
        gin: the samples that pass a random convolutional network (GIN).
        gin_probability: share of them that do.
        nnunet: whether nnU-Net's own intensity changes follow.
        keep_first_axis: whether nnU-Net's low resolution leaves the first axis alone, as in anisotropic 3D patches.
    """

    curve_probability: float = 0.5
    curves_by_teacher: bool = True
    gin: GinSamples = "all"
    gin_probability: float = 1.0
    nnunet: bool = True
    keep_first_axis: bool = False

    def __call__(self, batch: CrossModalBatch) -> CrossModalBatch:
        """The batch with other intensities; the batch itself where nothing is switched on."""
        images = batch.images
        if self.curve_probability > 0:
            for rows, labels in self._labelled(batch):
                curved = class_local_curves(images[rows], labels, max(batch.block.labels.values()) + 1)
                images = _replaced_at_random(images, rows, curved, self.curve_probability)
        if self.gin != "off":
            images = self._with_gin(images, slice(None) if self.gin == "all" else batch.source_rows)
        if self.nnunet:
            images = augment_intensity(images, self.keep_first_axis)
        return batch if images is batch.images else replace(batch, images=images, scanned=batch.inside)

    def _labelled(self, batch: CrossModalBatch) -> Iterator[tuple[Rows, Tensor]]:
        """The samples whose classes are known, and their labels."""
        if self.curves_by_teacher and batch.pseudo_labels is not None and batch.taught():
            rows, places = batch.taught_rows()
            yield rows, batch.pseudo_labels[places]
        if batch.annotations:
            yield batch.annotated_rows, batch.labels[0][batch.annotated_rows]

    def _with_gin(self, images: Tensor, rows: Rows) -> Tensor:
        return _replaced_at_random(images, rows, random_convolution(images[rows]), self.gin_probability)


def _replaced_at_random(images: Tensor, rows: Rows, changed: Tensor, probability: float) -> Tensor:
    """The images (n, c, *s), of which those at ``rows`` are, with the given probability, the changed ones."""
    if probability < 1:
        drawn = torch.rand(len(changed), *[1] * (images.ndim - 1), device=images.device) < probability
        changed = torch.where(drawn, changed, images[rows])
    images = images.clone()
    images[rows] = changed
    return images
