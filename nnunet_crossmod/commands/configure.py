"""Copy plans under a new name with hyper-parameters of your own. The copy uses the same preprocessed data and
gets its own results folder.

  crossmod configure -d 511 -p nnUNetPlans --set fpc_weight=0.25 --name nnUNetPlans_fpc025
  crossmod configure -d 511 --preset cpu --name nnUNetPlans_cpu
"""

from __future__ import annotations

import argparse
from typing import Any

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.paths import dataset_folder, load_trainer, read_json
from nnunet_crossmod.plans import configure, read_setting, write_plans


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``crossmod configure``."""
    parser.add_argument("-d", dest="dataset_id", type=int, required=True, metavar="ID", help="data set id")
    parser.add_argument("-p", dest="plans", default="nnUNetPlans", metavar="PLANS", help="plans to copy (nnUNetPlans)")
    parser.add_argument("--name", required=True, metavar="PLANS", help="name of the copy")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="hyper-parameters of the trainer"
    )
    parser.add_argument(
        "--preset",
        choices=["cpu", "paper"],
        help="cpu: network, batch and schedule for two cores and minutes; paper: the settings of the trainer's paper, "
        "with nnU-Net's augmentation (needs -tr)",
    )
    parser.add_argument(
        "-tr",
        dest="trainer",
        metavar="TRAINER",
        help="check the hyper-parameters against this trainer, and add what it has for the preset",
    )
    parser.add_argument("-b", dest="batch_size", type=int, metavar="N", help="batch size")
    parser.add_argument("--patch-size", type=int, nargs="+", metavar="N", help="patch size in voxels")
    parser.add_argument(
        "-c",
        dest="configurations",
        nargs="+",
        default=[],
        metavar="CONFIGURATION",
        help="which ones -b and --patch-size are for (all)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace plans of that name")


def run(args: argparse.Namespace) -> None:
    """Carry out ``crossmod configure``."""
    settings = dict(map(read_setting, args.set))
    if args.preset == "paper" and args.trainer is None:
        raise CrossmodError("--preset paper needs -tr TRAINER: every trainer has the settings of its own paper")
    folder = dataset_folder("nnUNet_preprocessed", args.dataset_id)
    original = folder / f"{args.plans}.json"
    if not original.is_file():
        names = ", ".join(sorted(path.stem for path in folder.glob("*Plans*.json")))
        raise CrossmodError(f"{original} does not exist; plans of this data set: {names or 'none, plan it first'}")
    if args.trainer is not None:
        settings = _checked(args.trainer, args.preset, settings)
    plans = configure(
        read_json(original, f"plan again with nnUNetv2_plan_and_preprocess -d {args.dataset_id}"),
        args.name,
        settings,
        preset=args.preset,
        batch_size=args.batch_size,
        patch_size=args.patch_size,
        configurations=args.configurations,
    )
    plans_path = write_plans(plans, folder, overwrite=args.overwrite)
    configuration = args.configurations[0] if args.configurations else next(iter(plans["configurations"]))
    trainer = args.trainer or "TRAINER"
    print(f"{plans_path}\nTrain with: nnUNetv2_train {args.dataset_id} {configuration} 0 -tr {trainer} -p {args.name}")


def _checked(trainer: str, preset: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with what the trainer has for the preset, checked against its hyper-parameters."""
    from nnunet_crossmod.training.hyperparameters import resolve

    trainer_class = load_trainer(trainer)
    settings = {**trainer_class.presets.get(preset or "", {}), **settings}
    resolve(trainer_class, trainer_class._hyperparameter_types, settings, "--set")
    return settings
