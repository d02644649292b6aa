"""Any folders of scans: images of each modality, with or without label maps, in folders or by file-name patterns.

Images are single-channel files (NIfTI, MHA, NRRD …) or folders of one DICOM series each. In folders, a label file has
the name of its image; ``_0000``, ``_image``, ``_label``, ``_seg`` and the like at the end of a name do not count. In
patterns, what stands for the wildcards is the same: ``mr/image_*.nii.gz`` and ``mr/label_*.nii.gz``.

The subject of a scan is its name as far as its identifier (``patient002`` of ``patient002_frame01``), the same in all
modalities unless ``"paired"`` is false. ``"subject"``, a regular expression, says otherwise: what it matches, or what
its group ``(?P<subject>…)`` matches, is the subject. ``"series"`` chooses one of several DICOM series in a folder by
its description. ``"partial"`` annotates each modality, target or not, for the structures of its own table in
``"labels_of"``. ``"frame"`` chooses one volume of 4D files, or one channel, counted from 0. ``"ignore"`` lists values
of voxels that nobody annotated, as beside scribbles.

.. code-block:: json

    {"name": "Liver", "source": ["MR"], "target": ["CT"], "labels": {"liver": 1, "kidneys": [2, 3]},
     "images": {"MR": "mr/images", "CT": ["ct", "more/scan_*.nii.gz"]}, "label_files": {"MR": "mr/labels"},
     "labels_of": {"CT": {"liver": 6}}, "ignore": [255], "series": {"CT": "*venous*"}, "frame": {"MR": 0},
     "subject": "p[0-9]+", "registered": false, "paired": true, "partial": false, "resample_uneven": false,
     "keep_even": false}
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from nnunet_crossmod.errors import CrossmodError

from .command_line import (
    add_common_arguments,
    add_file_arguments,
    main,
    read_assignments,
    read_labels,
    read_shots,
)
from .folder_description import dataset_of

__all__ = ["add_arguments", "dataset_of", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``crossmod convert folders``."""
    add_common_arguments(parser, source=[], target=[])
    add_file_arguments(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="the description, instead of the flags below")
    group = parser.add_argument_group("the description")
    flags = [
        group.add_argument("--name", default="Folders", help="of the data set"),
        group.add_argument(
            "--images",
            nargs="+",
            default=[],
            metavar="MODALITY=PLACE",
            help="images of each modality: a folder, or a pattern in quotes ('MR=mr/image_*.nii.gz'); or several",
        ),
        group.add_argument(
            "--label-files",
            nargs="+",
            default=[],
            metavar="MODALITY=PLACE",
            help="label maps, if any, likewise ('MR=mr/label_*.nii.gz')",
        ),
        group.add_argument(
            "--labels", nargs="+", default=[], metavar="NAME=ID[,ID]", help="structures and their values"
        ),
        group.add_argument(
            "--labels-of",
            nargs="+",
            action="append",
            default=[],
            metavar=("MODALITY", "NAME=ID[,ID]"),
            help="the same for one modality whose values are others (--labels-of CT liver=6); may be repeated",
        ),
        group.add_argument("--partial", action="store_true", help="each modality is annotated for its own --labels-of"),
        group.add_argument(
            "--ignore",
            nargs="+",
            type=int,
            default=[],
            metavar="ID",
            help="values of voxels that nobody annotated, as beside scribbles: neither a structure nor background",
        ),
        group.add_argument(
            "--frame",
            nargs="+",
            default=[],
            metavar="MODALITY=N",
            help="which volume of 4D files, or which channel, counted from 0",
        ),
        group.add_argument(
            "--subject",
            metavar="REGEX",
            help="what of a scan's name is the subject: the match, or its group (?P<subject>…) "
            "(default: the name as far as its identifier)",
        ),
        group.add_argument(
            "--series",
            nargs="+",
            default=[],
            metavar="MODALITY=TEXT",
            help="which DICOM series to read where a folder holds several, by its description ('CT=*venous*')",
        ),
        group.add_argument("--registered", action="store_true", help="scans of a subject lie on one grid"),
        group.add_argument("--unpaired", action="store_true", help="equal names in two modalities are two subjects"),
        group.add_argument(
            "--resample-uneven", action="store_true", help="interpolate between unevenly spaced DICOM slices"
        ),
        group.add_argument(
            "--keep-even",
            action="store_true",
            help="keep the longest evenly spaced part of uneven DICOM slices instead",
        ),
    ]
    parser.set_defaults(description_flags=flags)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--test",
        nargs="+",
        metavar="NAME",
        help="test subjects, by name or number, or patterns of scan names or files ('check/*'); none by default",
    )
    chosen.add_argument("--split", choices=["none", "fifth", "labelled-target"], help="a split by rule instead")


def run(args: argparse.Namespace) -> None:
    """Carry out ``crossmod convert folders``."""
    if args.json is None:
        base, description = Path(), _from_flags(args)
    else:
        given = [flag.option_strings[0] for flag in args.description_flags if getattr(args, flag.dest) != flag.default]
        if given:
            raise CrossmodError(f"--json {args.json} describes the data set: write {', '.join(given)} into it instead")
        base, description = args.json.parent, _from_json(args.json)
    dataset = dataset_of(description, base)
    # those that the description names are named, not defaults
    source, target = args.source or description.get("source"), args.target or description.get("target")
    dataset.carry_out(args, base, source, target, shots=read_shots(args.shots, args.target or dataset.target))


def _from_json(file: Path) -> dict[str, Any]:
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CrossmodError(f"{file} cannot be read as JSON ({error})") from error
    if not isinstance(description, dict):
        raise CrossmodError(f"{file} must hold one object")
    return description


def _from_flags(args: argparse.Namespace) -> dict[str, Any]:
    description = {
        "name": args.name,
        "images": read_assignments(args.images, "--images"),
        "label_files": read_assignments(args.label_files, "--label-files"),
        "labels": read_labels(args.labels, "--labels"),
        "labels_of": {modality: read_labels(words, "--labels-of") for modality, *words in args.labels_of},
        "ignore": args.ignore,
        "series": {name: values[-1] for name, values in read_assignments(args.series, "--series").items()},
        "frame": {name: values[-1] for name, values in read_labels(args.frame, "--frame").items()},
        "registered": args.registered,
        "paired": not args.unpaired,
        "partial": args.partial,
        "resample_uneven": args.resample_uneven,
        "keep_even": args.keep_even,
    }
    return description if args.subject is None else {**description, "subject": args.subject}


if __name__ == "__main__":
    main(__doc__, add_arguments, run)
