"""Where the slices of a series lie, and the straight voxel grid that they are put on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_crossmod.errors import CrossmodError

from .dicom_slices import Slice

__all__ = ["SliceGrid", "longest_even_part"]

# Scanners round positions. More than this is a missing slice (share of the distance of slices) or a tilt (of a pixel).
_TOLERATED_GAP = 0.05
_TOLERATED_DRIFT = 0.1

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class SliceGrid:
    """The positions of the slices of a series.

    Attributes:
        row: unit vector along the rows.
        column: unit vector along the columns.
        first: the position of the first pixel of the first slice in mm.
        step: from a slice to the next in mm, fitted to all positions. A gantry tilt turns it away from the normal.
        pixel: in-plane spacing in mm.
        shares: the place of every even slice between the slices as they are, 2.5 being halfway between the slices 2
            and 3; None where the slices are even.
    """

    row: Vector
    column: Vector
    first: Vector
    step: Vector
    pixel: tuple[float, ...]
    shares: Vector | None = None

    @classmethod
    def of_slices(cls, slices: Sequence[Slice], resample_uneven: bool = False) -> SliceGrid:
        """Fit a grid to the slices.

        Args:
            slices: ascending along their normal.
            resample_uneven: interpolate between unevenly spaced slices instead of refusing them.

        Raises:
            CrossmodError: unevenly spaced slices, or slices that lie sideways of a straight line.
        """
        normal = slices[0].normal
        row = np.asarray(slices[0].orientation[:3]) / np.linalg.norm(slices[0].orientation[:3])
        column, pixel = np.cross(normal, row), slices[0].pixel
        positions = np.asarray([item.position for item in slices])
        if len(slices) == 1:
            return cls(row, column, positions[0], slices[0].thickness * normal, pixel)
        numbers = np.arange(len(slices))
        shares = None
        first, step, deviation = _fit(numbers, positions)
        if np.max(np.abs(deviation @ normal)) > _TOLERATED_GAP * abs(step @ normal):
            if not resample_uneven:
                raise _uneven(slices)
            heights = positions @ normal
            usual = float(np.median(np.diff(heights)))
            even = np.linspace(heights[0], heights[-1], 1 + max(1, round((heights[-1] - heights[0]) / usual)))
            shares = np.interp(even, heights, numbers)
            places = np.stack([np.interp(even, heights, positions[:, axis]) for axis in range(3)], axis=1)
            first, step, deviation = _fit(np.arange(len(even)), places)
        sideways = deviation - np.outer(deviation @ normal, normal)
        if np.max(np.linalg.norm(sideways, axis=1)) > _TOLERATED_DRIFT * min(pixel):
            raise CrossmodError(
                f"the slices in {slices[0].file.parent} are shifted sideways against each other, not by a tilt: export "
                "the series again"
            )
        return cls(row, column, first, step, pixel, shares)

    @property
    def normal(self) -> Vector:
        """Unit vector across the slices."""
        return np.asarray(np.cross(self.row, self.column))

    @property
    def tilt(self) -> float:
        """The angle between the step and the normal, in degrees."""
        return float(np.degrees(np.arccos(np.clip(self.step @ self.normal / np.linalg.norm(self.step), -1, 1))))

    def place(self, voxels: NDArray[Any], *, labels: bool = False) -> tuple[sitk.Image, str]:
        """The voxels as an image on a straight grid, and what was resampled for that.

        Args:
            voxels: the slices as they are (z, y, x).
            labels: take the nearest voxel instead of interpolating linearly.

        Returns:
            The image, its third axis along the normal; and one line on the loss, empty where nothing was resampled.
        """
        losses = []
        kind = voxels.dtype
        if self.shares is not None:
            voxels = _evenly(voxels, self.shares, labels)
            losses.append(
                "unevenly spaced slices interpolated linearly between neighbours: detail across slices is lost"
            )
        image = sitk.GetImageFromArray(voxels)
        lateral = self.step - (self.step @ self.normal) * self.normal
        sheared = np.linalg.norm(lateral) * (len(voxels) - 1) > _TOLERATED_DRIFT * min(self.pixel)
        step = self.step if sheared else (self.step @ self.normal) * self.normal
        image.SetSpacing((*self.pixel, float(np.linalg.norm(step))))
        image.SetOrigin(self.first.tolist())
        direction = np.stack([self.row, self.column, step / np.linalg.norm(step)], axis=1)
        image.SetDirection(direction.ravel().tolist())
        if sheared:
            image = image if labels else sitk.Cast(image, sitk.sitkFloat32)
            image = self._upright(image, lateral * (len(voxels) - 1), labels)
            losses.append(
                f"gantry tilt of {self.tilt:.1f}° resampled onto upright slices: each keeps its height and is moved "
                "in-plane by linear interpolation, which blurs by at most half a pixel"
            )
        if losses and not labels and np.issubdtype(kind, np.integer):
            # SimpleITK would cut the decimals off where it resamples whole numbers.
            image = sitk.Cast(sitk.Round(image), sitk.sitkInt32 if kind.itemsize > 2 else sitk.sitkInt16)
        return image, "; ".join(losses)

    def _upright(self, image: sitk.Image, drift: Vector, labels: bool) -> sitk.Image:
        """A sheared image on the upright grid that holds all of it; what no slice covers gets the lowest value."""
        columns, rows, number = image.GetSize()
        moves = np.array([drift @ self.row / self.pixel[0], drift @ self.column / self.pixel[1]])
        margin = np.ceil(np.abs(moves) - _TOLERATED_DRIFT).astype(int)
        before = np.where(moves < 0, margin, 0)
        origin = self.first - before[0] * self.pixel[0] * self.row - before[1] * self.pixel[1] * self.column
        direction = np.stack([self.row, self.column, self.normal], axis=1)
        return sitk.Resample(
            image,
            [int(columns + margin[0]), int(rows + margin[1]), number],
            sitk.Transform(),
            sitk.sitkNearestNeighbor if labels else sitk.sitkLinear,
            origin.tolist(),
            [*self.pixel, float(self.step @ self.normal)],
            direction.ravel().tolist(),
            float(sitk.GetArrayViewFromImage(image).min()),
        )


def _fit(numbers: NDArray[Any], positions: Vector) -> tuple[Vector, Vector, Vector]:
    """The straight, even line through the positions: its start, its step, and how far every position lies off it."""
    centred = numbers - numbers.mean()
    step = centred @ positions / (centred @ centred)
    first = positions.mean(axis=0) - numbers.mean() * step
    return first, step, positions - (first + np.outer(numbers, step))


def _uneven(slices: Sequence[Slice]) -> CrossmodError:
    gaps = np.diff([item.height for item in slices])
    usual = float(np.median(gaps))
    worst = int(np.argmax(np.abs(gaps - usual)))
    return CrossmodError(
        f"{slices[worst].file} and {slices[worst + 1].file.name} are {gaps[worst]:.4g} mm apart, other slices "
        f"{usual:.4g} mm: a slice is missing or in excess; download the series again, or in crossmod convert folders "
        "interpolate with --resample-uneven, or keep the longest even part with --keep-even"
    )


def longest_even_part(slices: Sequence[Slice]) -> list[Slice]:
    """The longest run of slices, ascending along their normal, that are evenly spaced."""
    heights = np.asarray([item.height for item in slices])
    best, start = (0, 1), 0
    for stop in range(2, len(slices) + 1):
        while not _is_even(heights[start:stop]):
            start += 1
        best = max(best, (start, stop), key=lambda part: part[1] - part[0])
    return list(slices[slice(*best)])


def _is_even(heights: Vector) -> bool:
    if len(heights) < 3:
        return True
    _, step, deviation = _fit(np.arange(len(heights)), heights[:, None])
    return bool(np.abs(deviation).max() <= _TOLERATED_GAP * abs(step[0]))


def _evenly(voxels: NDArray[Any], shares: Vector, labels: bool) -> NDArray[Any]:
    if labels:
        return np.asarray(voxels[np.floor(shares + 0.5).astype(int)])
    below = np.minimum(shares.astype(int), len(voxels) - 2)
    weight = (shares - below)[:, None, None]
    return np.asarray((1 - weight) * voxels[below] + weight * voxels[below + 1], dtype=np.float32)
