"""Write one HTML page that needs no other file: the tables of a comparison, worst, median and best scan of
every method, how far models agree on every scan, loss curves by term, t-SNE of organ embeddings, and the
pictures that training drew. Without a comparison it shows what the trainings of the data set left, and the
rounds of crossmod self-train where -i names its work folder.

  crossmod report -d 511 -i crossmod_compare -o report.html
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_crossmod.commands.arguments import add_device_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``crossmod report``."""
    parser.add_argument("-d", dest="dataset", required=True, metavar="DATASET", help="data set, id or name")
    parser.add_argument(
        "-i",
        dest="input",
        type=Path,
        default=Path("crossmod_compare"),
        metavar="FOLDER",
        help="work folder of crossmod compare or self-train (crossmod_compare)",
    )
    parser.add_argument(
        "-o", dest="output", type=Path, default=Path("report.html"), metavar="FILE", help="the page (report.html)"
    )
    add_device_argument(parser)
    parser.add_argument("--no-embeddings", action="store_true", help="load no model")


def run(args: argparse.Namespace) -> None:
    """Carry out ``crossmod report``."""
    from nnunet_crossmod.paths import device_of
    from nnunet_crossmod.report import write_report

    device = device_of(args.device)
    print(write_report(args.dataset, args.input, args.output, device=device, embeddings=not args.no_embeddings))
