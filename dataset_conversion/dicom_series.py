"""Read a DICOM series and the PNG label stack beside it; neither may be put together in a wrong order."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_crossmod.data.image_files import check_image, quiet_readers
from nnunet_crossmod.errors import CrossmodError

__all__ = ["is_dicom_folder", "read_dicom_series", "read_label_stack"]

_ENDINGS = (".dcm", ".ima")
_SERIES, _POSITION, _ORIENTATION = "0020|000e", "0020|0032", "0020|0037"
# Scanners round positions; a missing slice is off by a whole gap.
_TOLERATED_GAP = 0.1


class _Slice(NamedTuple):
    file: Path
    series: str
    size: tuple[int, ...]
    orientation: tuple[float, ...]
    height: float


def is_dicom_folder(folder: Path) -> bool:
    """Whether the folder itself holds DICOM files, by their endings."""
    return folder.is_dir() and any(file.suffix.lower() in _ENDINGS for file in folder.iterdir())


def read_dicom_series(folder: Path) -> sitk.Image:
    """Read the one series of a folder, slices in the order of their positions.

    Args:
        folder: the folder that holds the files of the series and no other DICOM file.

    Returns:
        The volume, its third axis along the normal of the slices.

    Raises:
        CrossmodError: no DICOM file, an unreadable one, two series, slices of different size or orientation, two slices
            at one position, or a missing slice.
    """
    slices = _slices(folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(item.file) for item in slices])
    try:
        with quiet_readers():
            image = reader.Execute()
    except RuntimeError as error:
        raise _unreadable(folder, error) from error
    check_image(image, str(folder))
    return image


def read_label_stack(folder: Path, series: Path) -> sitk.Image:
    """Read the label map of a series that comes as one grey PNG a slice.

    A PNG belongs to the DICOM file of its name; where the names differ, the n-th PNG to the n-th DICOM file by name, if
    the names follow the positions of the slices.

    Args:
        folder: the folder with the PNG files and no others.
        series: the folder of the DICOM series.

    Returns:
        The label map in the grey values of the files, on the grid of ``read_dicom_series(series)``.

    Raises:
        CrossmodError: an unreadable PNG, another number or size of PNGs than of slices, names that do not follow the
            positions, or what :func:`read_dicom_series` refuses.
    """
    slices = _slices(series)
    files = sorted(folder.glob("*.png"), key=_natural) if folder.is_dir() else []
    if len(files) != len(slices):
        raise CrossmodError(
            f"{folder} holds {len(files)} PNG files, but {series} {len(slices)} slices: download both again"
        )
    by_name = {file.stem: file for file in files}
    if set(by_name) != {item.file.stem for item in slices}:
        named = sorted(slices, key=lambda item: _natural(item.file))
        steps = np.diff([item.height for item in named])
        if not (np.all(steps > 0) or np.all(steps < 0)):
            raise CrossmodError(
                f"the names of the files in {series} do not follow the positions of their slices, so {files[0]} and "
                "the others cannot be assigned: give each PNG the name of its DICOM file"
            )
        by_name = {item.file.stem: file for item, file in zip(named, files, strict=True)}
    image = read_dicom_series(series)
    label = sitk.GetImageFromArray(np.stack([_read_png(by_name[item.file.stem], item.size) for item in slices]))
    label.CopyInformation(image)
    return label


def _slices(folder: Path) -> list[_Slice]:
    """The slices of the one series in a folder, ascending along their normal."""
    if not is_dicom_folder(folder):
        raise CrossmodError(f"{folder} holds no DICOM file (.dcm or .ima): check the path, or download it again")
    slices = [_header(file) for file in sorted(folder.iterdir(), key=_natural) if file.suffix.lower() in _ENDINGS]
    counts = Counter(item.series for item in slices)
    if len(counts) > 1:
        odd = next(item.file.name for item in slices if item.series == min(counts, key=lambda uid: counts[uid]))
        raise CrossmodError(
            f"{folder} holds {len(counts)} DICOM series of {sorted(counts.values())} files ({odd} is of the smallest): "
            "move each series to a folder of its own"
        )
    for item in slices[1:]:
        if item.size != slices[0].size or not np.allclose(item.orientation, slices[0].orientation, atol=1e-3):
            raise CrossmodError(
                f"{item.file} differs in size or orientation from {slices[0].file.name}: move scouts and other series "
                "out of the folder"
            )
    slices.sort(key=lambda item: item.height)
    gaps = np.diff([item.height for item in slices])
    if len(gaps):
        usual = float(np.median(gaps))
        if np.any(gaps <= 0.01 * max(usual, 1e-3)):
            first = int(np.argmin(gaps))
            raise CrossmodError(
                f"{slices[first].file} and {slices[first + 1].file.name} lie at one position: remove one of them, or "
                "separate the two series"
            )
        if np.any(np.abs(gaps - usual) > _TOLERATED_GAP * usual):
            first = int(np.argmax(np.abs(gaps - usual)))
            raise CrossmodError(
                f"{slices[first].file} and {slices[first + 1].file.name} are {gaps[first]:.4g} mm apart, other slices "
                f"{usual:.4g} mm: a slice is missing or in excess; download the series again"
            )
    return slices


def _header(file: Path) -> _Slice:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    reader.SetImageIO("GDCMImageIO")
    try:
        with quiet_readers():
            reader.ReadImageInformation()
        position, orientation = (
            tuple(float(number) for number in reader.GetMetaData(tag).split("\\")) for tag in (_POSITION, _ORIENTATION)
        )
        series, size = reader.GetMetaData(_SERIES).strip("\0 "), reader.GetSize()
    except (RuntimeError, ValueError) as error:
        raise _unreadable(file, error) from error
    if len(position) != 3 or len(orientation) != 6 or not np.all(np.isfinite((*position, *orientation))):
        raise CrossmodError(f"{file} has no usable position and orientation: export the series again")
    if len(size) == 3 and size[2] != 1:
        raise CrossmodError(f"{file} holds {size[2]} slices: export one slice a file, or convert it to NIfTI")
    normal = np.cross(orientation[:3], orientation[3:])
    if not np.isclose(np.linalg.norm(normal), 1, atol=0.05):
        raise CrossmodError(f"{file} has no usable position and orientation: export the series again")
    return _Slice(file, series, size[:2], orientation, float(normal @ np.asarray(position)))


def _read_png(file: Path, size: Sequence[int]) -> NDArray[np.generic]:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    reader.SetImageIO("PNGImageIO")
    try:
        with quiet_readers():
            reader.ReadImageInformation()
            # Before the pixels are read: a broken header may ask for any amount of memory.
            if reader.GetSize() != tuple(size):
                raise CrossmodError(
                    f"{file} has {reader.GetSize()} pixels, but its slice {tuple(size)}: download both again"
                )
            image = reader.Execute()
    except RuntimeError as error:
        raise _unreadable(file, error) from error
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise CrossmodError(f"{file} is a colour picture: a label slice is grey; export it again")
    return np.asarray(sitk.GetArrayFromImage(image))


def _unreadable(file: Path, error: Exception) -> CrossmodError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1].removeprefix("sitk::ERROR: ") if lines else type(error).__name__
    return CrossmodError(f"{file} cannot be read ({reason}): copy or download it again")


def _natural(file: Path) -> tuple[tuple[int, str], ...]:
    """Sort key under which 2.dcm comes before 10.dcm."""
    return tuple((int(part or 0), word) for word, part in re.findall(r"(\D*)(\d*)", file.stem))
