"""Train what is missing, predict the test scans (imagesTs, labelsTs), evaluate, and print the methods in one
table: mean over scans ± standard deviation over seeds, share of the gap between floor and
ceiling closed, paired Wilcoxon tests. Run it again to go on where it stopped. Writes table.md,
table.csv, table.tex, scans.csv and scores.csv. A model that fails does not stop the others; the exit code says so.

  crossmod compare -d 520 -c 2d -tr SourceOnlyTrainer AICLTrainer TargetSupervisedTrainer
  crossmod compare -d 511 -c 2d --seeds 0 1 2 -tr SourceOnlyTrainer "AICLTrainer fpc_weight=0.05"
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from nnunet_crossmod.commands.arguments import FINAL, add_device_argument, add_json_argument, fold
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.paths import check_output_folder
from nnunet_crossmod.plans import read_setting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``crossmod compare``."""
    parser.add_argument("-d", dest="dataset", required=True, metavar="DATASET", help="data set, id or name")
    parser.add_argument("-c", dest="configuration", required=True, metavar="CONFIGURATION", help="2d, 3d_fullres, …")
    parser.add_argument(
        "-f", dest="folds", type=fold, nargs="+", default=[0], metavar="FOLD", help="folds, or all (default: 0)"
    )
    parser.add_argument(
        "-tr",
        dest="trainers",
        nargs="+",
        required=True,
        metavar="ROW",
        help='a trainer, or in quotes a trainer and its hyper-parameters: "AICLTrainer gin=source"',
    )
    parser.add_argument("-p", dest="plans", default="nnUNetPlans", metavar="PLANS", help="plans (nnUNetPlans)")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="train every row with each; three or more")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="hyper-parameters of all rows"
    )
    parser.add_argument("--preset", choices=["cpu"], help="cpu: network, batch and schedule for two cores and minutes")
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        default=Path("crossmod_compare"),
        metavar="FOLDER",
        help="work folder (crossmod_compare)",
    )
    parser.add_argument(
        "-chk",
        dest="checkpoint",
        default=FINAL,
        metavar="FILE",
        help="checkpoint that predicts (checkpoint_final.pth)",
    )
    add_device_argument(parser)
    parser.add_argument("--disable_tta", action="store_true", help="predict without mirroring, as nnU-Net's flag")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="models trained side by side, sharing the cores (1)"
    )
    parser.add_argument("--floor", metavar="ROW", help="lower end of the gap (SourceOnlyTrainer)")
    parser.add_argument("--ceiling", metavar="ROW", help="upper end of the gap (TargetSupervisedTrainer)")
    parser.add_argument("--against", metavar="ROW", help="row the others are tested against (the floor, or the first)")
    parser.add_argument("--tolerance", type=float, default=2.0, metavar="MM", help="of the surface Dice (2 mm)")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Carry out ``crossmod compare``."""
    settings = dict(map(read_setting, args.set))
    check_numbers(args.folds, args.seeds or (), args.tolerance, args.jobs)
    check_output_folder(args.output)

    from nnunet_crossmod.compare import Comparison, read_method, roles_of

    methods = [read_method(text) for text in args.trainers]
    comparison = Comparison(
        args.dataset,
        args.configuration,
        methods,
        args.output,
        args.plans,
        args.folds,
        args.seeds or (None,),
        settings,
        args.preset,
        args.checkpoint,
        args.device,
        not args.disable_tta,
        args.tolerance,
        args.jobs,
    )
    with redirect_stdout(sys.stderr if args.json else sys.stdout):
        table = comparison.run(roles_of(methods, args.floor, args.ceiling, args.against))
    if args.json:
        print(table.to_json(orient="records", indent=2, force_ascii=False))
        return 0
    print(f"Next: crossmod report -d {args.dataset} -i {args.output} -o report.html")
    return 0


def check_numbers(folds: Sequence[int | str], seeds: Sequence[int], tolerance: float, jobs: int) -> None:
    """Raise :class:`CrossmodError` for what no comparison can use."""
    for seed in seeds:
        if seed < 0:
            raise CrossmodError(f"--seeds {seed} is negative: give numbers from 0")
    for flag, values in (("--seeds", seeds), ("-f", folds)):
        if len(set(values)) < len(values):
            raise CrossmodError(f"{flag} {' '.join(map(str, values))} names one twice: name each once")
    if jobs < 1:
        raise CrossmodError(f"--jobs {jobs} must be 1 or more")
    if not tolerance > 0:
        raise CrossmodError(f"--tolerance {tolerance} must be above 0 mm")
