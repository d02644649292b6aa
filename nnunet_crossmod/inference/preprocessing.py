"""nnU-Net's preprocessing of a scan, with the modality channel made in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_crossmod.raw.image_files import read_channels
from nnunet_crossmod.raw.modality_channel import fill_box

__all__ = ["Recipe", "preprocess", "read_case"]


class Recipe(NamedTuple):
    """nnU-Net's description of a model, which goes along to other processes."""

    plans: Any
    configuration: Any
    dataset_json: dict[str, Any]


def preprocess(
    voxels: NDArray[np.float32], properties: dict[str, Any], index: int, recipe: Recipe
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """nnU-Net's preprocessing of image channels (c, *s), with the modality channel as the last."""
    channel = fill_box(list(voxels), index).astype(np.float32)
    data, _, properties = recipe.configuration.preprocessor_class(verbose=False).run_case_npy(
        np.concatenate((voxels, channel[None])),
        None,
        properties,
        recipe.plans,
        recipe.configuration,
        recipe.dataset_json,
    )
    return np.ascontiguousarray(data, dtype=np.float32), properties


def read_case(
    files: Sequence[Path], index: int, recipe: Recipe, case: str
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Check the files as ``crossmod modality-channel`` does, then read and preprocess them as nnU-Net does."""
    readings = read_channels(files, case)
    with TemporaryDirectory() as folder:
        # What nnU-Net's reader would see otherwise is written anew for it.
        copies = [
            Path(folder, f"{number}.nii.gz") if reading.notes else None for number, reading in enumerate(readings)
        ]
        for (image, _), copy in zip(readings, copies, strict=True):
            if copy is not None:
                sitk.WriteImage(image, str(copy))
        del readings, image
        paths = [str(copy or file) for copy, file in zip(copies, files, strict=True)]
        voxels, properties = recipe.plans.image_reader_writer_class().read_images(paths)
    return preprocess(voxels, properties, index, recipe)
