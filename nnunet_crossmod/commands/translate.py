"""Translate source scans into the target modality with the generator of a trained model. Each is written with
its own geometry, in the z-scores that nnU-Net gives to the modality it was translated into.

  crossmod translate -d 511 -c 2d -tr CISFATrainer -i source_scans -o translated
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from nnunet_crossmod.commands.arguments import add_device_argument, fold
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.paths import FINAL, check_output_folder, device_of, model_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``crossmod translate``: letters and defaults as of ``nnUNetv2_predict``."""
    parser.add_argument("-i", dest="input", type=Path, required=True, metavar="FOLDER", help="source scans")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="FOLDER", help="for the translations")
    parser.add_argument("-d", dest="dataset", required=True, metavar="DATASET", help="id or name of the data set")
    parser.add_argument("-c", dest="configuration", required=True, metavar="CONFIGURATION", help="as trained")
    parser.add_argument("-tr", dest="trainer", required=True, metavar="TRAINER", help="trainer that has a generator")
    parser.add_argument("-p", dest="plans", default="nnUNetPlans", metavar="PLANS", help="default nnUNetPlans")
    parser.add_argument("-f", dest="fold", type=fold, default=0, metavar="FOLD", help="one fold, or all; default 0")
    parser.add_argument("-chk", dest="checkpoint", default=FINAL, metavar="FILE", help="checkpoint")
    parser.add_argument("-m", dest="modality", metavar="MODALITY", help="modality of the scans, if there are several")
    parser.add_argument(
        "--to",
        dest="wanted",
        metavar="MODALITY",
        help="modality to make, if there are several (CISFATrainer has one style for all)",
    )
    parser.add_argument("-step_size", type=float, default=0.5, help="step of the sliding window; default 0.5")
    add_device_argument(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the output folder of an earlier call")


def run(args: argparse.Namespace) -> None:
    """Carry out ``crossmod translate``."""
    if not 0 < args.step_size <= 1:
        raise CrossmodError(f"-step_size {args.step_size} must be above 0 and at most 1")
    if not args.input.is_dir():
        raise CrossmodError(f"input folder {args.input} does not exist: check the path")
    check_output_folder(args.output)

    from nnunet_crossmod.inference.trained_model import open_model

    folder = model_folder(args.dataset, args.trainer, args.plans, args.configuration)
    model = open_model(folder, [args.fold], args.checkpoint)

    import torch

    from nnunet_crossmod.inference.translation import load_translation, translate_folder

    flicker_per_case = translate_folder(
        load_translation(model, torch.device(device_of(args.device))),
        args.input,
        args.output,
        args.modality,
        args.wanted,
        step_size=args.step_size,
        overwrite=args.overwrite,
    )
    ratios = [ratio for ratio in flicker_per_case.values() if math.isfinite(ratio)]
    print(
        f"{args.output}: scans translated: {len(flicker_per_case)}"
        + (
            f"; slices differ from their neighbours {sum(ratios) / len(ratios):.2f} times as much as the source's"
            if ratios
            else ""
        )
        + "\nNext: look at some; crossmod report shows what the training drew of them"
    )
