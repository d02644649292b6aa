"""Self-training in rounds: train several models (seeds, folds or checkpoints), let them label the
target's training scans that have no annotation, keep the voxels on which all of them agree (of every
structure the largest piece; the rest becomes nnU-Net's ignore label), write these pseudo-labels as a data
set of its own, train on it, and so on, until two rounds agree. No target label is read. Run it again to go
on where it stopped, or with -i and -o to predict new scans by all models of the last round.

  crossmod self-train -d 511 -c 2d -tr MeanTeacherTrainer --rounds 2 --seeds 0 1 2
  crossmod self-train -d 511 -c 2d --first SourceOnlyTrainer -tr "MeanTeacherTrainer teacher=false" --seeds 0 1 2
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_crossmod.commands.arguments import add_training_arguments, check_numbers
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.paths import FINAL, check_output_folder, device_of, write_whole
from nnunet_crossmod.plans import read_setting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``crossmod self-train``."""
    add_training_arguments(parser, "every model")
    parser.add_argument(
        "-tr",
        dest="trainer",
        required=True,
        metavar="TRAINER",
        help='trainer that learns from pseudo-labels, or in quotes with hyper-parameters: "JointTrainer gin=source"',
    )
    parser.add_argument(
        "--first", metavar="TRAINER", help="trainer of the models that give the first pseudo-labels (that of -tr)"
    )
    parser.add_argument(
        "-chk",
        dest="checkpoints",
        nargs="+",
        default=[FINAL],
        metavar="FILE",
        help="checkpoints of every training, each a model (checkpoint_final.pth)",
    )
    parser.add_argument(
        "--rounds", type=int, default=1, metavar="N", help="how often to train on pseudo-labels, at most (1)"
    )
    parser.add_argument(
        "--until", type=float, default=0.98, metavar="DICE", help="agreement of two rounds that ends them (0.98)"
    )
    parser.add_argument(
        "--in-pieces",
        nargs="+",
        default=[],
        metavar="STRUCTURE",
        help="structures of which more than the largest piece is kept, as vertebrae; all: every structure",
    )
    parser.add_argument(
        "--out-id", type=int, metavar="ID", help="of the first pseudo-labelled data set (the next that is free)"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("crossmod_self_train"),
        metavar="FOLDER",
        help="gets predictions, tables and pictures (crossmod_self_train)",
    )
    parser.add_argument("-i", dest="input", type=Path, metavar="FOLDER", help="new scans, to predict at the end")
    parser.add_argument("-o", dest="output", type=Path, metavar="FOLDER", help="gets their label maps")
    parser.add_argument(
        "-m",
        dest="modality",
        nargs="+",
        metavar="MODALITY",
        help="of the new scans, as for crossmod predict (the target)",
    )


def run(args: argparse.Namespace) -> None:
    """Carry out ``crossmod self-train``."""
    settings = dict(map(read_setting, args.set))
    _check(args)

    from nnunet_crossmod.agreement import NEW_SCANS, look_at_first
    from nnunet_crossmod.compare import Comparison, read_method
    from nnunet_crossmod.ensemble import Member, predict_by_all
    from nnunet_crossmod.inference.scans import assign_modalities, find_cases
    from nnunet_crossmod.pseudo_dataset import BaseDataset
    from nnunet_crossmod.self_training import SelfTraining

    base = BaseDataset.read(args.dataset)
    pieces = list(base.block.labels) if args.in_pieces == ["all"] else args.in_pieces
    cases, modalities = {}, {}
    if args.input is not None:
        words = args.modality or base.block.target
        if args.modality is None and len(words) > 1:
            raise CrossmodError(f"-i {args.input}: of which modality are its scans? Add -m, one of {', '.join(words)}")
        cases = find_cases(args.input, base.ending, len(base.dataset_json["channel_names"]) - 1)
        modalities = assign_modalities(words, cases, base.block.modalities, base.raw.name)
    device = device_of(args.device)
    training = Comparison(
        base.raw.name,
        args.configuration,
        [read_method(args.trainer)],
        args.work,
        args.plans,
        args.folds,
        args.seeds or (None,),
        settings,
        args.preset,
        device=device,
        mirroring=not args.disable_tta,
        jobs=args.jobs,
    )
    first = read_method(args.first or args.trainer)
    models = SelfTraining(training, first, args.checkpoints, args.rounds, args.until, pieces, args.out_id).run()
    print("\nModels of the last round:")
    for model in models:
        print(f"  {model.run.results / model.checkpoint}")
    if args.input is None:
        print("New scans by all of them: the same command with -i SCANS -o OUTPUT")
    else:
        members = [Member(model.run.results.parent, model.run.fold, model.checkpoint) for model in models]
        table = predict_by_all(members, cases, modalities, args.output, device=device, mirroring=not args.disable_tta)
        write_whole(args.work / NEW_SCANS, table.to_csv(index=False))
        print(f"{args.output}: {len(cases)} cases predicted, agreement in agreement.csv; least: {look_at_first(table)}")
        print(f"With reference labels: crossmod evaluate -d {args.dataset} -p {args.output} -g LABELS")
    print(f"Next: crossmod report -d {args.dataset} -i {args.work}")


def _check(args: argparse.Namespace) -> None:
    check_numbers(args.folds, args.seeds or (), args.jobs)
    if len(set(args.checkpoints)) < len(args.checkpoints):
        raise CrossmodError(f"-chk {' '.join(args.checkpoints)} names one twice: name each once")
    if args.rounds < 1:
        raise CrossmodError(f"--rounds {args.rounds} must be 1 or more")
    if not 0 < args.until <= 1:
        raise CrossmodError(f"--until {args.until} must be above 0 and at most 1")
    if args.out_id is not None and not 1 <= args.out_id <= 999:
        raise CrossmodError(f"--out-id {args.out_id} is not between 1 and 999: choose another one")
    if (args.input is None) != (args.output is None):
        raise CrossmodError("-i and -o belong together: name the folder of new scans and that of their label maps")
    if args.input is not None and args.input.resolve() == args.output.resolve():
        raise CrossmodError(f"output folder {args.output} is the input folder: name another one")
    check_output_folder(args.work, "--work")
    if args.output is not None:
        check_output_folder(args.output)
