"""Make the weights of an existing nnU-Net model a start for a cross-modal training. Conditional norms get the plain
affine for every modality, a modality channel that was an image channel is dropped, what does not fit is named.
The network must be planned alike: nnUNetv2_move_plans_between_datasets takes over another model's plans.

  crossmod adapt-weights -i checkpoint_final.pth -o start.pth -d 511 -c 3d_fullres -tr AICLTrainer
  nnUNetv2_train 511 3d_fullres 0 -tr AICLTrainer -pretrained_weights start.pth
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.paths import check_output_file, check_trainer, read_plans


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``crossmod adapt-weights``."""
    parser.add_argument(
        "-i", dest="checkpoint", type=Path, required=True, metavar="FILE.pth", help="nnU-Net checkpoint"
    )
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="FILE.pth", help="the file to write")
    parser.add_argument("-d", dest="dataset", required=True, metavar="DATASET", help="data set to train on, id or name")
    parser.add_argument("-c", dest="configuration", required=True, metavar="CONFIGURATION", help="2d, 3d_fullres, …")
    parser.add_argument("-tr", dest="trainer", required=True, metavar="TRAINER", help="trainer that will train")
    parser.add_argument("-p", dest="plans", default="nnUNetPlans", metavar="PLANS", help="plans (nnUNetPlans)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file")


def run(args: argparse.Namespace) -> None:
    """Carry out ``crossmod adapt-weights``."""
    if args.output.exists() and not args.overwrite:
        raise CrossmodError(f"{args.output} exists: name another file with -o, or add --overwrite")
    if not args.checkpoint.is_file():
        raise CrossmodError(f"-i {args.checkpoint} does not exist: name a checkpoint of nnU-Net")
    check_output_file(args.output)
    read_plans(args.dataset, args.plans, args.configuration)
    check_trainer(args.trainer)

    from nnunet_crossmod.pretrained import adapt_file

    adapted = adapt_file(args.checkpoint, args.output, args.dataset, args.trainer, args.plans, args.configuration)
    print(f"{args.output}: {100 * adapted.share:.1f} % of encoder and decoder taken; segmentation layers begin anew")
    for what, names in (
        ("affines given to every modality", adapted.spread),
        ("modality channel dropped from", adapted.cut),
        ("begin as they are", adapted.kept),
        ("left out of the checkpoint", adapted.left_out),
    ):
        if names:
            print(f"  {what}: {_parts(names)}")
    print(
        f"Next: crossmod train {args.dataset} {args.configuration} 0 -tr {args.trainer} -p {args.plans} "
        f"-pretrained_weights {args.output}"
    )


def _parts(names: Iterable[str]) -> str:
    """Tensors counted by the part of the network that they stand in; what nnU-Net names twice counts once."""
    once = [name for name in names if not name.startswith("decoder.encoder.") and ".all_modules." not in name]
    parts = [".".join(name.split(".")[:2]) for name in once]
    return ", ".join(f"{part} ({parts.count(part)})" for part in dict.fromkeys(parts))
