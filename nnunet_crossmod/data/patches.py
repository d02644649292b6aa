"""A walk over preprocessed cases that takes the same patches every time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd

from nnunet_crossmod.data.dataset import CrossModalDataset

__all__ = ["representative_patches"]


def representative_patches(
    dataset: CrossModalDataset, patch_size: Sequence[int], batch_size: int, limit: int
) -> Iterator[dict[str, Any]]:
    """Cut un-augmented patches around voxels of every visible class of every case, without a random number.

    All cases give equally many. A case's patches go around its classes in turn, and for one class along the voxels that
    nnU-Net listed of it; where no label may be seen, the patch is the centre of the image.

    Args:
        dataset: the cases; what is hidden there plays no part.
        patch_size: in voxels; two numbers for patches of single slices.
        batch_size: most patches a batch.
        limit: most patches in all; where there are more cases than that, evenly spaced ones are left out.

    Yields:
        what nnU-Net's loader returns: ``data`` (n, c, *s), ``target`` (n, 1, *s) with −1 on padding, ``keys``.
    """
    names = sorted(dataset.cases)
    if len(names) > limit:
        names = [names[i * len(names) // limit] for i in range(limit)]
    per_case = limit // max(len(names), 1)
    batch: list[tuple[torch.Tensor, torch.Tensor, str]] = []
    for name in names:
        for patch in _patches_of(dataset, name, patch_size, per_case):
            batch.append((*patch, name))
            if len(batch) == batch_size:
                yield _collated(batch)
                batch = []
    if batch:
        yield _collated(batch)


def _patches_of(
    dataset: CrossModalDataset, name: str, patch_size: Sequence[int], count: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    data, seg, _, properties = dataset.load_case(name)
    shape = data.shape[1:]
    size = np.array([*[1] * (len(shape) - len(patch_size)), *patch_size])
    missing = np.maximum(size - shape, 0)
    lowest, highest = -(missing // 2), shape - size + missing - missing // 2
    locations = properties["class_locations"]
    visible = [locations[value] for value in sorted(dataset.cases[name].visible) if len(locations.get(value, ()))]
    rounds = -(-count // max(len(visible), 1))
    for i in range(count if visible else 1):
        centre = np.array(shape) // 2
        if visible:
            voxels = visible[i % len(visible)]
            centre = np.asarray(voxels[(2 * (i // len(visible)) + 1) * len(voxels) // (2 * rounds)])[1:]
        first = np.clip(centre - size // 2, lowest, highest)
        box = [[int(low), int(low + width)] for low, width in zip(first, size, strict=True)]
        image = torch.from_numpy(crop_and_pad_nd(data, box, 0)).float()
        labels = torch.from_numpy(crop_and_pad_nd(seg, box, -1)).to(torch.int16)
        slices = len(shape) > len(patch_size)
        yield (image[:, 0], labels[:, 0]) if slices else (image, labels)


def _collated(batch: Sequence[tuple[torch.Tensor, torch.Tensor, str]]) -> dict[str, Any]:
    images, labels, names = zip(*batch, strict=True)
    return {"data": torch.stack(images), "target": torch.stack(labels), "keys": list(names)}
