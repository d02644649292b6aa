"""Real bSSFP → LGE: convert MS-CMRSeg, plan, then compare methods on the held-out patients and write the report.

    python benchmarks/mscmrseg.py -i FOLDER_WITH_patientN_C0.nii.gz [FOLDER_WITH_MORE_LGE …] --jobs 2

Every row sees the same number of labelled samples per step for the same number of steps; rows that are already trained
or predicted are not repeated. Scores are also printed by group: the development patients 1, 8, 17, 30 and 35, on which
settings may be chosen, and all others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ceilings import prepare, print_ceilings

from nnunet_crossmod.commands.arguments import check_numbers
from nnunet_crossmod.compare import Comparison, read_method, roles_of
from nnunet_crossmod.dataset_conversion import mscmrseg
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.nnunet_runs import use_folders
from nnunet_crossmod.paths import dataset_folder, device_of, read_json
from nnunet_crossmod.report import write_report

# GLUA's segmenter trains in the second half alone: twice the epochs give it as many iterations as the others
ROWS = [
    "SourceOnlyTrainer augmentation=nnunet",
    "SourceOnlyTrainer",
    "MeanTeacherTrainer target_batch_size=8",
    "AICLTrainer csc_weight=0 fpc_weight=0",
    "AICLTrainer",
    "AdvEntTrainer",
    "MPSCLTrainer",
    "EAMTrainer",
    "GLUATrainer num_epochs={twice}",
    "CISFATrainer",
]
DEVELOPMENT = {f"patient{number}_LGE" for number in (1, 8, 17, 30, 35)}


def main() -> None:
    """Prepare, compare, report."""
    parser = arguments(__doc__, ROWS, epochs=20, output="crossmod_benchmark")
    parser.add_argument(
        "-i", dest="input", type=Path, nargs="+", required=True, metavar="FOLDER", help="MS-CMRSeg files"
    )
    args = parser.parse_args()
    benchmark(args, 511, lambda: mscmrseg.convert(args.input, 511), development=DEVELOPMENT)


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
    methods = [read_method(row.format(twice=2 * args.epochs)) for row in args.rows]
    work, device = args.output / f"comparison_{args.epochs}x50", device_of(args.device)
    settings = {"num_epochs": args.epochs, **(settings or {})}
    how = {"seeds": args.seeds, "device": device, "mirroring": not args.disable_tta, "jobs": args.jobs}
    comparison = Comparison(dataset, "2d", methods, work, settings=settings, preset="cpu", **how)
    comparison.run(roles_of(methods))
    if development:
        dataset_json = read_json(dataset_folder("nnUNet_raw", dataset) / "dataset.json", "convert the data set again")
        print_groups(work, development, dataset_json["crossmod"]["target"])
        if args.ceilings:
            print_ceilings(dataset, development, work, settings, **how)
    print(f"report: {write_report(dataset, work, args.output / 'report.html', device=device)}")


def print_groups(work: Path, development: Collection[str], target: Sequence[str]) -> None:
    """Mean Dice of every row on source, development and other target scans: mean ± deviation over its runs."""
    scores = pd.read_csv(work / "scores.csv")
    on_target = scores["modality"].isin(target)
    groups = np.select([~on_target, scores["case"].isin(development)], ["source", "development"], "check")
    per_run = scores.assign(group=groups).groupby(["method", "group", "run"], sort=False)["dice"].mean()
    table = per_run.groupby(["method", "group"], sort=False).agg(["mean", "std"]).unstack("group")
    print(f"\nmean Dice over scans, mean and deviation over runs\n{table.round(3).to_string()}\n")


if __name__ == "__main__":
    try:
        main()
    except CrossmodError as error:
        sys.exit(f"Error: {error}")
