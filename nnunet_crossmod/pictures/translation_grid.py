"""Pictures to judge an image translation by eye."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from nnunet_crossmod.pictures.overlays import image_grid

__all__ = ["translation_grid"]


def translation_grid(source: Tensor, translated: Tensor, target: Tensor, file: Path, title: str = "") -> Path:
    """Draw source, translation and a real target image side by side, one row per sample, on one grey scale.

    Args:
        source: (n, c, *s), z-scores; the first channel is drawn, of a volume the middle slice of the first axis.
        translated: (n, c, *s), z-scores.
        target: (m, c, *s), z-scores, m at least 1; they come from other patients than the sources beside them.
        file: the picture to write; its folder is made if need be.
        title: above the columns.

    Returns:
        ``file``.
    """
    rows = min(len(source), len(target), 4)
    figure_rows = [[_slice(images, i) for images in (source, translated, target)] for i in range(rows)]
    with image_grid(file, rows, ("source", "translated", "real target")) as (figure, grid):
        shown = np.concatenate([image.ravel() for line in figure_rows for image in line])
        low, high = np.percentile(shown, (1, 99.5))
        for line, images in zip(grid, figure_rows, strict=True):
            for axes, image in zip(line, images, strict=True):
                axes.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
        if title:
            figure.suptitle(title, fontsize=10)
    return file


def _slice(images: Tensor, sample: int) -> np.ndarray:
    image = images[sample, 0].float().cpu()
    array: np.ndarray = (image if image.ndim == 2 else image[len(image) // 2]).numpy()
    return array
