"""Read the two kinds of files of the SIFA release: three slices in a TFRecord, a test volume in an npz file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_crossmod.errors import CrossmodError

from .tfrecords import Feature, read_examples

__all__ = ["read_npz_volume", "read_slice_record"]

_MIDDLE = 1


@lru_cache(maxsize=1)  # image and label of a case are read one after the other
def read_slice_record(path: Path) -> tuple[sitk.Image, sitk.Image]:
    """The middle slice of a record and its labels, each as a volume of one slice with 1 mm voxels.

    The record holds ``data_vol`` and ``label_vol``, raw little-endian float32 of the sizes ``dsize_dim0`` … and
    ``lsize_dim0`` …, third axis the slices.

    Raises:
        CrossmodError: unreadable, several records, or fields that are missing or do not fit their sizes.
    """
    records = read_examples(path)
    if len(records) != 1:
        raise CrossmodError(f"{path} holds {len(records)} records, not one: copy or download it again")
    image = _array(records[0], "data_vol", "dsize_dim", path)
    label = _array(records[0], "label_vol", "lsize_dim", path)
    return _volume(image[None, :, :, _MIDDLE]), _volume(_whole(label[None, :, :, _MIDDLE], path))


@lru_cache(maxsize=1)
def read_npz_volume(path: Path) -> tuple[sitk.Image, sitk.Image]:
    """A test volume (``arr_0``) and its labels (``arr_1``), turned as the training slices are, with 1 mm voxels.

    Raises:
        CrossmodError: unreadable, an array missing, or arrays of different or wrong shapes.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            image, label = archive["arr_0"], archive["arr_1"]
    except Exception as error:  # a damaged archive raises whatever its damaged part brings about
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CrossmodError(f"{path} cannot be read ({reason}): copy or download it again") from error
    if image.ndim != 3 or image.shape != label.shape or not image.size or image.dtype.kind not in "fiu":
        raise CrossmodError(
            f"{path} holds an image of shape {image.shape} and labels of shape {label.shape}, not two equal volumes: "
            "copy or download it again"
        )
    turned = [np.flip(volume, (0, 1)).transpose(2, 0, 1) for volume in (image.astype(np.float32), _whole(label, path))]
    return _volume(turned[0]), _volume(turned[1])


def _array(record: dict[str, Feature], name: str, size: str, path: Path) -> NDArray[np.float32]:
    shape: tuple[Any, ...] = tuple(record.get(f"{size}{axis}") for axis in range(3))
    content = record.get(name)
    if not isinstance(content, bytes) or not all(isinstance(length, int) for length in shape):
        raise CrossmodError(f"{path} has no {name} with its {size}0 to {size}2: it is no file of this release")
    if shape[2] != 3 or min(shape) < 1 or len(content) != 4 * shape[0] * shape[1] * shape[2]:
        raise CrossmodError(f"{path}: {name} of {len(content)} bytes is not of size {shape}: download it again")
    return np.frombuffer(content, "<f4").reshape(shape).astype(np.float32)


def _whole(label: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    """Labels as integers."""
    if label.dtype.kind not in "fiu" or not np.all((label >= 0) & (label < 256) & (label == np.round(label))):
        raise CrossmodError(f"{path} has labels that are no whole numbers: copy or download it again")
    return label.astype(np.uint8)


def _volume(voxels: NDArray[Any]) -> sitk.Image:
    return sitk.GetImageFromArray(np.ascontiguousarray(voxels))
