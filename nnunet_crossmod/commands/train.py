"""Train as nnUNetv2_train does, with its arguments: this package's trainers are found without nnUNet_extTrainer, and
the device is found by itself.

  crossmod train 511 3d_fullres 0 -tr MeanTeacherTrainer
"""

from __future__ import annotations

import argparse

from nnunet_crossmod.commands.arguments import add_device_argument, fold
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.paths import (
    check_trainer,
    dataset_folder,
    device_of,
    let_nnunet_find_trainers,
    nnunet_folder,
    read_json,
    read_plans,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``crossmod train``: that of ``nnUNetv2_train``."""
    parser.add_argument("dataset", metavar="DATASET", help="id or name")
    parser.add_argument("configuration", metavar="CONFIGURATION", help="2d, 3d_fullres, …")
    parser.add_argument("fold", type=fold, metavar="FOLD", help="0 … 4, or all")
    parser.add_argument("-tr", dest="trainer", required=True, metavar="TRAINER", help="trainer")
    parser.add_argument("-p", dest="plans", default="nnUNetPlans", metavar="PLANS", help="plans (nnUNetPlans)")
    parser.add_argument("-pretrained_weights", metavar="FILE", help="checkpoint to begin with")
    parser.add_argument("-num_gpus", type=int, default=1, metavar="N", help="GPUs (1)")
    parser.add_argument("--npz", action="store_true", help="keep the probabilities of the final validation")
    parser.add_argument("--c", dest="resume", action="store_true", help="continue from the latest checkpoint")
    parser.add_argument("--val", action="store_true", help="only validate; the training must have finished")
    parser.add_argument("--val_best", action="store_true", help="validate checkpoint_best")
    parser.add_argument("--disable_checkpointing", action="store_true", help="write no checkpoints")
    add_device_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Carry out ``crossmod train``."""
    if args.resume and args.val:
        raise CrossmodError("--c and --val exclude each other: leave one out")
    if args.num_gpus < 1:
        raise CrossmodError(f"-num_gpus {args.num_gpus} must be 1 or more")
    nnunet_folder("nnUNet_results")
    read_plans(args.dataset, args.plans, args.configuration)
    dataset_json = read_json(
        dataset_folder("nnUNet_preprocessed", args.dataset) / "dataset.json", "plan the data set again"
    )
    check_trainer(args.trainer)
    let_nnunet_find_trainers()
    device = device_of(args.device)

    import os

    import torch
    from nnunetv2.run.run_training import run_training

    # as nnU-Net's command
    torch.set_num_threads(os.cpu_count() or 1 if device == "cpu" else 1)
    run_training(
        args.dataset,
        args.configuration,
        args.fold,
        args.trainer,
        args.plans,
        args.pretrained_weights,
        args.num_gpus,
        args.npz,
        args.resume,
        args.val,
        args.disable_checkpointing,
        args.val_best,
        device=torch.device(device),
    )
    target = dataset_json.get("crossmod", {}).get("target", ["MODALITY"])[0]
    plans = "" if args.plans == "nnUNetPlans" else f" -p {args.plans}"
    print(
        f"Next: crossmod predict -i SCANS -o OUT -m {target} -d {args.dataset} -c {args.configuration} -f {args.fold} "
        f"-tr {args.trainer}{plans}"
    )
