"""A phantom made by code: short-axis hearts in two kinds of MR contrast, "cine" (labels to learn from) and "lge".

The anatomy of both has one distribution; contrast, resolution, noise, shading and texture differ. Each subject is
scanned in both, in two poses on two grids unless ``registered``. It needs no download and takes seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from nnunet_crossmod.errors import CrossmodError

from .command_line import add_common_arguments, main, print_next_step, read_shots
from .phantom_scans import APPEARANCE, LABELS, MODALITIES, Gap, scan_subject
from .raw_dataset import Annotation, RawDataset, Scan, in_order
from .roles import annotate_shots, resolve_roles
from .writer import new_dataset_folder, write_raw_dataset

Scheme: TypeAlias = Literal["uda", "partial"]

SOURCE, TARGET = ("cine",), ("lge",)

PARTIAL: Mapping[str, tuple[str, ...]] = {"cine": ("Myo", "LV"), "lge": ("RV",)}


def convert(
    dataset_id: int,
    source: Sequence[str] = SOURCE,
    target: Sequence[str] = TARGET,
    *,
    subjects: int = 12,
    test_subjects: int = 4,
    size: int = 80,
    slices: int = 8,
    seed: int = 0,
    gap: Gap = "moderate",
    registered: bool = False,
    annotation: Scheme = "uda",
    shots: int | Mapping[str, int] = 0,
    raw_folder: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the phantom data set.

    All label files hold all labels; what training may see is the block's business.

    Args:
        dataset_id: 1 to 999.
        source: annotated modalities.
        target: the others.
        subjects: training subjects.
        test_subjects: test subjects.
        size: in-plane voxels of 1.5 mm.
        slices: slices of about 8 mm.
        seed: decides everything; subject k is the same whatever the number of subjects.
        gap: ``"moderate"`` keeps the order of blood and myocardium, ``"severe"`` inverts it.
        registered: scan both modalities in one pose on one grid.
        annotation: ``"uda"`` (source fully, target not at all) or ``"partial"`` (``PARTIAL``: every label is annotated
            in one modality).
        shots: how many training scans of each target modality to annotate in full, or target modality → how many.
        raw_folder: where to write; ``$nnUNet_raw`` by default.
        overwrite: replace the data set that has this id.

    Returns:
        The folder written.

    Raises:
        CrossmodError: what :func:`write_raw_dataset` refuses, or sizes that hold no heart.
    """
    unknown = [name for name in (*source, *target) if name not in MODALITIES]
    if unknown:
        raise CrossmodError(f"modality {unknown[0]!r} is not one of {list(MODALITIES)}: correct --source or --target")
    if size < 48 or slices < 3 or subjects < 2 or test_subjects < 0:
        raise CrossmodError("a phantom needs a size of 48 or more, 3 slices or more and 2 training subjects or more")
    new_dataset_folder(dataset_id, "Phantom", raw_folder, overwrite)

    annotated: dict[str, Annotation] = {modality: "all" if modality in source else () for modality in MODALITIES}
    if annotation == "partial":
        annotated = dict(PARTIAL)
    scans = []
    for subject in range(subjects + test_subjects):
        name, test = f"phantom{subject + 1:03d}", subject >= subjects
        for modality, image, label in scan_subject(seed, subject, size, slices, gap, registered):
            if modality in (*source, *target):
                scans.append(
                    Scan(f"{name}_{modality}", modality, name, image, label, () if test else annotated[modality], test)
                )
    dataset = RawDataset(
        name="Phantom",
        scans=annotate_shots(scans, dict.fromkeys(target, shots) if isinstance(shots, int) else shots, seed),
        labels=LABELS,
        modalities=in_order([*source, *target]),
        source=source,
        target=target,
        registered=registered,
        seed=seed,
        description=f"Short-axis heart phantom made by code: {gap} gap, {annotation} annotation, seed {seed}",
        licence="CC0",
    )
    return write_raw_dataset(dataset, dataset_id, raw_folder=raw_folder, overwrite=overwrite)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``crossmod convert phantom``."""
    add_common_arguments(parser, source=SOURCE, target=TARGET)

    def number(flags: Sequence[str], default: int, what: str) -> None:
        parser.add_argument(*flags, type=int, default=default, metavar="N", help=f"{what} (default: {default})")

    number(("-n", "--subjects"), 12, "training subjects")
    number(("--test-subjects",), 4, "test subjects")
    number(("--size",), 80, "voxels of 1.5 mm in-plane")
    number(("--slices",), 8, "slices of about 8 mm")
    number(("--seed",), 0, "decides everything")
    parser.add_argument("--gap", choices=list(APPEARANCE), default="moderate", help="how far apart the contrasts are")
    parser.add_argument("--registered", action="store_true", help="both scans of a subject in one pose on one grid")
    parser.add_argument(
        "--annotation", choices=["uda", "partial"], default="uda", help="source only, or other labels in each modality"
    )


def run(args: argparse.Namespace) -> None:
    """Carry out ``crossmod convert phantom``."""
    source, target = resolve_roles(args.source, args.target, SOURCE, TARGET, list(MODALITIES))
    convert(
        args.dataset_id,
        source,
        target,
        subjects=args.subjects,
        test_subjects=args.test_subjects,
        size=args.size,
        slices=args.slices,
        seed=args.seed,
        gap=args.gap,
        registered=args.registered,
        annotation=args.annotation,
        shots=read_shots(args.shots, target),
        overwrite=args.overwrite,
    )
    print_next_step(args.dataset_id)


if __name__ == "__main__":
    main(__doc__, add_arguments, run)
