"""Dice, HD95, ASSD (mm) and normalised surface Dice of every case and structure, and their mean ± standard
deviation per modality. A structure that is missed or invented counts with Dice 0 and the image's diagonal.
Definitions stand in summary.json.

  crossmod evaluate -d 511 -p out/ -g labels/ -o metrics/
  crossmod evaluate -p other_tool/ -g labels/ -l Myo=1 LV=2 RV=3 -m LGE
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_crossmod.commands.arguments import add_json_argument
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.paths import check_output_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``crossmod evaluate``."""
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("-d", dest="dataset_id", metavar="DATASET", help="data set, id or name: labels and modalities")
    data.add_argument(
        "-l", dest="labels", nargs="+", metavar="LABEL", help="without a data set: NAME=VALUE …, or a JSON file of them"
    )
    parser.add_argument("-p", dest="predictions", type=Path, required=True, metavar="FOLDER", help="predictions")
    parser.add_argument("-g", dest="references", type=Path, required=True, metavar="FOLDER", help="labels")
    parser.add_argument("-o", dest="output", type=Path, metavar="FOLDER", help="for metrics.csv, summary.json")
    parser.add_argument(
        "-m",
        dest="modality",
        default="",
        metavar="MODALITY",
        help="with -d: cases of this modality only; with -l: modality of all cases",
    )
    parser.add_argument("-s", dest="structures", nargs="+", metavar="NAME", help="these structures only")
    parser.add_argument("-np", dest="processes", type=int, metavar="N", help="processes (by the number of cases)")
    parser.add_argument("--tolerance", type=float, default=2.0, metavar="MM", help="of the surface Dice (2 mm)")
    parser.add_argument("--ending", metavar="ENDING", help="of the files (the data set's, or .nii.gz)")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Carry out ``crossmod evaluate``."""
    if not args.tolerance > 0:
        raise CrossmodError(f"--tolerance {args.tolerance} must be above 0 mm")
    if args.processes is not None and args.processes < 1:
        raise CrossmodError(f"-np {args.processes} must be 1 or more")
    if args.output is not None:
        check_output_folder(args.output)
    for flag, folder in (("-p", args.predictions), ("-g", args.references)):
        if not folder.is_dir():
            raise CrossmodError(f"{flag} {folder} is no folder: check the path")

    from nnunet_crossmod.evaluation import as_json, evaluate_folder, printed, write_evaluation
    from nnunet_crossmod.evaluation.structures import check_references, of_dataset, of_words

    known = of_dataset(args.dataset_id) if args.dataset_id is not None else of_words(args.labels, args.modality)
    known.check_modality(args.modality)
    check_references(args.references)
    scores = evaluate_folder(
        args.predictions,
        args.references,
        known.chosen(args.structures),
        known.modalities,
        args.ending or known.ending,
        known.ignore,
        tolerance=args.tolerance,
        processes=args.processes,
        known=None if args.dataset_id is None else known.labels.values(),
        only=args.modality,
    )
    if args.output is not None:
        write_evaluation(scores, args.output, args.tolerance)
    if args.json:
        print(as_json(scores, args.tolerance))
        return
    print(printed(scores, args.tolerance))
    if args.dataset_id is not None:
        print(f"Next: crossmod compare -d {args.dataset_id} -c 2d -tr SourceOnlyTrainer MeanTeacherTrainer")
