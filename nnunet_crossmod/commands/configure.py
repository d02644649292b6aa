"""Copy plans under a new name with hyper-parameters of your own. The copy uses the same preprocessed data and
gets its own results folder.

  crossmod configure -d 511 -p nnUNetPlans --set fpc_weight=0.25 --name nnUNetPlans_fpc025
  crossmod configure -d 511 --preset cpu --name nnUNetPlans_cpu
  crossmod configure -d 511 --network swin_unetr --name nnUNetPlans_swin
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from nnunet_crossmod.errors import CrossmodError, did_you_mean
from nnunet_crossmod.paths import check_trainer, dataset_folder, load_trainer, read_plans, trainer_names
from nnunet_crossmod.plans import NETWORKS, configure, new_plans_file, read_setting, write_plans


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
    parser.add_argument(
        "--network",
        choices=list(NETWORKS),
        help="another network than the planned one, with the optimiser that makes it train; swin_unetr: MONAI's "
        "SwinUNETR, feature size 48 (24 with --preset cpu), patches of multiples of 32 voxels, no deep supervision",
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
    original = read_plans(args.dataset_id, args.plans)
    new_plans_file(folder, args.name, overwrite=args.overwrite)
    if args.trainer is not None:
        check_trainer(args.trainer)
    plans = configure(
        original,
        args.name,
        settings,
        preset=args.preset,
        network=args.network,
        batch_size=args.batch_size,
        patch_size=args.patch_size,
        configurations=args.configurations,
    )
    if args.trainer is not None:
        of_network = NETWORKS[args.network][0] if args.network else {}
        plans["crossmod"] |= _checked(args.trainer, args.preset, of_network | settings)
    elif settings:
        _check_against_all_trainers(settings)
    for line in _changed_patches(original, plans) if args.network else []:
        print(line)
    plans_path = write_plans(plans, folder, overwrite=args.overwrite)
    configuration = args.configurations[0] if args.configurations else next(iter(plans["configurations"]))
    trainer = args.trainer or "TRAINER"
    print(f"{plans_path}\nNext: crossmod train {args.dataset_id} {configuration} 0 -tr {trainer} -p {args.name}")


def _changed_patches(original: Mapping[str, Any], plans: Mapping[str, Any]) -> Iterator[str]:
    for key, planned in plans["configurations"].items():
        before, after = original["configurations"][key].get("patch_size"), planned.get("patch_size")
        if before != after and before and after:
            sizes = [" × ".join(map(str, size)) for size in (before, after)]
            yield f"{key}: a patch of {sizes[1]} voxels instead of {sizes[0]}; the network needs multiples of 32"


def _checked(trainer: str, preset: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with what the trainer has for the preset, checked against its hyper-parameters."""
    from nnunet_crossmod.training.hyperparameters import resolve

    trainer_class = load_trainer(trainer)
    settings = {**trainer_class.presets.get(preset or "", {}), **settings}
    resolve(trainer_class, trainer_class._hyperparameter_types, settings, "--set")
    return settings


def _check_against_all_trainers(settings: dict[str, Any]) -> None:
    """Every setting must be one of some trainer, with a value that it takes."""
    from nnunet_crossmod.training.hyperparameters import resolve

    trainers = [load_trainer(name) for name in trainer_names()]
    known = {name for trainer in trainers for name in trainer._hyperparameter_types}
    for name, value in settings.items():
        refusals = []
        having = [trainer for trainer in trainers if name in trainer._hyperparameter_types]
        for trainer in having:
            try:
                resolve(trainer, trainer._hyperparameter_types, {name: value}, "--set")
            except CrossmodError as error:
                refusals.append(error)
        if having and len(refusals) == len(having):
            raise refusals[0]
        if not having:
            raise CrossmodError(
                f"--set {name}: no trainer has such a hyper-parameter{did_you_mean(name, known)}; if one of your own "
                "has, name it with -tr"
            )
