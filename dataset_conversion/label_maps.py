"""Label maps in the values of the data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.raw.image_files import whole_numbers

__all__ = ["check_segment_names", "map_labels"]


def map_labels(
    label: sitk.Image, values: Mapping[int, int], where: str, may_be_empty: bool = False
) -> NDArray[np.uint8]:
    """Give a label map the values of the data set.

    Args:
        label: the label map as it is in its file.
        values: value in the file → value in the data set.
        where: the file, for messages.
        may_be_empty: whether a map without any label is in order.

    Returns:
        The label map (z, y, x).

    Raises:
        CrossmodError: a value that ``values`` lacks, or a map without any label.
    """
    voxels = whole_numbers(sitk.GetArrayViewFromImage(label))
    low, high = voxels.min(), voxels.max()
    if low == high == 0 and values.get(0) == 0 and not may_be_empty:
        raise CrossmodError(
            f"{where} is empty, it labels no voxel: correct the file, remove it to leave it unlabelled, or add "
            "--allow-empty if the scan shows none of the structures"
        )
    if np.issubdtype(voxels.dtype, np.integer) and low >= -(2**15) and high < 2**16:
        # Whole volumes of CT: a look-up takes seconds where sorting all voxels takes minutes.
        index = voxels.astype(np.int32) - np.int32(low)
        places = np.flatnonzero(np.bincount(index.ravel()))
        present = places + int(low)
    else:
        present, index = np.unique(voxels, return_inverse=True)
        places = np.arange(len(present))
    unknown = [value for value in present.tolist() if value not in values]
    if unknown:
        listed = f"{unknown[:10]}{f' and {len(unknown) - 10} more' if len(unknown) > 10 else ''}"
        raise CrossmodError(
            f"{where} holds the values {listed}, which are no labels of this data set; known are {_brief(values)}: "
            "correct the file, or name them in crossmod convert folders with --labels (--ignore where nobody annotated)"
        )
    table: NDArray[np.uint8] = np.zeros(int(places[-1]) + 1, dtype=np.uint8)
    table[places] = [values[int(value)] for value in present]
    return np.asarray(table[index].reshape(voxels.shape))


def check_segment_names(label: sitk.Image, structures: Mapping[int, str], where: str) -> None:
    """Compare the names that 3D Slicer gives the values of a segmentation with those of the data set.

    Slicer numbers the segments of every file anew, so a value may mean another structure in the next file.

    Args:
        label: the label map as it is in its file.
        structures: value in the file → structure.
        where: the file, for messages.

    Raises:
        CrossmodError: a value is named as another structure of the data set.
    """
    value_of = {name.lower(): value for value, name in structures.items()}
    for number in range(len(structures) + 1):
        name, value = (
            label.GetMetaData(key) if label.HasMetaDataKey(key) else ""
            for key in (f"Segment{number}_Name", f"Segment{number}_LabelValue")
        )
        meant = value_of.get(name.lower())
        if meant is not None and value.isdecimal() and structures.get(int(value), "").lower() != name.lower():
            raise CrossmodError(
                f"{where} calls the value {value} {name!r}, but {name}={meant} was given with --labels: export the "
                "segmentations with one numbering"
            )


def _brief(values: Iterable[int]) -> str:
    """Numbers in a list, runs of them as ``56-70``."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return f"[{', '.join(f'{r[0]}-{r[-1]}' if len(r) > 2 else ', '.join(map(str, r)) for r in runs)}]"
