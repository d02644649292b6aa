"""Label maps over scans, to judge predictions by eye."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from colorsys import hsv_to_rgb
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
from matplotlib import style
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

__all__ = ["Row", "add_legend", "colours_of", "contours", "image_grid", "overlay", "prediction_grid"]

# told apart on grey scans, on white and on near-black
COLOURS = ("#e6550d", "#3182bd", "#31a354", "#756bb1", "#d6b616", "#17becf", "#e377c2", "#8c564b")


class Row(NamedTuple):
    """One row of the grid: an image, its reference and one predicted label map per column."""

    title: str
    image: Path
    reference: Path
    predictions: Mapping[str, Path]


def colours_of(labels: Mapping[str, int]) -> dict[int, tuple[float, float, float]]:
    """A colour for every foreground label value; the same one in every picture, whatever the order of the names."""
    values = sorted(labels.values())
    if len(values) <= len(COLOURS):
        return {value: to_rgb(colour) for value, colour in zip(values, COLOURS, strict=False)}
    return {value: hsv_to_rgb(i / len(values), 0.9, 0.9) for i, value in enumerate(values)}


def overlay(
    image: np.ndarray, labels: np.ndarray, colours: Mapping[int, Sequence[float]], opacity: float = 0.5
) -> np.ndarray:
    """Tint a grey image (h, w), any scale, by its labels (h, w): colour image (h, w, 3) in 0 … 1."""
    low, high = np.percentile(image, (1, 99.5))
    grey = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    picture = np.repeat(grey[..., None], 3, axis=2)
    for value, colour in colours.items():
        picture[labels == value] = (1 - opacity) * picture[labels == value] + opacity * np.asarray(colour)
    return picture


@contextmanager
def image_grid(file: Path, rows: int, columns: Sequence[str], width: float = 2.3) -> Iterator[tuple[Figure, Any]]:
    """A figure of images without ticks under titled columns, saved when the block ends.

    It is drawn in matplotlib's own style: nnU-Net's plots leave seaborn's poster-sized fonts behind.

    Args:
        file: the picture to write; its folder is made if need be.
        rows: how many rows of images.
        columns: titles.
        width: of an image, in inches.

    Yields:
        the figure and its axes (rows, columns).
    """
    with style.context("default"):
        figure = Figure(figsize=(width * len(columns), width * rows + 0.6), layout="constrained")
        grid = figure.subplots(rows, len(columns), squeeze=False)
        for axes in grid.flat:
            axes.set_xticks([])
            axes.set_yticks([])
        for axes, title in zip(grid[0], columns, strict=True):
            axes.set_title(title.replace(" ", "\n"), fontsize=10)
        yield figure, grid
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=110)


def add_legend(figure: Figure, labels: Mapping[str, int]) -> None:
    """Name the structures and their colours below the figure."""
    colours = colours_of(labels)
    figure.legend(
        handles=[Patch(color=colours[value], label=name) for name, value in labels.items()],
        loc="outside lower center",
        ncols=min(len(labels), 8),
        frameon=False,
    )


def prediction_grid(rows: Sequence[Row], labels: Mapping[str, int], file: Path) -> Path:
    """Draw image, reference and predictions of one slice per case, the one with most labelled voxels.

    Args:
        rows: the cases; all with the same predictions.
        labels: foreground structures, name → value.
        file: the picture to write.
    """
    colours = colours_of(labels)
    columns = ["image", "reference", *rows[0].predictions]
    with image_grid(file, len(rows), columns) as (figure, grid):
        for line, row in zip(grid, rows, strict=True):
            volume, reference = _read(row.image), _read(row.reference)
            position = int(np.isin(reference, list(colours)).sum((1, 2)).argmax())
            maps = [np.zeros_like(reference), reference, *(_read(path) for path in row.predictions.values())]
            for axes, segmentation in zip(line, maps, strict=True):
                axes.imshow(overlay(volume[position], segmentation[position], colours), interpolation="nearest")
            line[0].set_ylabel(row.title, fontsize=9)
        add_legend(figure, labels)
    return file


def contours(image: Path, reference: Path, prediction: Path, labels: Mapping[str, int]) -> bytes:
    """One slice, the one with most reference voxels, around what is labelled: outlines on the image.

    The reference is a dashed, the prediction a solid line, in the colour of the structure.

    Args:
        image: the scan.
        reference: its label map.
        prediction: the predicted one.
        labels: foreground structures, name → value.

    Returns:
        a PNG.
    """
    colours = colours_of(labels)
    scan = sitk.ReadImage(str(image))
    volume = sitk.GetArrayFromImage(scan)
    maps = [_read(file) for file in (reference, prediction)]
    if volume.ndim == 2:
        volume, maps = volume[None], [label_map[None] for label_map in maps]
    position = int(np.isin(maps[0], list(colours)).sum((1, 2)).argmax())
    labelled = np.isin(maps[0][position], list(colours)) | np.isin(maps[1][position], list(colours))
    box = tuple(_with_margin(labelled.max(axis)) for axis in (1, 0))
    shown, expected, predicted = (array[position][box] for array in (volume, *maps))
    darkest, brightest = np.percentile(shown, (1, 99.5))
    ratio = scan.GetSpacing()[1] / scan.GetSpacing()[0]
    figure = Figure(figsize=(3.2, 3.2 * shown.shape[0] * ratio / shown.shape[1]), dpi=130)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(shown, cmap="gray", vmin=darkest, vmax=max(brightest, darkest + 1e-6), aspect="auto")
    axes.set_axis_off()
    for value, colour in colours.items():
        for segmentation, line in ((expected, "--"), (predicted, "-")):
            mask = np.pad(segmentation == value, 1)  # a contour closes at the border, too
            if mask.any():
                across, down = np.arange(mask.shape[1]) - 1, np.arange(mask.shape[0]) - 1
                axes.contour(across, down, mask, levels=[0.5], colors=[colour], linestyles=line, linewidths=2.0)
    axes.set(xlim=(-0.5, shown.shape[1] - 0.5), ylim=(shown.shape[0] - 0.5, -0.5))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _with_margin(occupied: np.ndarray) -> slice:
    """The occupied stretch with a third of its length on either side; everything where nothing is occupied."""
    places = np.flatnonzero(occupied)
    if not len(places):
        return slice(None)
    margin = (int(places[-1]) - int(places[0]) + 1) // 3 + 4
    return slice(max(0, int(places[0]) - margin), int(places[-1]) + margin + 1)


def _read(file: Path) -> np.ndarray:
    volume: np.ndarray = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
    return volume
