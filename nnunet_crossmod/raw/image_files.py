"""Read an image so that a broken file is reported in one line, before it can spoil a data set or a prediction."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.raw.nifti import NiftiFile, is_nifti
from nnunet_crossmod.raw.scan_listing import ending_of

__all__ = [
    "Reading",
    "aligned",
    "axis_codes",
    "check_image",
    "check_same_grid",
    "is_all_zero",
    "is_same_grid",
    "onto_grid",
    "quiet_readers",
    "read_channels",
    "read_image",
    "read_with_notes",
    "save_image",
    "turned",
    "whole_numbers",
]

# Segmentation tools round origins and spacings when they save; less than this moves no voxel.
_TOLERATED_SHIFT_VOXELS = 0.05
_TOLERATED_FRACTION = 0.001


class Reading(NamedTuple):
    """An image, and how its file was understood where readers would disagree on it; no note as a rule."""

    image: sitk.Image
    notes: tuple[str, ...] = ()


def read_image(path: Path, frame: int | None = None) -> sitk.Image:
    """Read one complete, finite, three-dimensional image, as :func:`read_with_notes` does."""
    return read_with_notes(path, frame).image


def read_with_notes(path: Path, frame: int | None = None) -> Reading:
    """Read one complete, finite, three-dimensional image.

    Args:
        path: a file that SimpleITK can read, or NIfTI-2.
        frame: which volume of a 4D file, or which channel of a file with several values per voxel, from 0.

    Returns:
        The image in the voxel type of the file. A note says that another reader would see the file otherwise, so that
        it had better be written anew than copied.

    Raises:
        CrossmodError: no such file, unreadable, truncated, not 3D, several values per voxel, or NaN voxels.
    """
    if not path.is_file():
        raise CrossmodError(f"{path} does not exist: check the path, or copy the file there again")
    try:
        with quiet_readers():
            image, notes = _read_nifti(path) if is_nifti(path) else (sitk.ReadImage(str(path)), [])
    except (RuntimeError, OSError, EOFError, zlib.error) as error:
        raise CrossmodError(
            f"{path} cannot be read ({_reason(error)}): copy or download it again, or convert it to a valid NIfTI"
        ) from error
    if frame is not None:
        image = _frame(image, frame, path)
        notes = [*notes, f"volume {frame} of several was taken"]
    check_image(image, str(path))
    return Reading(image, tuple(notes))


def read_channels(files: Sequence[Path], case: str) -> list[Reading]:
    """Read the channels of one case, one file each, on one grid.

    Raises:
        CrossmodError: what :func:`read_with_notes` refuses, an image of zeros, or grids that differ.
    """
    readings = [read_with_notes(file) for file in files]
    for file, (image, _) in zip(files, readings, strict=True):
        if is_all_zero(image):
            raise CrossmodError(f"case {case!r}: {file} is all zero: take it out, or export it again")
        check_same_grid(readings[0].image, image, f"case {case!r}: {files[0]}", str(file))
    return readings


def save_image(reading: Reading, path: Path, destination: Path, share: Callable[[Path, Path], object]) -> None:
    """Give an image its place: its file as it is where every reader reads it alike, else written anew.

    Args:
        reading: the image, and the notes on its file.
        path: its file.
        destination: where it goes.
        share: copies or links a file, which keeps voxels and affine bit by bit.
    """
    if reading.notes or ending_of(path) != ending_of(destination):
        sitk.WriteImage(reading.image, str(destination), useCompression=True)
    else:
        share(path, destination)


@contextmanager
def quiet_readers() -> Iterator[None]:
    """Keep ITK's own warnings about a file off the terminal: what matters becomes an error."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def check_image(image: sitk.Image, where: str) -> None:
    """Refuse what nnU-Net would misread.

    Args:
        image: the image.
        where: its file or case, for the message.

    Raises:
        CrossmodError: not 3D, several values per voxel, no positive spacing, or NaN or infinite voxels.
    """
    size = " x ".join(str(length) for length in image.GetSize())
    if image.GetDimension() == 2:
        raise CrossmodError(
            f"{where} is 2D ({size}), a single slice: save it as a volume of one slice ({size} x 1), or the slices of "
            "a scan as one volume"
        )
    if image.GetDimension() != 3:
        raise CrossmodError(
            f"{where} is {image.GetDimension()}D ({size}), not 3D: save the one volume to use in a file of its own, or "
            "choose it with --frame in crossmod convert folders"
        )
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise CrossmodError(
            f"{where} has {image.GetNumberOfComponentsPerPixel()} values per voxel: save one channel per file, or "
            "choose it with --frame in crossmod convert folders; export layers of a segmentation as one label map"
        )
    spacing = np.asarray(image.GetSpacing())
    if not (np.all(np.isfinite(spacing)) and np.all(spacing > 0)):
        raise CrossmodError(f"{where} has the spacing {_rounded(spacing.tolist())} mm: export it again")
    _check_finite(sitk.GetArrayViewFromImage(image), where)


def check_same_grid(
    image: sitk.Image,
    other: sitk.Image,
    where: str,
    where_other: str,
    remedy: str = "resample one onto the other",
) -> None:
    """Compare two voxel grids.

    Args:
        image: the one image.
        other: the other one.
        where: file or case of the one, for the message.
        where_other: file or case of the other.
        remedy: what to do about it, for the message.

    Raises:
        CrossmodError: the sizes differ, or a corner of the grid lies more than 0.05 voxels apart.
    """
    if is_same_grid(image, other):
        return
    pairs: Sequence[tuple[str, Sequence[float], Sequence[float]]] = (
        ("origin", image.GetOrigin(), other.GetOrigin()),
        ("spacing", image.GetSpacing(), other.GetSpacing()),
        ("direction", image.GetDirection(), other.GetDirection()),
    )
    if image.GetSize() != other.GetSize():
        difference = f"size {image.GetSize()} against {other.GetSize()}"
    else:
        difference = "; ".join(
            f"{name} {_rounded(a)} against {_rounded(b)}" for name, a, b in pairs if not np.allclose(a, b, atol=1e-4)
        )
    raise CrossmodError(
        f"{where} and {where_other} lie on different grids ({difference}), their corners up to "
        f"{_largest_shift(image, other):.3g} mm apart: {remedy}"
    )


def is_same_grid(image: sitk.Image, other: sitk.Image) -> bool:
    """Whether two grids have one size, and no corner of them lies more than 0.05 voxels apart."""
    if image.GetSize() != other.GetSize():
        return False
    return bool(_largest_shift(image, other) <= _TOLERATED_SHIFT_VOXELS * min(image.GetSpacing()))


def axis_codes(image: sitk.Image | sitk.ImageFileReader) -> str:
    """Where its axes x, y and z run to, as ``LPS`` for left, posterior (back) and superior (head)."""
    return str(sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection()))


def turned(image: sitk.Image, label: sitk.Image) -> sitk.Image:
    """A label map with its voxels in the order of its image's, where both are of one grid; else as it is."""
    if is_same_grid(image, label):
        return label
    in_order = sitk.DICOMOrient(label, axis_codes(image))
    return in_order if is_same_grid(image, in_order) else label


def aligned(image: sitk.Image, label: sitk.Image) -> sitk.Image:
    """A label map on the grid of its image, as far as that moves no voxel.

    Args:
        image: the image.
        label: its label map, perhaps with axes turned or stored in another order, or only a box of the grid, as Slicer
            saves it.

    Returns:
        The label map on the image's grid, 0 outside its box; as it is where it lies on another grid.
    """
    whole = turned(image, label)
    if is_same_grid(image, whole):
        return whole
    box = sitk.DICOMOrient(label, axis_codes(image))
    corners = _corners(box.GetSize())
    start = np.rint(image.TransformPhysicalPointToContinuousIndex(box.GetOrigin()))
    shift = np.linalg.norm(_points(image, corners + start) - _points(box, corners), axis=1).max()
    is_inside = np.all(start >= 0) and np.all(start + box.GetSize() <= image.GetSize())
    if box.GetSize() == image.GetSize() or not is_inside or shift > _TOLERATED_SHIFT_VOXELS * min(image.GetSpacing()):
        return label
    return sitk.Resample(box, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)


def onto_grid(label: sitk.Image, image: sitk.Image, where: str) -> sitk.Image:
    """A label map on the grid of its image, each voxel that of the nearest place in mm; 0 where it does not reach.

    Args:
        label: the label map.
        image: the image.
        where: file of the label map, for the message.

    Raises:
        CrossmodError: the two do not overlap.
    """
    if is_same_grid(image, label):
        return label
    resampled = sitk.Resample(label, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)
    if is_all_zero(resampled) and not is_all_zero(label):
        raise CrossmodError(f"{where} labels nothing within its image: they lie apart, pair it with another one")
    return resampled


def whole_numbers(labels: NDArray[np.generic]) -> NDArray[np.generic]:
    """Label values as whole numbers where they are so but for rounding, as the 0.99999 that resampling leaves of 1."""
    if not np.issubdtype(labels.dtype, np.floating):
        return labels
    rounded = np.rint(labels)
    return rounded if np.abs(labels - rounded).max() <= _TOLERATED_FRACTION else labels


def is_all_zero(image: sitk.Image) -> bool:
    """Whether no voxel differs from zero."""
    return not np.any(sitk.GetArrayViewFromImage(image))


def _read_nifti(path: Path) -> tuple[sitk.Image, list[str]]:
    """A NIfTI file by ITK, which reads for nnU-Net; by its header alone where ITK misreads or refuses it."""
    file = NiftiFile.open(path)
    stored = file.voxels
    _check_finite(stored, str(path))
    notes = []
    if path.name.lower().endswith(".gz") and not file.compressed:
        notes.append("not compressed, though its name ends in .gz")
    if file.unit in ("micron", "meter"):
        notes.append(f"lengths in {file.unit}s")
    if stored.ndim > 3 and max(stored.shape[3:]) == 1:
        notes.append("axes of length 1 behind the three of space")
    if file.version == 2:
        notes.append("NIfTI-2, which nnU-Net does not read")
    if file.has_lone_intercept:
        notes.append("an intercept without slope, which does not count")
    if file.has_negative_lengths:
        notes.append("negative voxel sizes in its header")
    if file.version == 2 or file.has_lone_intercept or file.has_negative_lengths:
        image = file.image(_right_angles(file))
    else:
        try:
            image = sitk.ReadImage(str(path))
        except RuntimeError as error:
            if "orthonormal" not in str(error):
                raise
            image = file.image(_right_angles(file))
            notes.append("axes not quite at right angles, straightened by less than moves a voxel")
    if image.GetDimension() == 3:
        far = _forms_elsewhere(file.forms, image)
        if file.forms and len(far) == len(file.forms):
            # ITK takes the size of voxels from one form and their place from another.
            image = file.image(_right_angles(file))
            far = _forms_elsewhere(file.forms, image)
        if far:
            notes.append(f"sform and qform disagree, the {'qform' if far == ['sform'] else 'sform'} was taken")
        if not file.forms:
            notes.append("no orientation in its header, axes taken as they are stored")
    return image, notes


def _right_angles(file: NiftiFile) -> NDArray[np.float64]:
    """Voxel → mm (LPS) of the header, with axes at right angles.

    Raises:
        CrossmodError: that would move a voxel.
    """
    affine = file.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.all(np.isfinite(affine)) or np.any(spacing <= 0):
        raise EOFError("its header is damaged")
    corners = _corners(file.header.get_data_shape()[:3])
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing)
    straight = affine.copy()
    straight[:3, :3] = left @ right * spacing
    straight[:3, 3] += (affine - straight)[:3, :3] @ corners.mean(axis=0)
    shift = np.linalg.norm(corners @ (affine - straight)[:3, :3].T + (affine - straight)[:3, 3], axis=1).max()
    if shift > _TOLERATED_SHIFT_VOXELS * spacing.min():
        raise CrossmodError(
            f"{file.path} has axes that are not at right angles, by {shift:.3g} mm at its corners, as of a tilted "
            "gantry: resample it onto an upright grid, or convert the DICOM series, which does that"
        )
    return np.asarray(straight)


def _forms_elsewhere(forms: Mapping[str, NDArray[np.float64]], image: sitk.Image) -> list[str]:
    """Which of the forms of a header put a corner of the image elsewhere."""
    corners = _corners(image.GetSize())
    points = _points(image, corners)
    tolerated = _TOLERATED_SHIFT_VOXELS * min(image.GetSpacing())
    return [
        name
        for name, affine in forms.items()
        if not np.linalg.norm(corners @ affine[:3, :3].T + affine[:3, 3] - points, axis=1).max() <= tolerated
    ]


def _frame(image: sitk.Image, frame: int, path: Path) -> sitk.Image:
    """One volume of a 4D image, or one channel of a volume; what is one volume as it is."""
    channels = image.GetNumberOfComponentsPerPixel()
    if image.GetDimension() < 4 and channels == 1:
        return image
    number = image.GetSize()[3] if image.GetDimension() == 4 else channels
    if not 0 <= frame < number:
        raise CrossmodError(f"{path} has {number} volumes, not one of number {frame} (counted from 0): choose another")
    if image.GetDimension() == 4:
        return sitk.Extract(image, (*image.GetSize()[:3], 0), (0, 0, 0, frame))
    return sitk.VectorIndexSelectionCast(image, frame)


def _check_finite(voxels: NDArray[np.generic], where: str) -> None:
    if np.issubdtype(voxels.dtype, np.floating):
        wrong = int(voxels.size - np.count_nonzero(np.isfinite(voxels)))
        if wrong:
            raise CrossmodError(f"{where} has {wrong} NaN or infinite voxels: replace them by a finite value")


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1] if lines else type(error).__name__
    return "truncated" if "end-of-stream" in reason else reason.removeprefix("sitk::ERROR: ")


def _largest_shift(image: sitk.Image, other: sitk.Image) -> float:
    """Largest distance in mm between corresponding corners of two grids."""
    points = [_points(grid, _corners(grid.GetSize())) for grid in (image, other)]
    return float(np.linalg.norm(points[0] - points[1], axis=1).max())


def _corners(size: Sequence[int]) -> NDArray[np.float64]:
    """Voxel indices (8, 3) of the corners of a grid."""
    return np.stack(np.meshgrid(*[(0.0, length - 1.0) for length in size]), axis=-1).reshape(-1, 3)


def _points(image: sitk.Image, index: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places (n, 3) in mm of voxel indices (n, 3)."""
    matrix = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    return np.asarray(index @ matrix.T + image.GetOrigin())


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)
