"""The modality channel: the last input channel, which tells the network what kind of scan it is looking at."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.raw.block import CrossmodBlock
from nnunet_crossmod.raw.image_files import check_same_grid, is_all_zero

__all__ = ["CHANNEL_NAME", "add_modality_channel", "channel_file", "fill_box", "modality_channel"]

CHANNEL_NAME = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
"""The name of a channel's file without its ending, as nnU-Net wants it."""


def channel_file(case: str, channel: int, ending: str) -> str:
    """The name of the file that holds one channel of a case: ``case_0001.nii.gz``."""
    return f"{case}_{channel:04d}{ending}"


def fill_box(images: Sequence[NDArray[Any]], index: int) -> NDArray[np.uint8]:
    """The modality channel of arrays.

    Args:
        images: channels of a scan, each (*s), not all of them zero everywhere.
        index: position of its modality in the block's ``modalities``, from 0.

    Returns:
        (*s): ``index + 1`` inside the bounding box of what is non-zero in any channel, 0 outside.
    """
    nonzero = np.zeros(images[0].shape, dtype=bool)
    for image in images:
        nonzero |= image != 0
    box = []
    for axis in range(nonzero.ndim):
        occupied = np.flatnonzero(nonzero.any(axis=tuple(other for other in range(nonzero.ndim) if other != axis)))
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    values = np.zeros(nonzero.shape, dtype=np.uint8)
    values[tuple(box)] = index + 1
    return values


def add_modality_channel(
    image: NDArray[Any], modality: str, dataset: Mapping[str, Any] | CrossmodBlock
) -> NDArray[np.float32]:
    """A scan with its modality channel, as a network of this package reads it.

    Args:
        image: the channels of a scan (c, *s).
        modality: what it is, one of the block's modalities.
        dataset: the content of the ``dataset.json`` that the model was trained on, or its block.

    Returns:
        (c + 1, *s): the channels, then the modality channel.

    Raises:
        CrossmodError: an unknown modality, a ``dataset.json`` without a block, an array without channels, or one that
            is zero everywhere.
    """
    block = dataset if isinstance(dataset, CrossmodBlock) else CrossmodBlock.from_dataset_json(dataset)
    if modality not in block.modalities:
        raise CrossmodError(f"modality {modality!r} is not one of {list(block.modalities)}: name one of these")
    if image.ndim < 3:
        raise CrossmodError(f"a scan of shape {image.shape} has no channel axis: pass (channels, …, height, width)")
    if not np.any(image):
        raise CrossmodError("the image is all zero and has no bounding box: take the scan out, or export it again")
    channel = fill_box(list(image), block.modalities.index(modality))
    return np.concatenate([image.astype(np.float32), channel[None].astype(np.float32)])


def modality_channel(image: sitk.Image, index: int, like: Sequence[sitk.Image] = ()) -> sitk.Image:
    """The modality channel of a scan.

    It is zero outside the bounding box of the non-zero voxels, so nnU-Net, which crops to what is non-zero in any
    channel, crops as it would without it.

    Args:
        image: the scan, 3D.
        index: position of its modality in the block's ``modalities``, from 0.
        like: further images on the same grid whose boxes are joined with the scan's: its other channels, or the
            registered scans of the same subject, which nnU-Net must crop alike.

    Returns:
        A uint8 image with the geometry of ``image``: ``index + 1`` inside the box and 0 outside.

    Raises:
        CrossmodError: all voxels of ``image`` are zero, or an image of ``like`` lies on another grid.
    """
    if is_all_zero(image):
        raise CrossmodError("the image is all zero and has no bounding box: take the scan out, or export it again")
    for other in like:
        check_same_grid(image, other, "the image", "an image of the same subject")
    values = fill_box([sitk.GetArrayViewFromImage(member) for member in (image, *like)], index)
    channel = sitk.GetImageFromArray(values)
    channel.CopyInformation(image)
    return channel
