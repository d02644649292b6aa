"""What comparisons on a pair of modalities share: their arguments, their rows' training, their tables.

Every row sees the same number of labelled samples per step for the same number of steps; rows that are already trained
or predicted are not repeated. Where some target scans are for development, scores are also printed by group: those, on
which settings may be chosen, and all others, the check scans.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nnunet_crossmod.commands.arguments import check_numbers
from nnunet_crossmod.compare import Comparison, read_method, roles_of
from nnunet_crossmod.dataset_conversion.reuse import reuse_dataset
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.nnunet_runs import plan_and_preprocess, use_folders
from nnunet_crossmod.paths import dataset_folder, device_of, read_json
from nnunet_crossmod.raw.block import CrossmodBlock
from nnunet_crossmod.report import write_report

CEILINGS = ["TargetSupervisedTrainer augmentation=nnunet", "TargetSupervisedTrainer"]


def arguments(
    description: str | None, rows: Sequence[str], epochs: int, output: str, *, groups: bool = True
) -> argparse.ArgumentParser:
    """What every comparison takes; ``groups``: what one with development and check scans takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", dest="output", type=Path, default=Path(output), help=f"work folder ({output})")
    parser.add_argument("-tr", dest="rows", nargs="+", default=rows, metavar="ROW", help="; ".join(rows))
    parser.add_argument("--epochs", type=int, default=epochs, help=f"of 50 iterations each (default {epochs})")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="models trained side by side (1)")
    parser.add_argument("--disable_tta", action="store_true", help="predict without mirroring")
    if groups:
        explained = "also learn from the labels of the development scans for the check scans, and the reverse"
        parser.add_argument("--ceilings", action="store_true", help=explained)
    parser.add_argument("-device", default="cpu", choices=["auto", "cpu", "cuda", "mps"])
    return parser


def benchmark(
    args: argparse.Namespace,
    dataset: int,
    convert: Callable[[], Path],
    settings: Mapping[str, Any] | None = None,
    development: Collection[str] = (),
) -> None:
    """Prepare what is missing, compare, report; ``development`` names the target scans on which settings are chosen."""
    check_numbers([0], args.seeds, args.jobs)
    args.output.mkdir(parents=True, exist_ok=True)
    use_folders(args.output)
    prepare(dataset, convert, args.output)
    halves = halves_of(dataset, development) if development and args.ceilings else {}
    methods = [read_method(row.format(twice=2 * args.epochs)) for row in args.rows]
    work, device = args.output / f"comparison_{args.epochs}x50", device_of(args.device)
    settings = {"num_epochs": args.epochs, **(settings or {})}
    how = {"seeds": args.seeds, "device": device, "mirroring": not args.disable_tta, "jobs": args.jobs}
    comparison = Comparison(dataset, "2d", methods, work, settings=settings, preset="cpu", **how)
    comparison.run(roles_of(methods))
    if development:
        print_groups(dataset, work, development)
    if halves:
        print_ceilings(dataset, halves, work, settings, **how)
    print(f"report: {write_report(dataset, work, args.output / 'report.html', device=device)}")


def prepare(dataset: int, convert: Callable[[], Path], output: Path) -> None:
    """Convert, plan and preprocess, once."""
    try:
        raw = dataset_folder("nnUNet_raw", dataset)
    except CrossmodError:
        raw = convert()
    preprocessed = Path(os.environ["nnUNet_preprocessed"]) / raw.name  # noqa: SIM112 - nnU-Net's spelling
    if not (preprocessed / "gt_segmentations").is_dir():
        plan_and_preprocess(dataset, ["2d"], log=output / "plan_and_preprocess.log", verify=True)


def read_block(dataset: int) -> CrossmodBlock:
    """The crossmod block of a converted data set."""
    file = dataset_folder("nnUNet_raw", dataset) / "dataset.json"
    return CrossmodBlock.from_dataset_json(read_json(file, "convert the data set again"), str(file))


def print_groups(dataset: int, work: Path, development: Collection[str]) -> None:
    """Mean Dice of every row on source, development and other target scans: mean ± deviation over its runs."""
    scores = pd.read_csv(work / "scores.csv")
    on_target = scores["modality"].isin(read_block(dataset).target)
    groups = np.select([~on_target, scores["case"].isin(development)], ["source", "development"], "check")
    per_run = scores.assign(group=groups).groupby(["method", "group", "run"], sort=False)["dice"].mean()
    table = per_run.groupby(["method", "group"], sort=False).agg(["mean", "std"]).unstack("group")
    print(f"\nmean Dice over scans, mean and deviation over runs\n{table.round(3).to_string()}\n")


def halves_of(dataset: int, development: Collection[str]) -> dict[str, list[str]]:
    """The labelled target scans among the test scans, those of development and the others: a ceiling learns from one
    half for the other.

    Raises:
        CrossmodError: one of them is empty.
    """
    block = read_block(dataset)
    on_target = {name for name, case in block.test.items() if case.modality in block.target}
    halves = {"development": sorted(on_target & set(development)), "check": sorted(on_target - set(development))}
    if empty := [half for half, names in halves.items() if not names]:
        raise CrossmodError(f"--ceilings: there is no {empty[0]} scan: name the folder that holds them with -i too")
    return halves


def print_ceilings(
    dataset: int, halves: Mapping[str, Sequence[str]], work: Path, settings: Mapping[str, Any], **how: Any
) -> None:
    """Train on one half of the labelled target scans, whose labels no other row sees, and predict the other half.

    Args:
        dataset: id of the converted data set; two more, ten and twenty above, share its files.
        halves: :func:`halves_of`.
        work: gets predictions and tables.
        settings: hyper-parameters of all rows.
        how: ``seeds``, ``device``, ``mirroring`` and ``jobs`` of the :class:`Comparison`.
    """
    block = read_block(dataset)
    methods = [read_method(row) for row in CEILINGS]
    means = []
    for number, (half, predicted) in enumerate(halves.items(), 1):
        other = dataset + 10 * number
        prepare(other, partial(reuse_dataset, dataset, other, block.source, block.target, test=list(predicted)), work)
        folder = work / f"ceilings_on_{half}"
        comparison = Comparison(other, "2d", methods, folder, folds=("all",), settings=settings, preset="cpu", **how)
        comparison.run(roles_of(methods))
        scores = pd.read_csv(folder / "scores.csv")
        scores = scores[scores["modality"].isin(block.target)].assign(scans=half)
        means.append(scores.groupby(["method", "scans", "run"], sort=False)["dice"].mean())
    table = pd.concat(means).groupby(["method", "scans"], sort=False).agg(["mean", "std"]).unstack("scans")
    print(f"\nmean Dice of networks that learnt from the labels of the other half\n{table.round(3).to_string()}\n")
