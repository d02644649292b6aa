"""Predict new scans. The label maps are those of crossmod modality-channel and nnUNetv2_predict, the flags are
nnU-Net's; no second folder is written.

  crossmod predict -i scans -o out -m LGE -d 511 -c 3d_fullres -f 0 -tr AICLTrainer
  crossmod predict -i scans -o out -m 'bSSFP=*_C0' 'LGE=*_LGE' -d 511 -c 2d -f 0 -tr AICLTrainer
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from nnunet_crossmod.commands.arguments import (
    add_device_argument,
    add_modality_arguments,
    add_model_arguments,
    chosen_folders,
)
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.paths import FINAL, check_output_folder, device_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``crossmod predict``."""
    parser.add_argument("-i", dest="input", type=Path, required=True, metavar="FOLDER", help="the new scans")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="FOLDER", help="gets the label maps")
    add_modality_arguments(parser)
    add_model_arguments(parser)
    parser.add_argument("-chk", dest="checkpoint", default=FINAL, metavar="FILE", help="checkpoint")
    parser.add_argument("-step_size", type=float, default=0.5, metavar="SHARE", help="distance of tiles (0.5)")
    parser.add_argument("--disable_tta", action="store_true", help="no mirroring: faster, less accurate")
    parser.add_argument("--save_probabilities", action="store_true", help="also write probabilities (.npz, .pkl)")
    parser.add_argument("--continue_prediction", action="store_true", help="leave out cases that are predicted already")
    parser.add_argument("-npp", type=int, default=3, metavar="N", help="processes that preprocess (3); 0: none extra")
    parser.add_argument("-nps", type=int, default=3, metavar="N", help="processes that write (3); 0: none extra")
    parser.add_argument("-num_parts", type=int, default=1, metavar="N", help="how many such calls share the folder (1)")
    parser.add_argument("-part_id", type=int, default=0, metavar="N", help="which of them this is, from 0")
    add_device_argument(parser)
    parser.add_argument("--not_on_device", action="store_true", help="keep logits off the GPU: for huge scans")
    parser.add_argument("--disable_progress_bar", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> None:
    """Carry out ``crossmod predict``."""
    _check(args)
    folder = chosen_folders(args)[0]

    from nnunet_crossmod.inference.scans import find_cases, modalities_of, orientation_warnings, unused_files
    from nnunet_crossmod.inference.trained_model import open_model

    model = open_model(folder, args.folds, args.checkpoint)
    cases = find_cases(args.input, model.ending, model.channels)
    modalities = modalities_of(args, sorted(cases), model.modalities, f"the model {folder.name}")
    chosen = sorted(cases)[args.part_id :: args.num_parts]

    import torch

    from nnunet_crossmod.inference.predictor import Predictor

    device = torch.device(device_of(args.device))
    # as nnU-Net's command does; it caps what a scan takes by itself
    torch.set_num_threads(os.cpu_count() or 1 if device.type == "cpu" else 1)
    predictor = Predictor(
        folder,
        model.folds,
        args.checkpoint,
        device=device,
        step_size=args.step_size,
        mirroring=not args.disable_tta,
        results_on_device=not args.not_on_device,
        show_tiles=len(chosen) == 1 and not args.disable_progress_bar,
    )
    if unused := unused_files(args.input, cases):
        print(f"Note: {unused}")
    for warning in orientation_warnings({case: cases[case] for case in chosen}, modalities, model.orientations):
        print(f"Warning: {warning}")
    for modality in sorted({modalities[case] for case in chosen}):
        if caution := model.caution(modality):
            print(f"Note: {caution}")
    print(f"{folder.name}, folds {', '.join(map(str, model.folds))}, on {device.type}: {len(chosen)} cases")
    done = predictor.predict_files(
        {case: cases[case] for case in chosen},
        modalities,
        args.output,
        save_probabilities=args.save_probabilities,
        continue_prediction=args.continue_prediction,
        readers=args.npp,
        writers=args.nps,
        progress=not args.disable_progress_bar and len(chosen) > 1,
    )
    already = f", {len(chosen) - len(done)} were there already" if len(done) < len(chosen) else ""
    print(f"{args.output}: {len(done)} cases predicted{already}")
    dataset = args.dataset or model.plans["dataset_name"]
    print(f"Next, with reference labels: crossmod evaluate -d {dataset} -p {args.output} -g LABELS")


def _check(args: argparse.Namespace) -> None:
    if not args.input.is_dir():
        raise CrossmodError(f"input folder {args.input} does not exist: check the path")
    if args.output.resolve() == args.input.resolve():
        raise CrossmodError(f"output folder {args.output} is the input folder: name another one")
    check_output_folder(args.output)
    if not 0 <= args.part_id < args.num_parts:
        raise CrossmodError(f"-part_id {args.part_id} must be 0 … {args.num_parts - 1}, as -num_parts says")
    if args.npp < 0 or args.nps < 0:
        raise CrossmodError("-npp and -nps must be 0 or more")
    if not 0 < args.step_size <= 1:
        raise CrossmodError(f"step size {args.step_size} must be above 0 and at most 1: nnU-Net's default is 0.5")
