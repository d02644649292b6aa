# PYTHON_ARGCOMPLETE_OK
"""``crossmod``: what nnU-Net lacks, with nnU-Net's flag letters."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from nnunet_crossmod.commands.arguments import CommandParser, add_subcommands, complete
from nnunet_crossmod.errors import CrossmodError

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "trainers-dir": "print the folder that nnUNet_extTrainer must name",
    "doctor": "say what is installed, what is wrong and how to mend it",
    "convert": "write a data set as nnU-Net raw with its crossmod block",
    "inspect": "what a raw data set holds: a table, and a sheet with one slice per scan",
    "configure": "copy plans under a new name with hyper-parameters of your own",
    "adapt-weights": "make an existing nnU-Net model's weights the start of a training",
    "modality-channel": "give new scans the modality channel that the networks read",
    "train": "as nnUNetv2_train, which then needs no nnUNet_extTrainer",
    "predict": "predict new scans: as modality-channel and nnUNetv2_predict, in one step",
    "choose": "compare trained configurations without target labels",
    "export": "make a stock nnU-Net model for one modality, which needs nothing of this package",
    "translate": "source scans in the style of the target, by a trained generator",
    "evaluate": "Dice, HD95, ASSD and surface Dice per structure and modality of a folder of predictions",
    "compare": "train what is missing, predict the test scans, evaluate, and put the methods into one table",
    "self-train": "rounds of pseudo-labels: what several models agree on is trained on again",
    "report": "one page of tables, loss curves, overlays and embeddings",
    "demo": "phantom, plan, train, predict, evaluate, picture: everything once, in minutes",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. Wrong input is reported in one line on stderr."""
    # what PyTorch, MONAI and nnU-Net tell their own developers
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|monai|nnunetv2)\b")
    parser = CommandParser(prog="crossmod", description="Cross-modality segmentation with nnU-Net v2.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and stop")
    add_subcommands(parser, "nnunet_crossmod.commands", COMMANDS, dest="command", metavar="COMMAND")
    if "_ARGCOMPLETE" in os.environ:  # the shell asks how the line may go on
        complete(parser, os.environ.get("COMP_LINE", "").split())
    args = parser.parse_args(arguments)
    try:
        code: int = args.run(args) or 0
    except CrossmodError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"Error: {where}{error.strerror or error}: check path, permissions and free space", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    return code


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"crossmod {version('nnunet-crossmod')}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
