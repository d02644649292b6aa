"""Turn a trained model into an ordinary nnU-Net model for one modality. It installs with
nnUNetv2_install_pretrained_model_from_zip and predicts with nnUNetv2_predict, anywhere.

  crossmod export -m LGE -d 511 -c 2d -f 0 -tr AICLTrainer -o model.zip
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_crossmod.commands.arguments import add_model_arguments, chosen_folders
from nnunet_crossmod.paths import FINAL


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``crossmod export``."""
    parser.add_argument("-m", dest="modality", required=True, metavar="MODALITY", help="modality the model will be for")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="FILE.zip", help="the zip to write")
    add_model_arguments(parser, several=True)
    parser.add_argument("-chk", dest="checkpoints", nargs="+", default=[FINAL], metavar="FILE", help="checkpoints")
    parser.add_argument("--as-dataset", metavar="NAME", help="the data set's name in the zip, as Dataset711_Heart")
    parser.add_argument("--as-plans", metavar="NAME", help="the plans' name in the zip, as nnUNetPlans_LGE")
    parser.add_argument("--overwrite", action="store_true", help="replace the zip")


def run(args: argparse.Namespace) -> None:
    """Carry out ``crossmod export``."""
    folders = chosen_folders(args)

    from nnunet_crossmod.inference.export import export_model

    exported = export_model(
        folders,
        args.modality,
        args.output,
        folds=args.folds,
        checkpoints=args.checkpoints,
        dataset=args.as_dataset,
        plans=args.as_plans,
        overwrite=args.overwrite,
    )
    folds = " ".join(map(str, exported.folds))
    if exported.caution:
        print(f"Note: {exported.caution}")
    print(
        f"{exported.file}: a stock nnU-Net model for {args.modality}, folds {folds}; relative difference of its logits "
        f"{exported.difference:.1g} at most\n"
        f"Install: nnUNetv2_install_pretrained_model_from_zip {exported.file}\n"
        "Predict, from case_0000 files without a modality channel:"
    )
    for name in exported.configurations:
        print(f"  nnUNetv2_predict -i SCANS -o OUT -d {exported.dataset} -c {name} -f {folds} -p {exported.plans}")
    print("Installing replaces a model of that name: --as-plans and --as-dataset give it another.")
