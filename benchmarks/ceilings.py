"""The ceilings of a real pair: networks that learn from labelled target scans, whose labels no other row sees.

Half of the labelled target scans are learnt from, the other half is predicted, and the reverse.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_crossmod.compare import Comparison, read_method, roles_of
from nnunet_crossmod.dataset_conversion.reuse import reuse_dataset
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.nnunet_runs import plan_and_preprocess
from nnunet_crossmod.paths import dataset_folder, read_json
from nnunet_crossmod.raw.block import CrossmodBlock

CEILINGS = ["TargetSupervisedTrainer augmentation=nnunet", "TargetSupervisedTrainer"]


def print_ceilings(
    dataset: int, development: Collection[str], work: Path, settings: Mapping[str, Any], **how: Any
) -> None:
    """Train them, where they are missing, and print their mean Dice on development and check scans.

    Args:
        dataset: id of the converted data set; two more, ten and twenty above, share its files.
        development: target scans among its test scans; the others are the check scans.
        work: gets predictions and tables.
        settings: hyper-parameters of all rows.
        how: ``seeds``, ``device``, ``mirroring`` and ``jobs`` of the :class:`Comparison`.
    """
    file = dataset_folder("nnUNet_raw", dataset) / "dataset.json"
    block = CrossmodBlock.from_dataset_json(read_json(file, "convert the data set again"), str(file))
    on_target = {name for name, case in block.test.items() if case.modality in block.target}
    halves = {"development": on_target & set(development), "check": on_target - set(development)}
    if not all(halves.values()):
        raise CrossmodError(f"ceilings need development and check scans, got {halves}: name the other folder with -i")
    means = []
    for number, (half, predicted) in enumerate(halves.items(), 1):
        other = dataset + 10 * number
        prepare(other, partial(reuse_dataset, dataset, other, block.source, block.target, test=sorted(predicted)), work)
        methods = [read_method(row) for row in CEILINGS]
        folder = work / f"ceilings_on_{half}"
        comparison = Comparison(other, "2d", methods, folder, folds=("all",), settings=settings, preset="cpu", **how)
        comparison.run(roles_of(methods))
        scores = pd.read_csv(folder / "scores.csv")
        scores = scores[scores["modality"].isin(block.target)].assign(scans=half)
        means.append(scores.groupby(["method", "scans", "run"], sort=False)["dice"].mean())
    table = pd.concat(means).groupby(["method", "scans"], sort=False).agg(["mean", "std"]).unstack("scans")
    print(f"\nmean Dice of networks that learnt from the labels of the other half\n{table.round(3).to_string()}\n")


def prepare(dataset: int, convert: Callable[[], Path], output: Path) -> None:
    """Convert, plan and preprocess, once."""
    try:
        raw = dataset_folder("nnUNet_raw", dataset)
    except CrossmodError:
        raw = convert()
    preprocessed = Path(os.environ["nnUNet_preprocessed"]) / raw.name  # noqa: SIM112 - nnU-Net's spelling
    if not (preprocessed / "gt_segmentations").is_dir():
        plan_and_preprocess(dataset, ["2d"], log=output / "plan_and_preprocess.log", verify=True)
