"""Write a data set as nnU-Net raw with its crossmod block."""

from __future__ import annotations

import argparse

from nnunet_crossmod.commands.arguments import add_subcommands

__all__ = ["DATASETS", "add_arguments"]

DATASETS = {
    "phantom": "cardiac-like phantom in two modalities, made by code",
    "mmwhs": "MM-WHS 2017: whole heart in CT and MR",
    "sifa_tfrecords": "MM-WHS 2017 slices as released with PnP-AdaNet and SIFA",
    "chaos_btcv": "CHAOS MR and BTCV CT: abdominal organs",
    "amos": "AMOS22: abdominal organs in CT and MR",
    "mscmrseg": "MS-CMRSeg 2019: bSSFP, LGE and T2 cardiac MR",
    "tao": "thyroid-associated orbitopathy: registered T1 and T1c MR, annotated in parts",
    "folders": "any folders of scans, described by flags or a JSON file",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the data sets; the arguments of each are its own."""
    add_subcommands(parser, "nnunet_crossmod.dataset_conversion", DATASETS, dest="dataset", metavar="NAME")
