"""Which files a raw data set is made of, whether they lie in its own folder or are named in ``dataset.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.raw.block import CrossmodBlock, entry_of
from nnunet_crossmod.raw.image_files import check_same_grid, read_image
from nnunet_crossmod.raw.modality_channel import CHANNEL_NAME

__all__ = ["CaseFiles", "cases_of", "raw_files", "read_case"]


@dataclass(frozen=True)
class CaseFiles:
    """The files of a case: one image per channel, and its label map, None where a test case has none."""

    images: tuple[Path, ...]
    label: Path | None


def cases_of(folder: Path, ending: str) -> set[str]:
    """The cases whose channels lie in a folder, as nnU-Net finds them."""
    matches = (CHANNEL_NAME.fullmatch(file.name.removesuffix(ending)) for file in folder.glob(f"*{ending}"))
    return {match["case"] for match in matches if match}


def raw_files(folder: Path, dataset_json: Mapping[str, Any]) -> dict[str, CaseFiles]:
    """The files of every case of the ``"crossmod"`` block, those of ``imagesTs`` included.

    Args:
        folder: the raw data set.
        dataset_json: the content of its ``dataset.json``.

    Raises:
        CrossmodError: a case of the block is without an image or, in training, without a label file.
    """
    where = str(folder / "dataset.json")
    block = CrossmodBlock.from_dataset_json(dataset_json, where)
    ending = entry_of(dataset_json, "file_ending", where)
    channels = len(entry_of(dataset_json, "channel_names", where))
    listed = dataset_json.get("dataset", {})
    files = {}
    for name in (*block.cases, *block.test):
        part = "Ts" if name in block.test else "Tr"
        if part == "Tr" and name in listed:
            images = tuple((folder / image).resolve() for image in listed[name]["images"])
            label = (folder / listed[name]["label"]).resolve()
        else:
            images = tuple(folder / f"images{part}" / f"{name}_{channel:04d}{ending}" for channel in range(channels))
            label = folder / f"labels{part}" / f"{name}{ending}"
        missing = [file for file in (*images, *([label] if part == "Tr" else [])) if not file.is_file()]
        if missing:
            raise CrossmodError(f"case {name!r}: {missing[0]} does not exist: convert the data set again")
        files[name] = CaseFiles(images, label if label.is_file() else None)
    return files


def read_case(files: CaseFiles) -> tuple[sitk.Image, NDArray[np.uint8] | None]:
    """The first image channel of a case and its label map (z, y, x), if it has one.

    Raises:
        CrossmodError: an unreadable file, or an image and a label on different grids.
    """
    image = read_image(files.images[0])
    if files.label is None:
        return image, None
    label = read_image(files.label)
    check_same_grid(image, label, str(files.images[0]), str(files.label))
    return image, sitk.GetArrayFromImage(label).astype(np.uint8)
