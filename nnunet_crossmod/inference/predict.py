"""``crossmod predict``: a folder of new scans to a folder of label maps, in one step."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from nnunet_crossmod.device import device_of
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.inference.predictor import Predictor
from nnunet_crossmod.inference.scans import add_modality_arguments, find_cases, modalities_of
from nnunet_crossmod.inference.trained_model import FINAL, open_model
from nnunet_crossmod.paths import model_folder

__all__ = ["add_arguments", "add_model_arguments", "chosen_folders", "run"]


def add_model_arguments(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Declare nnU-Net's flags that name a trained model."""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("-d", dest="dataset", metavar="DATASET", help="id or name of the data set")
    where.add_argument(
        "--model-folder", type=Path, metavar="FOLDER", help="the model's folder, instead of -d, -tr, -p and -c"
    )
    parser.add_argument("-tr", dest="trainer", metavar="TRAINER", help="trainer")
    parser.add_argument("-p", dest="plans", default="nnUNetPlans", metavar="PLANS", help="plans (nnUNetPlans)")
    parser.add_argument(
        "-c", dest="configuration", nargs="+" if several else None, metavar="CONFIGURATION", help="2d, 3d_fullres, …"
    )
    parser.add_argument(
        "-f",
        dest="folds",
        nargs="+",
        type=_fold,
        metavar="FOLD",
        help="folds, or all (default: the trained ones)",
    )


def chosen_folders(args: argparse.Namespace) -> list[Path]:
    """The folders of the models that the flags name.

    Raises:
        CrossmodError: there is no such model, or a flag is missing.
    """
    if args.model_folder is not None:
        if args.trainer is not None or args.configuration is not None:
            raise CrossmodError("--model-folder says which model it is: leave out -tr and -c, or give -d instead")
        return [args.model_folder]
    for flag, value in (("-tr", args.trainer), ("-c", args.configuration)):
        if value is None:
            raise CrossmodError(f"which model? Add {flag} as in nnUNetv2_train")
    names = [args.configuration] if isinstance(args.configuration, str) else args.configuration
    return [model_folder(args.dataset, args.trainer, args.plans, name) for name in dict.fromkeys(names)]


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
    parser.add_argument("-device", default="auto", choices=["auto", "cpu", "cuda", "mps"], help="cuda if there")
    parser.add_argument("--not_on_device", action="store_true", help="keep logits off the GPU: for huge scans")
    parser.add_argument("--disable_progress_bar", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> None:
    """Carry out ``crossmod predict``."""
    folder = chosen_folders(args)[0]
    model = open_model(folder, args.folds, args.checkpoint)
    everything = find_cases(args.input, model.ending, model.channels)
    told = modalities_of(args, sorted(everything), model.modalities, f"the model {folder.name}")
    _check(args, everything)
    chosen = sorted(everything)[args.part_id :: args.num_parts]
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
    for modality in sorted({told[case] for case in chosen}):
        if caution := model.caution(modality):
            print(f"Note: {caution}")
    print(f"{folder.name}, folds {', '.join(map(str, model.folds))}, on {device.type}: {len(chosen)} cases")
    done = predictor.predict_files(
        {case: everything[case] for case in chosen},
        told,
        args.output,
        save_probabilities=args.save_probabilities,
        continue_prediction=args.continue_prediction,
        readers=args.npp,
        writers=args.nps,
        progress=not args.disable_progress_bar and len(chosen) > 1,
    )
    already = f", {len(chosen) - len(done)} were there already" if len(done) < len(chosen) else ""
    print(f"{args.output}: {len(done)} cases predicted{already}")


def _check(args: argparse.Namespace, cases: dict[str, list[Path]]) -> None:
    if args.output.resolve() == args.input.resolve():
        raise CrossmodError(f"output folder {args.output} is the input folder: name another one")
    if args.output.exists() and not args.output.is_dir():
        raise CrossmodError(f"output {args.output} is a file: name a folder")
    if not 0 <= args.part_id < args.num_parts:
        raise CrossmodError(f"-part_id {args.part_id} must be 0 … {args.num_parts - 1}, as -num_parts says")
    if args.npp < 0 or args.nps < 0:
        raise CrossmodError("-npp and -nps must be 0 or more")
    device_of(args.device)


def _fold(word: str) -> int | str:
    if word != "all" and not word.isdigit():
        raise argparse.ArgumentTypeError(f"{word!r} is no fold: give numbers, or all")
    return word if word == "all" else int(word)
