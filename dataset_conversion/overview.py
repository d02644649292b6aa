"""A data set at one glance: a table of what it holds, and a sheet with one slice per scan to check by eye."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from nnunet_crossmod.pictures.overlays import colours_of, overlay
from nnunet_crossmod.raw.block import CrossmodBlock
from nnunet_crossmod.raw.image_files import axis_codes
from nnunet_crossmod.raw.scan_listing import natural_order

__all__ = ["ScanFacts", "contact_sheet", "examine_scan", "orientations", "overview_table", "overview_warnings"]

_TILE = 112
_COLUMNS = 10
_MOST_TILES = 80


@dataclass(frozen=True)
class ScanFacts:
    """What the overview shows of a scan.

    Attributes:
        name: the case.
        spacing: in mm, in the order x, y, z.
        voxels: how many voxels each label value has; empty where there is no label map.
        picture: one slice, its longer side at most 112 pixels of equal size in both directions.
        labels: the label map of that slice, zero where there is none.
        axes: where its axes run to, as ``LPS``.
    """

    name: str
    spacing: tuple[float, ...]
    voxels: Counter[int]
    picture: NDArray[np.float32]
    labels: NDArray[np.uint8]
    axes: str


def examine_scan(name: str, image: sitk.Image, label: NDArray[np.uint8] | None) -> ScanFacts:
    """Count the labels of a scan and keep one slice of it, the one with most labelled voxels.

    The slice is cut across the direction with the largest spacing.

    Args:
        name: the case.
        image: the image, 3D.
        label: its label map (z, y, x), or None.
    """
    voxels = sitk.GetArrayViewFromImage(image)
    spacing = image.GetSpacing()[::-1]
    axis = int(np.argmax(np.round(spacing, 3)))
    position = voxels.shape[axis] // 2
    if label is not None and np.any(label):
        position = int((label > 0).sum(tuple(other for other in range(3) if other != axis)).argmax())
    plane = np.take(voxels, position, axis).astype(np.float32)
    tinted = np.zeros(plane.shape, dtype=np.uint8) if label is None else np.take(label, position, axis)
    pixels = [length * step for length, step in zip(plane.shape, np.delete(spacing, axis), strict=True)]
    rows, columns = (max(1, round(_TILE * extent / max(pixels))) for extent in pixels)
    nearest = np.ix_(
        np.arange(rows) * plane.shape[0] // rows,
        np.arange(columns) * plane.shape[1] // columns,
    )
    counted = Counter() if label is None else Counter(dict(enumerate(np.bincount(label.ravel()).tolist())))
    return ScanFacts(name, image.GetSpacing(), counted, plane[nearest], tinted[nearest], axis_codes(image))


def overview_table(facts: Sequence[ScanFacts], block: CrossmodBlock, skipped: Sequence[str] = ()) -> str:
    """What the data set holds, modality by modality.

    Args:
        facts: its scans; all are named in the block.
        block: which of them is what.
        skipped: what was left out and why, one line each.
    """
    everything = {**block.cases, **block.test}
    rows: dict[str, dict[str, str | int]] = {}
    for modality in block.modalities:
        training = [case for case in block.cases.values() if case.modality == modality]
        scans = [scan for scan in facts if everything[scan.name].modality == modality]
        voxels: Counter[int] = sum((scan.voxels for scan in scans), Counter())
        present = [name for name, value in block.labels.items() if voxels[value]]
        rows[modality] = {
            "role": "source" if modality in block.source else "target",
            "train": len(training),
            "labelled": sum(case.labelled for case in training),
            "annotated": sum(case.annotated for case in training),
            "test": sum(case.modality == modality for case in block.test.values()),
            "spacing [mm]": " x ".join(_range([scan.spacing[axis] for scan in scans]) for axis in range(3)),
            "labels found": f"{len(present)} of {len(block.labels)}",
            **{f"{name} [voxels]": voxels[value] for name, value in block.labels.items()},
        }
    table = pd.DataFrame.from_dict(rows, orient="index").to_string()
    subjects = len({case.subject for case in everything.values()})
    lines = [f"{len(everything)} scans of {subjects} subjects", table]
    if skipped:
        lines += [f"Left out ({len(skipped)}):", *(f"  {reason}" for reason in skipped)]
    return "\n".join(lines)


def orientations(facts: Sequence[ScanFacts], block: CrossmodBlock) -> dict[str, tuple[str, ...]]:
    """Modality → the orientations of its training scans, the most frequent first."""
    counted: dict[str, Counter[str]] = {}
    for scan in facts:
        if scan.name in block.cases:
            counted.setdefault(block.cases[scan.name].modality, Counter())[scan.axes] += 1
    return {
        name: tuple(axes for axes, _ in counted[name].most_common()) for name in block.modalities if name in counted
    }


def overview_warnings(facts: Sequence[ScanFacts], block: CrossmodBlock, reorients: bool) -> list[str]:
    """What is doubtful about the scans themselves, one line each.

    Args:
        facts: the scans of the data set.
        block: which of them is what.
        reorients: whether nnU-Net turns all of them to one orientation.
    """
    warnings = []
    annotated = [scan for scan in facts if scan.name in block.cases and block.cases[scan.name].annotated]
    for name, value in block.labels.items():
        if not any(scan.voxels[value] and value in block.cases[scan.name].visible for scan in annotated):
            warnings.append(
                f"no annotated scan holds {name!r}, so it cannot be learnt: check the labels, or leave it out"
            )
    found = orientations(facts, block)
    if len({axes for codes in found.values() for axes in codes}) > 1 and not reorients:
        listed = "; ".join(f"{name} {', '.join(codes)}" for name, codes in found.items())
        warnings.append(
            f"the axes of scans run differently ({listed}), and networks see them as they are stored: convert with "
            "--reorient, so that nnU-Net turns all to one orientation"
        )
    return warnings


def contact_sheet(facts: Sequence[ScanFacts], block: CrossmodBlock, file: Path) -> Path:
    """Draw one slice per scan with its labels, modality by modality, at most 80 of them.

    Args:
        facts: the scans of the data set.
        block: which of them is what.
        file: the picture to write.
    """
    everything = {**block.cases, **block.test}
    shown: list[ScanFacts] = []
    for modality in block.modalities:
        scans = [scan for scan in facts if everything[scan.name].modality == modality]
        scans.sort(key=lambda scan: natural_order(scan.name))
        most = max(1, _MOST_TILES // len(block.modalities))
        shown += [scans[number * len(scans) // most] for number in range(most)] if len(scans) > most else scans
    colours = colours_of(block.labels)
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    pitch = _TILE + 16
    sheet = np.ones((rows * pitch, columns * pitch, 3), dtype=np.float32)
    figure = Figure(figsize=(max(4.0, 1.3 * columns), 1.3 * rows + 0.7), layout="constrained")
    axes = figure.subplots()
    for number, scan in enumerate(shown):
        top, left = number // columns * pitch + 16, number % columns * pitch
        tile = overlay(scan.picture, scan.labels, colours, opacity=0.45)
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        case = everything[scan.name]
        caption = f"{scan.name}{' (test)' if scan.name in block.test else ''}"
        axes.text(
            left, top - 3, caption[:30], fontsize=4.5, color="black" if case.modality in block.source else "#a50f15"
        )
    axes.imshow(sheet, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(
        f"{len(shown)} of {len(facts)} scans; black: {', '.join(block.source)}, red: {', '.join(block.target)}",
        fontsize=7,
    )
    figure.legend(
        handles=[Patch(color=colours[value], label=name) for name, value in block.labels.items()],
        loc="outside lower center",
        ncols=min(8, len(block.labels)),
        frameon=False,
        fontsize=6,
    )
    figure.savefig(file, dpi=130)
    return file


def _range(values: Sequence[float]) -> str:
    if not values:
        return "-"
    low, high = (f"{value:.3g}" for value in (min(values), max(values)))
    return low if low == high else f"{low}-{high}"
