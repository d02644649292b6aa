"""What the command lines of all conversions have in common."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence

from nnunet_crossmod.errors import CrossmodError

from .raw_dataset import Handling

__all__ = [
    "add_common_arguments",
    "add_file_arguments",
    "main",
    "print_next_step",
    "read_assignments",
    "read_handling",
    "read_labels",
    "read_shots",
]


def add_common_arguments(parser: argparse.ArgumentParser, *, source: Sequence[str], target: Sequence[str]) -> None:
    """Declare what every conversion takes, with nnU-Net's flag letters.

    Args:
        parser: the parser of the one conversion.
        source: default source modalities, for the help.
        target: default target modalities, likewise.
    """
    parser.add_argument("-d", dest="dataset_id", type=int, required=True, metavar="ID", help="data set id, 1 to 999")
    parser.add_argument(
        "--source",
        nargs="+",
        metavar="MODALITY",
        help=f"annotated (default: {' '.join(source) or 'those with labels'})",
    )
    parser.add_argument(
        "--target",
        nargs="+",
        metavar="MODALITY",
        help=f"adapted to (default: {' '.join(target) or 'those without labels'})",
    )
    parser.add_argument(
        "--shots",
        nargs="+",
        default=[],
        metavar="N",
        help="how many scans of each target modality training may see the labels of: a number, or MODALITY=N …",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the data set that has this id")


def add_file_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what every conversion takes that reads scans from files."""
    parser.add_argument("--skip-broken", action="store_true", help="leave out what is unusable, and list it")
    parser.add_argument(
        "--dry-run", action="store_true", help="read every scan, list all that is wrong, and write nothing"
    )
    parser.add_argument("--allow-empty", action="store_true", help="label maps may be empty, as of healthy people")
    parser.add_argument(
        "--resample-labels",
        action="store_true",
        help="put label maps of another grid onto that of their image (nearest voxel)",
    )
    parser.add_argument(
        "--reorient",
        action="store_true",
        help="let nnU-Net turn all scans to one orientation when it reads them (NibabelIOWithReorient)",
    )


def read_handling(args: argparse.Namespace) -> Handling:
    """What the arguments of :func:`add_file_arguments` say of label maps and orientation."""
    return Handling(args.allow_empty, args.resample_labels, args.reorient)


def read_shots(words: Sequence[str], target: Sequence[str]) -> dict[str, int]:
    """Read ``--shots``: ``["3"]`` for every target modality, or ``["LGE=3", "T2=1"]``.

    Returns:
        target modality → how many of its training scans to annotate, as ``annotate_shots`` takes it.

    Raises:
        CrossmodError: neither of the two, or a modality that is no target.
    """
    if len(words) == 1 and words[0].isdecimal():
        return dict.fromkeys(target, int(words[0]))
    shots: dict[str, int] = {}
    for word in words:
        modality, _, number = word.rpartition("=")
        if not number.isdecimal() or modality not in target:
            raise CrossmodError(
                f"--shots {word!r} must be one number, or MODALITY=N with a target modality ({', '.join(target)})"
            )
        shots[modality] = int(number)
    return shots


def read_assignments(words: Sequence[str], flag: str) -> dict[str, list[str]]:
    """Name → its values, of words ``NAME=VALUE``.

    Raises:
        CrossmodError: a word of another form.
    """
    values: dict[str, list[str]] = {}
    for word in words:
        if not re.fullmatch(r"[^=]+=.+", word):
            raise CrossmodError(f"{flag} {word} is not NAME=VALUE")
        name, _, value = word.partition("=")
        values.setdefault(name, []).append(value)
    return values


def read_labels(words: Sequence[str], flag: str) -> dict[str, list[int]]:
    """Structure → its values in the label files, of words ``NAME=ID[,ID]``.

    Raises:
        CrossmodError: a word of another form, or a value that is no whole number.
    """
    labels = {}
    for name, values in read_assignments(words, flag).items():
        numbers = values[-1].split(",")
        wrong = [number for number in numbers if not re.fullmatch(r"-?\d+", number)]
        if wrong:
            raise CrossmodError(
                f"{flag}: {name!r} has the value {wrong[0]!r}: give whole numbers (files of label maps belong to "
                "--label-files)"
            )
        labels[name] = [int(number) for number in numbers]
    return labels


def print_next_step(dataset_id: int) -> None:
    """What comes after a conversion."""
    print(f"Next: nnUNetv2_plan_and_preprocess -d {dataset_id} -c 2d 3d_fullres --verify_dataset_integrity")


def main(
    description: str | None,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], None],
    argv: Sequence[str] | None = None,
) -> None:
    """Run a conversion module as a script: a wrong input is one line on stderr and exit code 1."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n\n")[0])
    add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        run(args)
    except CrossmodError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)
