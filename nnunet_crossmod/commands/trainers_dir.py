"""Print the folder of the trainers, for nnU-Net's own variable:

export nnUNet_extTrainer="$(crossmod trainers-dir)"
"""

from __future__ import annotations

import argparse
import sys

from nnunet_crossmod.paths import trainers_folder


def add_arguments(_: argparse.ArgumentParser) -> None:
    """There are none."""


def run(_: argparse.Namespace) -> None:
    """Carry out ``crossmod trainers-dir``."""
    print(trainers_folder())
    if sys.stdout.isatty():
        print('Next: export nnUNet_extTrainer="$(crossmod trainers-dir)"', file=sys.stderr)
