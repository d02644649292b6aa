"""Pictures of a local feature mask: where the network raises the features of a scan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional

from nnunet_crossmod.pictures.overlays import colours_of, image_grid, overlay

__all__ = ["feature_mask_grid"]


def feature_mask_grid(images: Tensor, mask: Tensor, labels: Tensor, file: Path, most: int = 4) -> Path:
    """Draw image, mask over the image and prediction over the image, one row per sample; of volumes the slice
    along the first axis with most predicted foreground.

    Args:
        images: (n, *s), any scale.
        mask: tanh |D1(f)| (n, *f), 0 … 1, at any resolution; all rows share one colour scale, which the title gives.
        labels: (n, *s), the prediction.
        file: the picture to write; its folder is made if need be.
        most: how many samples at most.

    Returns:
        ``file``.
    """
    rows = min(most, len(images))
    size = tuple(images.shape[1:])
    sized = functional.interpolate(mask[:rows, None].float(), size, mode="nearest-exact")[:, 0].cpu().numpy()
    shown = [_slices(images[i].float().cpu().numpy(), sized[i], labels[i].cpu().numpy()) for i in range(rows)]
    low, high = float(sized.min()), float(sized.max())
    colours = colours_of({str(value): value for value in range(1, int(labels.max()) + 1)})
    with image_grid(file, rows, ("target image", "local feature mask", "prediction")) as (figure, grid):
        drawn: Any = None
        for line, (image, strength, label) in zip(grid, shown, strict=True):
            for axes in line[:2]:
                axes.imshow(image, cmap="gray", interpolation="nearest")
            drawn = line[1].imshow(
                strength, cmap="inferno", vmin=low, vmax=max(high, low + 1e-6), alpha=0.6, interpolation="nearest"
            )
            line[2].imshow(overlay(image, label, colours, opacity=0.6), interpolation="nearest")
        figure.colorbar(drawn, ax=grid[:, 1].tolist(), location="bottom", fraction=0.04)
        figure.suptitle(f"tanh |D1(f)|: {low:.3f} … {high:.3f}", fontsize=10)
    return file


def _slices(image: np.ndarray, mask: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if image.ndim == 2:
        return image, mask, label
    position = int((label > 0).sum((1, 2)).argmax())
    return image[position], mask[position], label[position]
