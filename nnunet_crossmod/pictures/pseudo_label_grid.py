"""Pictures of pseudo-labels: which labels a slice gets, and where they are trusted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.nn import functional

from nnunet_crossmod.pictures.overlays import add_legend, colours_of, image_grid, overlay

__all__ = ["pseudo_label_grid"]


def pseudo_label_grid(
    images: Tensor, labels: Tensor, valid: Tensor, names: Mapping[str, int], file: Path, most: int = 4
) -> Path:
    """Draw image, pseudo-labels, validity and valid pseudo-labels, one row per sample; of volumes the slice along
    the first axis with most pseudo-labelled foreground.

    Args:
        images: (n, *s), any scale.
        labels: (n, *f), integer, at any resolution.
        valid: (n, *f), bool.
        names: foreground structures, name → value.
        file: the picture to write.
        most: how many samples at most.
    """
    rows = min(most, len(images))
    size = images.shape[1:]
    stacked = np.stack([_sized(labels[:rows], size), _sized(valid[:rows], size)])
    pictures = images[:rows].float().cpu().numpy()
    colours = colours_of(names)
    with image_grid(file, rows, ["image", "pseudo-labels", "valid", "valid pseudo-labels"]) as (figure, grid):
        for line, image, label, mask in zip(grid, pictures, *stacked, strict=True):
            if image.ndim == 3:
                position = int((label > 0).sum((1, 2)).argmax())
                image, label, mask = image[position], label[position], mask[position]
            plain = overlay(image, np.zeros_like(label), colours)
            shown = [plain, overlay(image, label, colours), mask, overlay(image, label * mask, colours)]
            for axes, picture in zip(line, shown, strict=True):
                axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        add_legend(figure, names)
    return file


def _sized(values: Tensor, size: tuple[int, ...]) -> np.ndarray:
    resized = functional.interpolate(values[:, None].float(), tuple(size), mode="nearest-exact")[:, 0]
    array: np.ndarray = resized.cpu().numpy().astype(np.int64)
    return array
