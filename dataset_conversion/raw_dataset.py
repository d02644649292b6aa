"""The one writer of raw data sets: whatever a data set looks like, it becomes one nnU-Net folder with one contract.

A conversion module lists its :class:`Scan` objects and calls :func:`write_raw_dataset`, which checks every file and
writes ``DatasetXXX_Name`` with the modality channel, the ``"crossmod"`` block and the folds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray
from tqdm import tqdm

from nnunet_crossmod.data.atomic_folder import atomic_folder
from nnunet_crossmod.data.block import Case, CrossmodBlock
from nnunet_crossmod.data.image_files import check_image, check_same_grid, is_all_zero, read_image
from nnunet_crossmod.data.splits import splits
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.inference.modality_channel import modality_channel

__all__ = ["Scan", "add_common_arguments", "annotate_shots", "main", "read_shots", "write_raw_dataset"]

FILE_ENDING = ".nii.gz"
_RAW, _PREPROCESSED = "nnUNet_raw", "nnUNet_preprocessed"
_CASE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Annotation: TypeAlias = Literal["all"] | Sequence[str]


@dataclass(frozen=True)
class Scan:
    """One scan of the data set to write.

    Attributes:
        name: the case name, unique in the data set.
        modality: one of the data set's modalities.
        subject: whose scan it is.
        image: the file, or the image itself.
        label: the label map on the image's grid, or None where there is none.
        annotated: what training may see: ``"all"``, label names, or nothing.
        test: whether it belongs to the test set.
    """

    name: str
    modality: str
    subject: str
    image: Path | sitk.Image
    label: Path | sitk.Image | None = None
    annotated: Annotation = ()
    test: bool = False


def write_raw_dataset(
    scans: Sequence[Scan],
    *,
    dataset_id: int,
    name: str,
    labels: Mapping[str, int],
    modalities: Sequence[str],
    source: Sequence[str],
    target: Sequence[str],
    label_map: Mapping[int, int] | None = None,
    registered: bool = False,
    raw_folder: Path | None = None,
    overwrite: bool = False,
    description: str = "",
    reference: str = "",
    licence: str = "",
    folds: int = 5,
    seed: int = 12345,
) -> Path:
    """Write ``DatasetXXX_Name``: complete, or not at all.

    Args:
        scans: the training and the test scans.
        dataset_id: 1 to 999.
        name: the name after the id, letters, digits, ``_`` and ``-``.
        labels: label name → value: background 0, then 1, 2, … without gaps.
        modalities: all modalities; their order gives the values of the modality channel.
        source: the modalities with annotated scans.
        target: the other ones.
        label_map: value in the label files → value in ``labels``; several may share one; 0 stays 0. None where the
            files already hold the values.
        registered: whether the scans of one subject lie on one grid.
        raw_folder: where to write; ``$nnUNet_raw`` by default.
        overwrite: replace the data set that has this id.
        description: for ``dataset.json``.
        reference: for ``dataset.json``.
        licence: for ``dataset.json``.
        folds: cross-validation folds in ``splits_final.json``.
        seed: decides which subject lands in which fold.

    Returns:
        The folder written.

    Raises:
        CrossmodError: an unusable file, files that do not fit together, scans that do not make up a data set, or an
            existing data set. Nothing is left behind.
    """
    _check_arguments(scans, dataset_id, name, labels, source, target)
    raw_folder = _raw_folder(raw_folder)
    folder = raw_folder / f"Dataset{dataset_id:03d}_{name}"
    existing = sorted(path for path in raw_folder.glob(f"Dataset{dataset_id:03d}_*") if path.is_dir())
    if existing and not overwrite:
        raise CrossmodError(f"{existing[0]} already has id {dataset_id}: choose another id, or add --overwrite")
    block = _block(scans, labels, modalities, source, target, registered)
    declared = dict(labels)
    if not all(case.labelled for case in block.cases.values()):
        declared["ignore"] = len(labels)
    dataset_json: dict[str, Any] = {
        "name": name,
        "description": description,
        "reference": reference,
        "licence": licence,
        "channel_names": {"0": "image", "1": "noNorm"},
        "labels": declared,
        "numTraining": len(block.cases),
        "file_ending": FILE_ENDING,
        "crossmod": block.to_json(),
    }
    block = CrossmodBlock.from_dataset_json(dataset_json, folder.name)
    divided = splits(block.cases, folds, seed)
    values = {0: 0, **(label_map or {value: value for value in labels.values()})}
    written: list[_Written] = []
    with atomic_folder(folder, replacing=existing) as complete:
        for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
            (complete / part).mkdir()
        with tqdm(total=len(scans), desc=f"Writing {folder.name}", unit="scan", disable=None) as progress:
            for group in _groups(scans, registered):
                written += _write_group(group, complete, block, values, ignore=len(labels))
                progress.update(len(group))
        (complete / "dataset.json").write_text(json.dumps(dataset_json, indent=2) + "\n")
        (complete / "splits_final.json").write_text(json.dumps(divided, indent=2) + "\n")
    print(_summary(folder, block, written, labels))
    _warn_of_old_preprocessing(folder, replaced=bool(existing))
    return folder


def annotate_shots(scans: Sequence[Scan], shots: Mapping[str, int], seed: int) -> list[Scan]:
    """Let training see the labels of a few scans of a modality (few-shot adaptation).

    Args:
        scans: the scans of the data set.
        shots: modality → how many of its labelled training scans to annotate in full.
        seed: decides which ones.

    Returns:
        All scans in their order, the chosen ones annotated ``"all"``.

    Raises:
        CrossmodError: fewer labelled training scans than asked for.
    """
    chosen: set[str] = set()
    for modality, wanted in sorted(shots.items()):
        names = sorted(
            scan.name for scan in scans if scan.modality == modality and scan.label is not None and not scan.test
        )
        if not 0 <= wanted <= len(names):
            raise CrossmodError(
                f"{wanted} annotated {modality} scans were asked for, but {len(names)} of its training scans have "
                "labels: ask for fewer, or take labelled scans out of the test set"
            )
        order = np.random.default_rng(seed).permutation(len(names))
        chosen |= {names[index] for index in order[:wanted]}
    return [replace(scan, annotated="all") if scan.name in chosen else scan for scan in scans]


def read_shots(words: Sequence[str], target: Sequence[str]) -> dict[str, int]:
    """Read ``--shots``: ``["3"]`` for every target modality, or ``["LGE=3", "T2=1"]``.

    Returns:
        target modality → how many of its training scans to annotate, as :func:`annotate_shots` takes it.

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


def add_common_arguments(
    parser: argparse.ArgumentParser, *, source: Sequence[str], target: Sequence[str], input_help: str | None
) -> None:
    """Declare what every conversion takes, with nnU-Net's flag letters.

    Args:
        parser: the parser of the one conversion.
        source: default source modalities.
        target: default target modalities.
        input_help: what ``-i`` must hold; None where the conversion reads nothing.
    """
    if input_help is not None:
        parser.add_argument("-i", dest="input", type=Path, required=True, metavar="FOLDER", help=input_help)
    parser.add_argument("-d", dest="dataset_id", type=int, required=True, metavar="ID", help="data set id, 1 to 999")
    parser.add_argument(
        "--source", nargs="+", default=list(source), metavar="MODALITY", help=f"annotated (default: {' '.join(source)})"
    )
    parser.add_argument(
        "--target",
        nargs="+",
        default=list(target),
        metavar="MODALITY",
        help=f"adapted to (default: {' '.join(target)})",
    )
    parser.add_argument(
        "--shots",
        nargs="+",
        default=[],
        metavar="N",
        help="how many scans of each target modality training may see the labels of: a number, or MODALITY=N …",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the data set that has this id")


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


@dataclass(frozen=True)
class _Written:
    """What the summary tells of a scan: voxels of each label value, and the spacing in mm."""

    name: str
    spacing: tuple[float, ...]
    voxels: Counter[int] = field(default_factory=Counter)


def _check_arguments(
    scans: Sequence[Scan],
    dataset_id: int,
    name: str,
    labels: Mapping[str, int],
    source: Sequence[str],
    target: Sequence[str],
) -> None:
    if not 1 <= dataset_id <= 999:
        raise CrossmodError(f"data set id {dataset_id} is not between 1 and 999: choose another one")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise CrossmodError(f"data set name {name!r} may hold letters, digits, _ and - only: choose another one")
    if sorted(labels.values()) != list(range(len(labels))) or len(labels) < 2 or labels.get("background") != 0:
        raise CrossmodError(f"labels {dict(labels)} must be background 0, then 1, 2, … without gaps")
    seen: dict[str, Scan] = {}
    for scan in scans:
        if not _CASE_NAME.fullmatch(scan.name):
            raise CrossmodError(f"case name {scan.name!r} may hold letters, digits, '.', '_' and '-' only: rename it")
        if scan.name in seen:
            raise CrossmodError(
                f"two scans are named {scan.name!r} ({_where(seen[scan.name])}; {_where(scan)}): rename or remove one"
            )
        seen[scan.name] = scan
        if scan.annotated and scan.label is None:
            raise CrossmodError(f"case {scan.name!r} is annotated but has no label file: {_where(scan)}: add one")
    training = [scan for scan in scans if not scan.test]
    for modality in (*source, *target):
        if not any(scan.modality == modality for scan in training):
            raise CrossmodError(
                f"modality {modality!r} has no training scans: add some, or leave it out of --source and --target"
            )
    if not any(scan.annotated and scan.modality in source for scan in training):
        raise CrossmodError(f"no training scan of the source {list(source)} is annotated: add its label files")


def _raw_folder(given: Path | None) -> Path:
    if given is not None:
        return Path(given)
    if folder := os.environ.get(_RAW):
        return Path(folder)
    raise CrossmodError("nnUNet_raw is not set: export nnUNet_raw=FOLDER, where nnU-Net keeps its raw data sets")


def _block(
    scans: Sequence[Scan],
    labels: Mapping[str, int],
    modalities: Sequence[str],
    source: Sequence[str],
    target: Sequence[str],
    registered: bool,
) -> CrossmodBlock:
    foreground = {name: value for name, value in labels.items() if value}

    def case(scan: Scan) -> Case:
        names = list(foreground) if scan.annotated == "all" else list(scan.annotated)
        unknown = [name for name in names if name not in foreground]
        if unknown:
            raise CrossmodError(
                f"case {scan.name!r} is annotated with {unknown[0]!r}, but the labels are {list(foreground)}"
            )
        visible = frozenset(foreground[name] for name in names)
        return Case(scan.name, scan.modality, visible, scan.subject, scan.label is not None)

    return CrossmodBlock(
        modalities=tuple(modalities),
        source=tuple(source),
        target=tuple(target),
        cases={scan.name: case(scan) for scan in scans if not scan.test},
        labels=foreground,
        registered=registered,
        test={scan.name: replace(case(scan), visible=frozenset()) for scan in scans if scan.test},
    )


def _groups(scans: Sequence[Scan], registered: bool) -> Iterator[list[Scan]]:
    """Scans that must be held in memory together: those of a subject if they share a grid, else one at a time."""
    by_subject: dict[str, list[Scan]] = {}
    for scan in scans:
        by_subject.setdefault(scan.subject if registered else scan.name, []).append(scan)
    yield from by_subject.values()


def _write_group(
    group: Sequence[Scan], folder: Path, block: CrossmodBlock, values: Mapping[int, int], ignore: int
) -> list[_Written]:
    images = [_read(scan) for scan in group]
    for scan, image in zip(group, images, strict=True):
        check_same_grid(images[0], image, _where(group[0]), _where(scan))
    written = []
    for scan, image in zip(group, images, strict=True):
        part = "Ts" if scan.test else "Tr"
        _save_image(scan, image, folder / f"images{part}" / f"{scan.name}_0000{FILE_ENDING}")
        channel = modality_channel(image, block.modalities.index(scan.modality), images)
        _save(channel, folder / f"images{part}" / f"{scan.name}_0001{FILE_ENDING}")
        voxels: Counter[int] = Counter()
        if scan.label is not None:
            label = _read_label(scan, image, values)
            voxels.update(dict(enumerate(np.bincount(label.ravel(), minlength=ignore).tolist())))
            _save_label(label, image, folder / f"labels{part}" / f"{scan.name}{FILE_ENDING}")
        elif not scan.test:
            nothing = np.full(image.GetSize()[::-1], ignore, dtype=np.uint8)
            _save_label(nothing, image, folder / f"labels{part}" / f"{scan.name}{FILE_ENDING}")
        written.append(_Written(scan.name, image.GetSpacing(), voxels))
    return written


def _read(scan: Scan) -> sitk.Image:
    if isinstance(scan.image, Path):
        image = read_image(scan.image)
    else:
        image = scan.image
        check_image(image, _where(scan))
    if is_all_zero(image):
        raise CrossmodError(f"{_where(scan)} is all zero: export the scan again, or leave the case out")
    return image


def _read_label(scan: Scan, image: sitk.Image, values: Mapping[int, int]) -> NDArray[np.uint8]:
    """The label map of a scan in the data set's values."""
    where = str(scan.label) if isinstance(scan.label, Path) else f"the label of case {scan.name!r}"
    if isinstance(scan.label, Path):
        label = read_image(scan.label)
    else:
        label = scan.label
        check_image(label, where)
    check_same_grid(image, label, _where(scan), where)
    found, inverse = np.unique(sitk.GetArrayViewFromImage(label), return_inverse=True)
    unknown = [value for value in found.tolist() if value not in values]
    if unknown:
        raise CrossmodError(
            f"{where} holds the values {unknown}, which are no labels of this data set; known are {sorted(values)}: "
            "correct the file, or add them to the label table"
        )
    table: NDArray[np.uint8] = np.array([values[int(value)] for value in found], dtype=np.uint8)
    return np.asarray(table[inverse].reshape(image.GetSize()[::-1]))


def _save_image(scan: Scan, image: sitk.Image, destination: Path) -> None:
    if isinstance(scan.image, Path) and scan.image.name.endswith(FILE_ENDING):
        # A copy keeps voxels and affine bit by bit; reading and writing would round the affine once more.
        shutil.copyfile(scan.image, destination)
    else:
        _save(image, destination)


def _save_label(values: NDArray[np.uint8], image: sitk.Image, destination: Path) -> None:
    label = sitk.GetImageFromArray(values)
    label.CopyInformation(image)
    _save(label, destination)


def _save(image: sitk.Image, destination: Path) -> None:
    sitk.WriteImage(image, str(destination), useCompression=True)


def _where(scan: Scan) -> str:
    return str(scan.image) if isinstance(scan.image, Path) else f"the image of case {scan.name!r}"


def _summary(folder: Path, block: CrossmodBlock, written: Sequence[_Written], labels: Mapping[str, int]) -> str:
    everything = {**block.cases, **block.test}
    rows: dict[str, dict[str, str | int]] = {}
    for modality in block.modalities:
        training = [case for case in block.cases.values() if case.modality == modality]
        scans = [scan for scan in written if everything[scan.name].modality == modality]
        voxels: Counter[int] = sum((scan.voxels for scan in scans), Counter())
        rows[modality] = {
            "role": "source" if modality in block.source else "target",
            "train": len(training),
            "labelled": sum(case.labelled for case in training),
            "annotated": sum(case.annotated for case in training),
            "test": sum(case.modality == modality for case in block.test.values()),
            "spacing [mm]": " x ".join(_range([scan.spacing[axis] for scan in scans]) for axis in range(3)),
            **{f"{name} [voxels]": voxels[value] for name, value in labels.items() if value},
        }
    table = pd.DataFrame.from_dict(rows, orient="index").to_string()
    subjects = len({case.subject for case in everything.values()})
    return f"\n{folder}: {len(everything)} scans of {subjects} subjects\n{table}\n"


def _range(values: Sequence[float]) -> str:
    low, high = (f"{value:.3g}" for value in (min(values), max(values)))
    return low if low == high else f"{low}-{high}"


def _warn_of_old_preprocessing(folder: Path, replaced: bool) -> None:
    preprocessed = os.environ.get(_PREPROCESSED)
    if replaced and preprocessed and (Path(preprocessed) / folder.name).is_dir():
        print(f"Remove {Path(preprocessed) / folder.name} before planning again: it belongs to the replaced data set")
