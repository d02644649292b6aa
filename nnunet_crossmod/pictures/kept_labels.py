"""Pictures of pseudo-labels of scans: what was kept of them, and what was dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnunet_crossmod.pictures.overlays import add_legend, colours_of, image_grid, overlay

__all__ = ["KeptSlice", "kept_label_grid", "most_telling_slice"]


class KeptSlice(NamedTuple):
    """One slice: ``image`` (h, w), any scale; ``labels`` (h, w); ``kept`` (h, w), bool."""

    title: str
    image: NDArray[Any]
    labels: NDArray[Any]
    kept: NDArray[np.bool_]


def most_telling_slice(title: str, image: NDArray[Any], labels: NDArray[Any], kept: NDArray[np.bool_]) -> KeptSlice:
    """Of volumes (d, h, w) the slice that drops most, where it shows a structure; of images (h, w) the whole."""
    if image.ndim == 2:
        return KeptSlice(title, image, labels, kept)
    structures = (labels > 0).sum((1, 2))
    dropped = (~kept).sum((1, 2))
    enough = structures >= structures.max() / 2
    position = int(np.where(enough, dropped, -1).argmax())
    return KeptSlice(title, image[position], labels[position], kept[position])


def kept_label_grid(slices: Sequence[KeptSlice], names: Mapping[str, int], file: Path) -> Path:
    """Draw image, labels, what is kept of them and, in white, what is dropped, one row per slice.

    Args:
        slices: at least one, of any sizes.
        names: foreground structures, name → value.
        file: the picture to write.
    """
    colours = colours_of(names)
    with image_grid(file, len(slices), ["image", "pseudo-labels", "kept", "dropped"]) as (figure, grid):
        for line, row in zip(grid, slices, strict=True):
            plain = overlay(row.image, np.zeros_like(row.labels), colours)
            dropped = overlay(row.image, (~row.kept).astype(np.uint8), {1: (1.0, 1.0, 1.0)}, opacity=0.9)
            shown = [
                plain,
                overlay(row.image, row.labels, colours),
                overlay(row.image, row.labels * row.kept, colours),
                dropped,
            ]
            for axes, picture in zip(line, shown, strict=True):
                axes.imshow(picture, interpolation="nearest")
            line[0].set_ylabel(row.title, fontsize=9)
        add_legend(figure, names)
    return file
