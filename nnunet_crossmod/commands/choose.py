"""Choose between trained configurations without target labels: Dice of the labels that training may see, and the
label-free criterion, on the validation scans of all folds.

  crossmod choose -d 511 -c 2d 3d_fullres -tr AICLTrainer

The criterion needs probabilities: nnUNetv2_train … --npz, or --val --npz after the training.
"""

from __future__ import annotations

import argparse
import math

from nnunet_crossmod.commands.arguments import add_model_arguments, chosen_folders


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``crossmod choose``."""
    add_model_arguments(parser, several=True)


def run(args: argparse.Namespace) -> None:
    """Carry out ``crossmod choose``."""
    folders = chosen_folders(args)

    from nnunet_crossmod.choice import figures_of
    from nnunet_crossmod.inference.trained_model import untranslated
    from nnunet_crossmod.paths import read_json

    rows = [figures_of(folder, args.folds) for folder in folders]
    width = max(len("configuration"), *(len(row.configuration) for row in rows))
    print(f"{'configuration':<{width}}  source Dice  certainty  balance  criterion  folds")
    for row in rows:
        shown = [f"{value:.4f}" if not math.isnan(value) else "–" for value in (*row[2:], row.criterion)]
        sizes = (11, 9, 7, 9)
        figures = "  ".join(f"{text:>{size}}" for text, size in zip(shown, sizes, strict=True))
        print(f"{row.configuration:<{width}}  {figures}  {' '.join(map(str, row.folds))}")
    if any(math.isnan(row.criterion) for row in rows):
        print("The criterion needs the probabilities of every fold: nnUNetv2_train … --val --npz")
    elif len(rows) > 1:
        print(f"Highest criterion: {max(rows, key=lambda row: row.criterion).configuration}")
    dataset_json, plans = (read_json(folders[0] / f"{name}.json", "train it again") for name in ("dataset", "plans"))
    if caution := untranslated(folders[0].name.split("__")[0], dataset_json["crossmod"]["source"], plans):
        print(f"Note: {caution}")
