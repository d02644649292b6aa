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
from contextlib import redirect_stdout
from pathlib import Path

from nnunet_crossmod.commands.arguments import add_json_argument, add_training_arguments, check_numbers
from nnunet_crossmod.paths import FINAL, check_output_folder
from nnunet_crossmod.plans import read_setting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``crossmod compare``."""
    add_training_arguments(parser, "every row")
    parser.add_argument(
        "-tr",
        dest="trainers",
        nargs="+",
        required=True,
        metavar="ROW",
        help='a trainer, or in quotes a trainer and its hyper-parameters: "AICLTrainer gin=source"',
    )
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
    parser.add_argument("--floor", metavar="ROW", help="lower end of the gap (SourceOnlyTrainer)")
    parser.add_argument("--ceiling", metavar="ROW", help="upper end of the gap (TargetSupervisedTrainer)")
    parser.add_argument("--against", metavar="ROW", help="row the others are tested against (the floor, or the first)")
    parser.add_argument("--tolerance", type=float, default=2.0, metavar="MM", help="of the surface Dice (2 mm)")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Carry out ``crossmod compare``."""
    settings = dict(map(read_setting, args.set))
    check_numbers(args.folds, args.seeds or (), args.jobs, args.tolerance)
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
