"""Label maps in the values of the data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_crossmod.errors import CrossmodError

__all__ = ["map_labels"]


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
    voxels = sitk.GetArrayViewFromImage(label)
    low, high = voxels.min(), voxels.max()
    if low == high == 0 and not may_be_empty:
        raise CrossmodError(
            f"{where} is empty, it labels no voxel: correct the file, or remove it to leave it unlabelled"
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
            "correct the file, or add them to the label table"
        )
    table: NDArray[np.uint8] = np.zeros(int(places[-1]) + 1, dtype=np.uint8)
    table[places] = [values[int(value)] for value in present]
    return np.asarray(table[index].reshape(voxels.shape))


def _brief(values: Iterable[int]) -> str:
    """Numbers in a list, runs of them as ``56-70``."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return f"[{', '.join(f'{r[0]}-{r[-1]}' if len(r) > 2 else ', '.join(map(str, r)) for r in runs)}]"
