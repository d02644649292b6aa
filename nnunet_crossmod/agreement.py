"""How far label maps of one scan agree, and which of their voxels to keep where no reference is at hand.

Label maps are integer arrays (*s) of one shape, 0 the background. Agreement is Dice, 2 |A ∩ B| / (|A| + |B|): 0 where a
structure is in one map alone, NaN where it is in neither.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.paths import read_json
from nnunet_crossmod.raw.image_files import read_image

__all__ = [
    "AGREEMENT",
    "NEW_SCANS",
    "PICTURE",
    "RECORD",
    "agreement",
    "dice",
    "kept_share",
    "kept_voxels",
    "largest_component",
    "least_agreed",
    "look_at_first",
    "majority",
    "pairwise_dice",
    "rank_correlation",
    "read_label_map",
    "rounds_of",
]

AGREEMENT, PICTURE = "agreement.csv", "kept.png"
"""What a round of self-training leaves: agreement per case and structure, and what was kept of the least agreed."""
RECORD = "self_training.json"
"""What is trained in which data sets, in the work folder of the self-training."""
NEW_SCANS = "new_scans.csv"
"""The same agreement for new scans, in the work folder of the self-training."""

LabelMap = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]


def dice(one: LabelMap, other: LabelMap, value: int) -> float:
    """Dice of one structure in two maps."""
    first, second = one == value, other == value
    size = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / size if size else float("nan")


def pairwise_dice(maps: Sequence[LabelMap], value: int) -> float:
    """Mean Dice of one structure over all pairs of maps in which it occurs; NaN where it occurs in none."""
    pairs = [dice(one, other, value) for one, other in combinations(maps, 2)]
    counted = [pair for pair in pairs if not np.isnan(pair)]
    return float(np.mean(counted)) if counted else float("nan")


def agreement(maps: Sequence[LabelMap], labels: Mapping[str, int]) -> dict[str, float]:
    """:func:`pairwise_dice` of every structure.

    Args:
        maps: two or more.
        labels: foreground structures, name → value.

    Raises:
        ValueError: fewer than two maps.
    """
    if len(maps) < 2:
        raise ValueError(f"agreement is between two label maps or more, got {len(maps)}")
    return {name: pairwise_dice(maps, value) for name, value in labels.items()}


def majority(maps: Sequence[LabelMap]) -> LabelMap:
    """The label that most maps give to a voxel, the smallest of them where several tie."""
    winner = np.zeros_like(maps[0])
    most = np.zeros(winner.shape, dtype=np.uint16)
    for value in sorted(set().union(*(np.unique(label_map).tolist() for label_map in maps))):
        votes = sum((label_map == value).astype(np.uint16) for label_map in maps)
        better = votes > most
        winner[better], most[better] = value, votes[better]
    return winner


def largest_component(mask: Mask) -> Mask:
    """The largest of the pieces that hang together by faces of voxels, the first of them where several tie."""
    pieces, number = ndimage.label(mask)
    if number < 2:
        return mask
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    largest: Mask = pieces == sizes.argmax()
    return largest


def kept_voxels(maps: Sequence[LabelMap], in_one_piece: Collection[int]) -> tuple[LabelMap, Mask]:
    """The majority's labels, and where to keep them.

    A voxel is kept where all maps agree, unless it is of a structure in one piece and outside its largest component.

    Args:
        maps: of one scan.
        in_one_piece: values of the structures that are one piece in every subject.

    Returns:
        labels (*s) and kept (*s), bool.
    """
    labels = majority(maps)
    kept: Mask = np.logical_and.reduce([label_map == labels for label_map in maps])
    for value in in_one_piece:
        structure = labels == value
        kept &= ~structure | largest_component(structure)
    return labels, kept


def kept_share(labels: LabelMap, kept: Mask, value: int) -> float:
    """Share of a structure's voxels that is kept; NaN where it does not occur."""
    structure = labels == value
    size = int(structure.sum())
    return int((kept & structure).sum()) / size if size else float("nan")


def least_agreed(table: pd.DataFrame) -> pd.Series[float]:
    """Mean agreement of every case over its structures, the least first.

    Args:
        table: one row per ``case`` and structure, with its ``agreement``; a case without any structure comes first.
    """
    return table.groupby("case")["agreement"].mean().sort_values(na_position="first")


def look_at_first(table: pd.DataFrame, most: int = 3) -> str:
    """The least agreed cases of such a table with their agreement, in words."""
    least = least_agreed(table).head(most)
    return ", ".join(f"{case} {'nothing found' if pd.isna(value) else f'{value:.3f}'}" for case, value in least.items())


def rank_correlation(one: pd.Series[float], other: pd.Series[float]) -> float:
    """Spearman's rank correlation over the cases that both know; NaN for fewer than three of them."""
    both = pd.concat([one, other], axis=1, join="inner").dropna()
    return float(both.iloc[:, 0].corr(both.iloc[:, 1], method="spearman")) if len(both) > 2 else float("nan")


def read_label_map(file: Path) -> LabelMap:
    """A predicted label map.

    Raises:
        CrossmodError: it is missing or damaged.
    """
    try:
        label_map: LabelMap = sitk.GetArrayFromImage(read_image(file))
    except CrossmodError as error:
        raise CrossmodError(f"{file} is missing or damaged: remove it, and run the same command again") from error
    return label_map


def rounds_of(work: Path, dataset: str) -> list[str]:
    """The pseudo-labelled data sets that the self-training of a data set in that folder made, or will make."""
    file = work / RECORD
    record = read_json(file, f"remove {work}") if file.is_file() else {}
    return list(record["pseudo_labelled"]) if record.get("dataset") == dataset else []
