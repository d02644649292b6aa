"""``crossmod choose``: trained configurations compared without a label that training may not see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import load_summary_json

from nnunet_crossmod.data import CrossmodBlock
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.paths import read_json
from nnunet_crossmod.training.selection import Tally, balance, certainty, tally
from nnunet_crossmod.training.validation import HIDDEN, SEEN, case_of, mean_dice

__all__ = ["Figures", "figures_of"]


class Figures(NamedTuple):
    """What is known of a configuration: ``dice`` of the seen labels, and of the predictions of both modalities their
    ``certainty`` and ``balance``, NaN where the validation kept no probabilities."""

    configuration: str
    folds: tuple[int | str, ...]
    dice: float
    certainty: float
    balance: float

    @property
    def criterion(self) -> float:
        """Source Dice · certainty · balance."""
        return self.dice * self.certainty * self.balance


def figures_of(model: Path, folds: Sequence[int | str] | None = None) -> Figures:
    """The figures of a model's validation scans, those of all folds together.

    Args:
        model: folder ``TRAINER__PLANS__CONFIGURATION``.
        folds: which ones; ``None`` takes all that are validated but ``all``.

    Raises:
        CrossmodError: not a cross-modal model, a fold that is not validated, or validated by an earlier version.
    """
    dataset_json = read_json(model / "dataset.json", "is this the folder of a model?")
    block, ending = CrossmodBlock.from_dataset_json(dataset_json, str(model / "dataset.json")), _ending(dataset_json)
    if folds is None:
        summaries = sorted(model.glob(f"fold_*/{SEEN}*/summary.json"))
        validated = dict.fromkeys(file.parents[1].name.removeprefix("fold_") for file in summaries)
        folds = [int(fold) for fold in validated if fold != "all"]
    if not folds:
        raise CrossmodError(f"{model} has no fold with a validation: finish a training, or nnUNetv2_train … --val")
    cases: list[dict[str, Any]] = []
    sums: Tally | None = None
    complete = True
    for fold in folds:
        of_fold = _validated(model / f"fold_{fold}", block, ending)
        cases += of_fold
        for case in of_fold:
            path = Path(case["prediction_file"].removesuffix(ending) + ".npz")
            complete = complete and path.is_file()
            if complete:
                probabilities = torch.from_numpy(np.load(path)["probabilities"]).float()[None]
                counts = tally(probabilities, torch.tensor([block.is_target(case_of(case, ending))]))
                sums = counts.plus(sums)

    def seen(case: Any, label: int) -> bool:
        known = block.cases[case_of(case, ending)]
        return label in known.visible and not known.pseudo

    sure, even = (float(certainty(sums.doubt)), float(balance(sums.volumes))) if complete and sums else (math.nan,) * 2
    return Figures(model.name.split("__")[-1], tuple(folds), mean_dice(cases, seen), sure, even)


def _ending(dataset_json: Any) -> str:
    return str(dataset_json["file_ending"])


def _validated(fold: Path, block: CrossmodBlock, ending: str) -> list[dict[str, Any]]:
    """nnU-Net's metrics of a fold's validation scans."""
    cases = []
    for name in (SEEN, HIDDEN):
        summary = fold / name / "summary.json"
        if summary.is_file():
            for case in load_summary_json(str(summary))["metric_per_case"]:
                here = fold / name / Path(case["prediction_file"]).name  # wherever it was validated
                cases.append({**case, "prediction_file": str(here)})
    if not cases:
        raise CrossmodError(f"{fold} is not validated: finish its training, or run nnUNetv2_train … --val")
    for case in cases:
        name = case_of(case, ending)
        if name not in block.cases:
            raise CrossmodError(f"{fold} validated {name!r}, which its dataset.json does not name: validate it again")
    return cases
