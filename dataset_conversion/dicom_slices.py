"""The slices of one DICOM series in a folder, in the order of their positions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.raw.image_files import quiet_readers
from nnunet_crossmod.raw.scan_listing import files_below, is_hidden, natural_order

__all__ = ["Slice", "find_slices", "is_dicom_folder", "unreadable"]

_ENDINGS = (".dcm", ".ima")
_SERIES, _DESCRIPTION, _POSITION, _ORIENTATION = "0020|000e", "0008|103e", "0020|0032", "0020|0037"
_DISTANCE, _THICKNESS, _ECHO = "0018|0088", "0018|0050", "0018|0081"
_SCALE, _STORED_BITS, _SIGNED, _SLOPE, _INTERCEPT = "0028|0004", "0028|0101", "0028|0103", "0028|1053", "0028|1052"
# A directory, annotations, reports, segmentations and structures of a radiotherapy plan: DICOM, but no slices.
_OTHER_OBJECTS = re.compile(rb"1\.2\.840\.10008\.(1\.3\.10|5\.1\.4\.1\.1\.(11|66|88|104|481\.[358]))(?![0-9])")


@dataclass(frozen=True)
class Slice:
    """What the header of a DICOM file says.

    Attributes:
        file: the file.
        series: the unique identifier of its series.
        description: the series in words, as the scanner's operator reads it.
        size: columns and rows.
        orientation: unit vectors along a row and along a column.
        position: the centre of the first pixel in mm.
        pixel: in-plane spacing in mm.
        thickness: of the slice in mm.
        echo: the echo time in ms.
        turned_about: for a slice that is stored light on dark (``MONOCHROME1``): ITK's reader turns its values about
            the half of this.
    """

    file: Path
    series: str
    description: str
    size: tuple[int, ...]
    orientation: tuple[float, ...]
    position: tuple[float, ...]
    pixel: tuple[float, ...]
    thickness: float
    echo: str = ""
    turned_about: float | None = None

    @property
    def normal(self) -> NDArray[np.float64]:
        """The unit vector across the slice."""
        normal = np.cross(self.orientation[:3], self.orientation[3:])
        return np.asarray(normal / np.linalg.norm(normal))

    @property
    def height(self) -> float:
        """Its position along the normal in mm."""
        return float(self.normal @ np.asarray(self.position))


def is_dicom_folder(folder: Path) -> bool:
    """Whether the folder itself holds slices as DICOM files, whatever their names."""
    return folder.is_dir() and any(_is_dicom(file) and not _is_other_object(file) for file in folder.iterdir())


def find_slices(folder: Path, series: str | None = None) -> list[Slice]:
    """The slices of the one series in a folder, ascending along their normal.

    Args:
        folder: the folder that holds the files of the series, whatever their names, itself or in sub-folders.
        series: description of the series to read where there are several, in full or as a pattern (``*T2*``).

    Raises:
        CrossmodError: no DICOM file, an unreadable one, no such series or several, slices of different size or
            orientation, or two slices at one position.
    """
    below = folder.iterdir() if is_dicom_folder(folder) else files_below(folder)
    files = sorted(filter(_is_dicom, below), key=lambda file: natural_order(file.stem))
    if not files:
        raise CrossmodError(
            f"{folder} holds no DICOM file (.dcm, .ima or others): check the path, or download it again"
        )
    slices = _one_series(folder, [_header(file) for file in files if not _is_other_object(file)], series)
    for item in slices[1:]:
        if item.size != slices[0].size or not np.allclose(item.orientation, slices[0].orientation, atol=1e-3):
            raise CrossmodError(
                f"{item.file} differs in size or orientation from {slices[0].file.name}: move scouts and other series "
                "out of the folder"
            )
    slices.sort(key=lambda item: item.height)
    gaps = np.diff([item.height for item in slices])
    if len(gaps) and np.any(gaps <= 0.01 * max(float(np.median(gaps)), 1e-3)):
        raise _same_position(slices, int(np.argmin(gaps)))
    return slices


def _same_position(slices: list[Slice], first: int) -> CrossmodError:
    pair = f"{slices[first].file} and {slices[first + 1].file.name} lie at one position"
    echoes = sorted({item.echo for item in slices})
    if len(echoes) > 1:
        return CrossmodError(
            f"{pair}, with the echo times {', '.join(echoes)} ms: move the files of each echo to a folder of its own"
        )
    return CrossmodError(f"{pair}: remove one of them, or separate the two series")


def _one_series(folder: Path, slices: list[Slice], wanted: str | None) -> list[Slice]:
    by_series: dict[str, list[Slice]] = {}
    for item in slices:
        by_series.setdefault(item.series, []).append(item)
    descriptions = ", ".join(repr(items[0].description) for items in by_series.values())
    if not by_series:
        raise CrossmodError(f"{folder} holds no DICOM image, only reports, plans and the like: check the path")
    if wanted is not None and len(by_series) > 1:
        chosen = {
            uid: items for uid, items in by_series.items() if fnmatchcase(items[0].description.lower(), wanted.lower())
        }
        if len(chosen) != 1:
            raise CrossmodError(
                f"{folder} holds {len(chosen)} series described as {wanted!r}, among {descriptions}: correct --series"
            )
        by_series = chosen
    if len(by_series) > 1:
        smallest = min(by_series.values(), key=len)
        raise CrossmodError(
            f"{folder} holds {len(by_series)} DICOM series of {sorted(map(len, by_series.values()))} files "
            f"({smallest[0].file.name} is of the smallest), described as {descriptions}: move each series to a "
            "folder of its own, or choose one with --series in crossmod convert folders"
        )
    return next(iter(by_series.values()))


def _is_dicom(file: Path) -> bool:
    """By its ending, or by the four letters that follow the preamble of a DICOM file."""
    if not file.is_file() or is_hidden(file):
        return False
    if file.suffix.lower() in _ENDINGS:
        return True
    with file.open("rb") as opened:
        return opened.read(132)[128:] == b"DICM"


def _is_other_object(file: Path) -> bool:
    """Whether its class, which stands at the beginning of the file, is none of images."""
    with file.open("rb") as opened:
        return _OTHER_OBJECTS.search(opened.read(400)) is not None


def _header(file: Path) -> Slice:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    reader.SetImageIO("GDCMImageIO")
    try:
        with quiet_readers():
            reader.ReadImageInformation()
        size, spacing = (*reader.GetSize(), 1), reader.GetSpacing()
        if size[2] != 1:
            raise CrossmodError(
                f"{file} is a multi-frame DICOM file of {size[2]} slices (enhanced DICOM), which is not read: convert "
                "it to NIfTI, as with dcm2niix, or export it as one slice per file"
            )
        position, orientation = _numbers(reader, _POSITION), _numbers(reader, _ORIENTATION)
        # Of a single slice nothing but the header says how thick it is; some scanners write a negative distance.
        thickness = abs((_numbers(reader, _DISTANCE) or _numbers(reader, _THICKNESS) or (1.0,))[0]) or 1.0
        series, turned_about = _text(reader, _SERIES), _turned_about(reader)
    except CrossmodError:
        raise
    except (RuntimeError, ValueError) as error:
        raise unreadable(file, error) from error
    if len(position) != 3 or len(orientation) != 6 or not np.all(np.isfinite((*position, *orientation, thickness))):
        raise CrossmodError(f"{file} has no usable position and orientation: export the series again")
    if not np.isclose(np.linalg.norm(np.cross(orientation[:3], orientation[3:])), 1, atol=0.05):
        raise CrossmodError(f"{file} has no usable position and orientation: export the series again")
    if not (np.all(np.isfinite(spacing[:2])) and min(spacing[:2]) > 0):
        raise CrossmodError(f"{file} has no usable pixel spacing {spacing[:2]}: export the series again")
    if reader.GetNumberOfComponents() != 1:
        raise CrossmodError(f"{file} is a colour picture: move screenshots out of the folder")
    description = _text(reader, _DESCRIPTION)
    where = size[:2], orientation, position, spacing[:2], thickness
    return Slice(file, series, description, *where, _text(reader, _ECHO), turned_about)


def _turned_about(reader: sitk.ImageFileReader) -> float | None:
    """What ITK subtracts the values of a slice from, where it is stored light on dark."""
    if _text(reader, _SCALE) != "MONOCHROME1":
        return None
    slope, intercept = ((_numbers(reader, tag) or (default,))[0] for tag, default in ((_SLOPE, 1.0), (_INTERCEPT, 0.0)))
    largest = -1 if _text(reader, _SIGNED) == "1" else 2 ** int(_text(reader, _STORED_BITS)) - 1
    return slope * largest + 2 * intercept


def _text(reader: sitk.ImageFileReader, tag: str) -> str:
    return reader.GetMetaData(tag).strip("\0 ") if reader.HasMetaDataKey(tag) else ""


def _numbers(reader: sitk.ImageFileReader, tag: str) -> tuple[float, ...]:
    text = _text(reader, tag)
    return tuple(float(number) for number in text.split("\\")) if text else ()


def unreadable(file: Path, error: Exception) -> CrossmodError:
    """The error that says why a file cannot be read."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1].removeprefix("sitk::ERROR: ") if lines else type(error).__name__
    return CrossmodError(f"{file} cannot be read ({reason}): copy or download it again")
