"""Read a DICOM series and the PNG label stack beside it; neither may be put together in a wrong order or place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from tqdm import tqdm

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.raw.image_files import check_image, quiet_readers
from nnunet_crossmod.raw.scan_listing import image_files, natural_order

from .dicom_slices import Slice, find_slices, is_dicom_folder, unreadable
from .slice_grid import SliceGrid, longest_even_part

__all__ = ["is_dicom_folder", "read_dicom_series", "read_label_stack"]


def read_dicom_series(
    folder: Path, series: str | None = None, *, resample_uneven: bool = False, keep_even: bool = False
) -> sitk.Image:
    """Read one series of a folder, slices in the order of their positions.

    Slices that a gantry tilt shifts against each other are resampled onto an upright grid, and a line says so.

    Args:
        folder: the folder that holds the files of the series, whatever their names.
        series: description of the series to read where there are several, in full or as a pattern (``*T2*``).
        resample_uneven: interpolate between unevenly spaced slices instead of refusing them.
        keep_even: of unevenly spaced slices, keep the longest part that is evenly spaced.

    Returns:
        The volume, its third axis along the normal of the slices.

    Raises:
        CrossmodError: no DICOM file, an unreadable one, several series, slices of different size or orientation, two
            slices at one position, or a missing slice.
    """
    slices = find_slices(folder, series)
    if keep_even and (kept := longest_even_part(slices)) != slices:
        tqdm.write(f"{folder}: {len(kept)} of {len(slices)} slices kept, {kept[0].file.name} to {kept[-1].file.name}")
        slices = kept
    grid = SliceGrid.of_slices(slices, resample_uneven)
    image, loss = grid.place(_read_voxels(folder, slices))
    if loss:
        tqdm.write(f"{folder}: {loss}")
    check_image(image, str(folder))
    return image


def read_label_stack(folder: Path, series: Path) -> sitk.Image:
    """Read the label map of a series that comes as one grey PNG per slice.

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
    slices = find_slices(series)
    grid = SliceGrid.of_slices(slices)
    files = image_files(folder, ".png")
    if len(files) != len(slices):
        raise CrossmodError(
            f"{folder} holds {len(files)} PNG files, but {series} {len(slices)} slices: download both again"
        )
    by_name = {file.stem: file for file in files}
    if set(by_name) != {item.file.stem for item in slices}:
        named = sorted(slices, key=lambda item: natural_order(item.file.stem))
        steps = np.diff([item.height for item in named])
        if not (np.all(steps > 0) or np.all(steps < 0)):
            raise CrossmodError(
                f"the names of the files in {series} do not follow the positions of their slices, so {files[0]} and "
                "the others cannot be assigned: give each PNG the name of its DICOM file"
            )
        by_name = {item.file.stem: file for item, file in zip(named, files, strict=True)}
    label, _ = grid.place(np.stack([_read_png(by_name[item.file.stem], item.size) for item in slices]), labels=True)
    return label


def _read_voxels(folder: Path, slices: Sequence[Slice]) -> NDArray[np.generic]:
    """The voxels (z, y, x), each slice rescaled by its own header."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(item.file) for item in slices])
    # Slices may differ in slope and intercept: a type that the first file asks for would cut off the others.
    reader.SetOutputPixelType(sitk.sitkFloat32)
    try:
        with quiet_readers():
            image = reader.Execute()
    except RuntimeError as error:
        raise unreadable(folder, error) from error
    voxels: NDArray[np.float32] = sitk.GetArrayFromImage(image)
    for number, item in enumerate(slices):
        if item.turned_about is not None:
            voxels[number] = np.float32(item.turned_about) - voxels[number]
    if np.all(np.isfinite(voxels)) and np.array_equal(voxels, np.rint(voxels)):
        low, high = voxels.min(), voxels.max()
        return voxels.astype(np.int16 if low >= -(2**15) and high < 2**15 else np.int32)
    return voxels


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
        raise unreadable(file, error) from error
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise CrossmodError(f"{file} is a colour picture: a label slice is grey; export it again")
    return np.asarray(sitk.GetArrayFromImage(image))
