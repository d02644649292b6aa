"""Pictures of what external attention modules learn: how classes relate, and where each class looks (EAM)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from nnunet_crossmod.pictures.overlays import image_grid

__all__ = ["draw_correlations", "draw_semantic_maps"]


def draw_correlations(matrices: Mapping[str, Sequence[np.ndarray]], classes: Sequence[str], file: Path) -> Path:
    """Draw the correlation matrices of the modalities side by side, one row per scale.

    Args:
        matrices: modality → one matrix (z, z) per scale, lowest scale first; rows sum to 1.
        classes: names of the z classes.
        file: the picture to write.
    """
    scales = len(next(iter(matrices.values())))
    size = 1.2 + 0.45 * len(classes)
    figure = Figure(figsize=(size * len(matrices) + 0.8, size * scales), layout="constrained")
    grid = figure.subplots(scales, len(matrices), squeeze=False)
    highest = max(float(matrix.max()) for per_scale in matrices.values() for matrix in per_scale)
    norm = Normalize(0, highest)
    for column, (modality, per_scale) in enumerate(matrices.items()):
        grid[0][column].set_title(modality, fontsize=10)
        for row, matrix in enumerate(per_scale):
            axes = grid[row][column]
            shown = axes.imshow(matrix, norm=norm, cmap="viridis", interpolation="nearest")
            axes.set_xticks(range(len(classes)), classes if row == scales - 1 else [], rotation=90, fontsize=7)
            axes.set_yticks(range(len(classes)), classes if column == 0 else [], fontsize=7)
            for (i, j), value in np.ndenumerate(matrix):
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=6, color=_ink(value / highest))
        grid[0][0].set_ylabel("lowest scale", fontsize=8)
    figure.colorbar(shown, ax=list(grid.flat), shrink=0.6, label="relevance to the class of the column")
    figure.savefig(file, dpi=110)
    return file


def draw_semantic_maps(
    images: Mapping[str, np.ndarray], maps: Mapping[str, np.ndarray], classes: Sequence[str], file: Path
) -> Path:
    """Draw the map of every class over an image of every modality; of a volume, the middle slice.

    Args:
        images: modality → image (h, w) or (d, h, w), any scale.
        maps: modality → maps (z, *t), of any resolution.
        classes: names of the z classes.
        file: the picture to write.
    """
    with image_grid(file, len(images), ["image", *classes], width=2.0) as (_, grid):
        for line, (modality, image) in zip(grid, images.items(), strict=True):
            picture, heat = _middle(image), [_middle(class_map) for class_map in maps[modality]]
            reach = max(float(np.abs(each).max()) for each in heat) or 1.0
            for axes, over in zip(line, [None, *heat], strict=True):
                axes.imshow(picture, cmap="gray", vmin=np.percentile(picture, 1), vmax=np.percentile(picture, 99.5))
                if over is not None:
                    height, width = picture.shape
                    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
                    axes.imshow(
                        over,
                        cmap="coolwarm",
                        alpha=0.55,
                        vmin=-reach,
                        vmax=reach,
                        extent=extent,
                        interpolation="bilinear",
                    )
            line[0].set_ylabel(modality, fontsize=9)
    return file


def _middle(volume: np.ndarray) -> np.ndarray:
    return volume if volume.ndim == 2 else volume[len(volume) // 2]


def _ink(brightness: float) -> str:
    return "black" if brightness > 0.6 else "white"
