"""Read an image so that a broken file is reported in one line, before it can spoil a data set or a prediction."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_crossmod.errors import CrossmodError

__all__ = ["check_image", "check_same_grid", "is_all_zero", "quiet_readers", "read_image"]

# Segmentation tools round origins and spacings when they save; less than this moves no voxel.
_TOLERATED_SHIFT_VOXELS = 0.05
_NIFTI_FLOATS = {16: "f4", 64: "f8"}


def read_image(path: Path) -> sitk.Image:
    """Read one complete, finite, three-dimensional image.

    Args:
        path: a file that SimpleITK can read.

    Returns:
        The image in the voxel type of the file.

    Raises:
        CrossmodError: no such file, unreadable, truncated, not 3D, several values per voxel, or NaN voxels.
    """
    if not path.is_file():
        raise CrossmodError(f"{path} does not exist: check the path, or copy the file there again")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with quiet_readers():
            reader.ReadImageInformation()
            _check_nifti(path, reader)
            image = reader.Execute()
    except (RuntimeError, OSError, EOFError, zlib.error) as error:
        raise CrossmodError(
            f"{path} cannot be read ({_reason(error)}): copy or download it again, or convert it to a valid NIfTI"
        ) from error
    check_image(image, str(path))
    return image


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
    if image.GetDimension() != 3:
        size = " x ".join(str(length) for length in image.GetSize())
        raise CrossmodError(
            f"{where} is {image.GetDimension()}D ({size}), not 3D: save the one volume to use in a file of its own"
        )
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise CrossmodError(
            f"{where} has {image.GetNumberOfComponentsPerPixel()} values per voxel: save one channel per file"
        )
    spacing = np.asarray(image.GetSpacing())
    if not (np.all(np.isfinite(spacing)) and np.all(spacing > 0)):
        raise CrossmodError(f"{where} has the spacing {_rounded(spacing.tolist())} mm: export it again")
    _check_finite(sitk.GetArrayViewFromImage(image), where)


def check_same_grid(image: sitk.Image, other: sitk.Image, where: str, where_other: str) -> None:
    """Compare two voxel grids.

    Args:
        image: the one image.
        other: the other one.
        where: file or case of the one, for the message.
        where_other: file or case of the other.

    Raises:
        CrossmodError: the sizes differ, or a corner of the grid lies more than 0.05 voxels apart.
    """
    if image.GetSize() != other.GetSize():
        difference = f"size {image.GetSize()} against {other.GetSize()}"
    elif _largest_shift(image, other) > _TOLERATED_SHIFT_VOXELS * min(image.GetSpacing()):
        pairs: Sequence[tuple[str, Sequence[float], Sequence[float]]] = (
            ("origin", image.GetOrigin(), other.GetOrigin()),
            ("spacing", image.GetSpacing(), other.GetSpacing()),
            ("direction", image.GetDirection(), other.GetDirection()),
        )
        difference = "; ".join(
            f"{name} {_rounded(a)} against {_rounded(b)}" for name, a, b in pairs if not np.allclose(a, b, atol=1e-4)
        )
    else:
        return
    raise CrossmodError(f"{where} and {where_other} lie on different grids ({difference}): resample one onto the other")


def is_all_zero(image: sitk.Image) -> bool:
    """Whether no voxel differs from zero."""
    return not np.any(sitk.GetArrayViewFromImage(image))


def _check_nifti(path: Path, reader: sitk.ImageFileReader) -> None:
    """Look at the bytes of a NIfTI file: ITK silently reads both missing and NaN voxels as zero.

    Raises:
        EOFError: the file ends early.
        CrossmodError: NaN or infinite voxels.
    """
    name = path.name.lower()
    if not name.endswith((".nii", ".nii.gz")):
        return
    content = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
    try:
        start, bits = int(float(reader.GetMetaData("vox_offset"))), int(reader.GetMetaData("bitpix"))
    except (ValueError, OverflowError) as error:
        raise EOFError("its header is damaged") from error
    if not 0 <= start <= len(content):
        raise EOFError("its header is damaged")
    voxels = int(np.prod(reader.GetSize(), dtype=np.int64)) * reader.GetNumberOfComponents()
    if len(content) < start + voxels * bits // 8:
        raise EOFError(f"truncated: {len(content)} of {start + voxels * bits // 8} bytes")
    if kind := _NIFTI_FLOATS.get(int(reader.GetMetaData("datatype"))):
        # The first field is the length of the header, which tells the order of the bytes.
        order = "<" if int.from_bytes(content[:4], "little") in (348, 540) else ">"
        _check_finite(np.frombuffer(content, f"{order}{kind}", voxels, start), str(path))


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
    """Largest distance in mm between corresponding corners of two grids of one size."""
    corners = np.stack(np.meshgrid(*[(0, length - 1) for length in image.GetSize()]), axis=-1).reshape(-1, 3)
    return max(
        float(
            np.linalg.norm(
                np.subtract(
                    image.TransformIndexToPhysicalPoint(corner.tolist()),
                    other.TransformIndexToPhysicalPoint(corner.tolist()),
                )
            )
        )
        for corner in corners
    )


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)
