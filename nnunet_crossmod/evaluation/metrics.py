"""Agreement of predicted and reference label maps, case by case and structure by structure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import SimpleITK as sitk
import torch
from monai.metrics.meandice import compute_dice
from tqdm import tqdm

from nnunet_crossmod.errors import CrossmodError

__all__ = ["dice_per_structure", "evaluate_folder", "summarise"]


def dice_per_structure(
    prediction: np.ndarray, reference: np.ndarray, labels: Mapping[str, int], ignore: int | None = None
) -> dict[str, float]:
    """Dice of every structure of one case, over the whole volume.

    Args:
        prediction: label map, any shape.
        reference: label map of the same shape.
        labels: foreground structures, name → value.
        ignore: value of voxels in the reference that do not count.

    Returns:
        0 … 1; 0 where a structure is missed or invented, NaN where it is in neither map.
    """
    if ignore is not None:
        counted = reference != ignore
        prediction, reference = prediction[counted], reference[counted]
    masks = [
        torch.stack([torch.from_numpy(volume == value) for value in labels.values()])[None]
        for volume in (prediction, reference)
    ]
    dice = compute_dice(masks[0].float(), masks[1].float(), ignore_empty=False)[0]
    absent = ~(masks[0] | masks[1]).flatten(2).any(2)[0]
    return dict(zip(labels, dice.masked_fill(absent, torch.nan).tolist(), strict=True))


def evaluate_folder(
    predictions: Path,
    references: Path,
    labels: Mapping[str, int],
    modalities: Mapping[str, str],
    ending: str = ".nii.gz",
    ignore: int | None = None,
) -> pd.DataFrame:
    """Compare every predicted case with its reference.

    Args:
        predictions: folder of predicted label maps.
        references: folder of reference label maps under the same names; predictions without one are passed over.
        labels: foreground structures, name → value.
        modalities: case → modality; cases that are not listed get an empty name.
        ending: of the files.
        ignore: value of voxels in the references that do not count.

    Returns:
        one row a case and structure: ``case``, ``modality``, ``structure``, ``dice``.

    Raises:
        CrossmodError: no case in common, a reference without prediction, or grids that differ.
    """
    predicted, expected = (
        {path.name.removesuffix(ending): path for path in sorted(folder.glob(f"*{ending}"))}
        for folder in (predictions, references)
    )
    if not set(predicted) & set(expected):
        raise CrossmodError(
            f"{predictions} and {references} have no case in common: give folders with equal file names"
        )
    if missing := sorted(set(expected) - set(predicted)):
        raise CrossmodError(f"{references / (missing[0] + ending)} has no prediction in {predictions}: predict it, too")
    rows = []
    for case in tqdm(sorted(expected), desc="evaluate", unit="case", disable=None):
        prediction, reference = (sitk.ReadImage(str(files[case])) for files in (predicted, expected))
        if prediction.GetSize() != reference.GetSize():
            raise CrossmodError(
                f"{predicted[case]} has size {prediction.GetSize()}, but {expected[case]} has {reference.GetSize()}: "
                "predict the same scan"
            )
        scores = dice_per_structure(
            sitk.GetArrayFromImage(prediction), sitk.GetArrayFromImage(reference), labels, ignore
        )
        rows += [
            {"case": case, "modality": modalities.get(case, ""), "structure": name, "dice": dice}
            for name, dice in scores.items()
        ]
    return cast("pd.DataFrame", pd.DataFrame(rows))


def summarise(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean Dice over cases: one row a modality, one column a structure, and their mean."""
    table: pd.DataFrame = scores.pivot_table(
        index="modality", columns="structure", values="dice", aggfunc="mean", sort=False
    )
    table["mean"] = table.mean(axis=1)
    table.insert(0, "cases", scores.groupby("modality")["case"].nunique())
    return table
