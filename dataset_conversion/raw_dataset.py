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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from tqdm import tqdm

from nnunet_crossmod.data.atomic_folder import atomic_folder
from nnunet_crossmod.data.block import Case, CrossmodBlock
from nnunet_crossmod.data.image_files import check_image, check_same_grid, is_all_zero, read_image
from nnunet_crossmod.data.modality_channel import modality_channel
from nnunet_crossmod.errors import CrossmodError

from .splits import splits

if TYPE_CHECKING:
    from .overview import ScanFacts

__all__ = [
    "Deferred",
    "Scan",
    "add_common_arguments",
    "annotate_shots",
    "main",
    "new_dataset_folder",
    "read_shots",
    "write_descriptions",
    "write_raw_dataset",
]

FILE_ENDING = ".nii.gz"
SHEET = "contact_sheet.png"
_RAW, _PREPROCESSED = "nnUNet_raw", "nnUNet_preprocessed"
_CASE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Annotation: TypeAlias = Literal["all"] | Sequence[str]


@dataclass(frozen=True)
class Deferred:
    """An image that is put together only when it is written: a DICOM series, a record of a file.

    Attributes:
        where: what it is read from, for messages.
        read: reads it; raises :class:`CrossmodError` where that fails.
    """

    where: Path
    read: Callable[[], sitk.Image]


Voxels: TypeAlias = Path | Deferred | sitk.Image


@dataclass(frozen=True)
class Scan:
    """One scan of the data set to write.

    Attributes:
        name: the case name, unique in the data set.
        modality: one of the data set's modalities.
        subject: whose scan it is.
        image: the file, the image itself, or how to read it.
        label: the label map on the image's grid, or None where there is none.
        annotated: what training may see: ``"all"``, label names, or nothing.
        test: whether it belongs to the test set.
        label_map: value in its label file → value in the data set; None where that of the data set holds.
        validation: whether it is validated; where any scan is, these make up the one fold.
        may_be_empty: whether a label map without any label is in order, as for single slices.
    """

    name: str
    modality: str
    subject: str
    image: Voxels
    label: Voxels | None = None
    annotated: Annotation = ()
    test: bool = False
    label_map: Mapping[int, int] | None = None
    validation: bool = False
    may_be_empty: bool = False


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
    skip_broken: bool = False,
    left_out: Sequence[str] = (),
    conversion: Mapping[str, Any] | None = None,
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
        skip_broken: leave out scans with unusable files instead of stopping (all scans of the subject if registered).
        left_out: what the conversion left out before, and why; told and recorded with the rest.
        conversion: how the data set was made (its split, its structures), recorded in ``dataset.json``.

    Returns:
        The folder written.

    Raises:
        CrossmodError: an unusable file, files that do not fit together, scans that do not make up a data set, or an
            existing data set. Nothing is left behind.
    """
    _check_arguments(scans, dataset_id, name, labels, source, target)
    folder, existing = new_dataset_folder(dataset_id, name, raw_folder, overwrite)

    def describe(scans: Sequence[Scan]) -> tuple[dict[str, Any], CrossmodBlock, list[dict[str, list[str]]]]:
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
            "conversion": dict(conversion or {}),
            "crossmod": block.to_json(),
        }
        block = CrossmodBlock.from_dataset_json(dataset_json, folder.name)
        return dataset_json, block, _declared_fold(scans) or splits(block.cases, folds, seed)

    # Once before anything is written: what cannot become a data set is told before minutes of copying.
    dataset_json, block, divided = describe(scans)
    values = {0: 0, **(label_map or {value: value for value in labels.values()})}
    # Only now: the metrics that this package imports beside it take seconds to load.
    from .overview import contact_sheet, overview_table

    facts: list[ScanFacts] = []
    skipped = list(left_out)
    broken: set[str] = set()
    with atomic_folder(folder, replacing=existing) as complete:
        for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
            (complete / part).mkdir()
        with tqdm(total=len(scans), desc=f"Writing {folder.name}", unit="scan", disable=None) as progress:
            for group in _groups(scans, registered):
                try:
                    facts += _write_group(group, complete, block, values, ignore=len(labels))
                except CrossmodError as error:
                    if not skip_broken:
                        raise
                    skipped.append(str(error))
                    broken |= {scan.name for scan in group}
                progress.update(len(group))
        if broken:
            _remove(broken, complete)
            scans = [scan for scan in scans if scan.name not in broken]
            _check_arguments(scans, dataset_id, name, labels, source, target)
            dataset_json, block, divided = describe(scans)
        if skipped:
            dataset_json["conversion"]["left_out"] = skipped
        write_descriptions(complete, dataset_json, divided)
        contact_sheet(facts, block, complete / SHEET)
    print(f"\n{folder}: {overview_table(facts, block, skipped)}\nTo check by eye: {folder / SHEET}\n")
    _warn_of_old_data(folder, existing)
    return folder


def new_dataset_folder(
    dataset_id: int, name: str, raw_folder: Path | None, overwrite: bool
) -> tuple[Path, Sequence[Path]]:
    """Where a data set will lie, and the data sets of the same id that it replaces.

    Raises:
        CrossmodError: a wrong id or name, no raw folder, or an id that is taken and may not be overwritten.
    """
    if not 1 <= dataset_id <= 999:
        raise CrossmodError(f"data set id {dataset_id} is not between 1 and 999: choose another one")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise CrossmodError(f"data set name {name!r} may hold letters, digits, _ and - only: choose another one")
    raw_folder = _raw_folder(raw_folder)
    existing = sorted(path for path in raw_folder.glob(f"Dataset{dataset_id:03d}_*") if path.is_dir())
    if existing and not overwrite:
        raise CrossmodError(f"{existing[0]} already has id {dataset_id}: choose another id, or add --overwrite")
    return raw_folder / f"Dataset{dataset_id:03d}_{name}", existing


def write_descriptions(
    folder: Path, dataset_json: Mapping[str, Any], divided: Sequence[Mapping[str, Sequence[str]]]
) -> None:
    """Write ``dataset.json`` and ``splits_final.json``."""
    (folder / "dataset.json").write_text(json.dumps(dataset_json, indent=2) + "\n")
    (folder / "splits_final.json").write_text(json.dumps(divided, indent=2) + "\n")


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
        "--source",
        nargs="+",
        default=list(source),
        metavar="MODALITY",
        help=f"annotated (default: {' '.join(source) or 'those with labels'})",
    )
    parser.add_argument(
        "--target",
        nargs="+",
        default=list(target),
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


def _check_arguments(
    scans: Sequence[Scan],
    dataset_id: int,
    name: str,
    labels: Mapping[str, int],
    source: Sequence[str],
    target: Sequence[str],
) -> None:
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
                f"modality {modality!r} has no training scans: add some, choose another --split, or "
                "leave it out of --source and --target"
            )
    if not any(scan.annotated and scan.modality in source for scan in training):
        raise CrossmodError(f"no training scan of the source {list(source)} is annotated: add its label files")


def _declared_fold(scans: Sequence[Scan]) -> list[dict[str, list[str]]]:
    """The one fold that the scans themselves declare; nothing where they leave it to a draw."""
    training = [scan for scan in scans if not scan.test]
    validated = sorted(scan.name for scan in training if scan.validation and scan.label is not None)
    if not validated:
        return []
    annotated = {scan.validation for scan in training if scan.annotated}
    if annotated != {True, False}:
        raise CrossmodError(
            f"annotated scans are found in {'validation' if True in annotated else 'training'} only: both parts of the "
            "data set are needed"
        )
    return [{"train": sorted(scan.name for scan in training if not scan.validation), "val": validated}]


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
) -> list[ScanFacts]:
    from .overview import examine_scan

    images = [_read(scan) for scan in group]
    for scan, image in zip(group, images, strict=True):
        check_same_grid(images[0], image, _where(group[0]), _where(scan))
    facts = []
    for scan, image in zip(group, images, strict=True):
        part = "Ts" if scan.test else "Tr"
        _save_image(scan, image, folder / f"images{part}" / f"{scan.name}_0000{FILE_ENDING}")
        channel = modality_channel(image, block.modalities.index(scan.modality), images)
        _save(channel, folder / f"images{part}" / f"{scan.name}_0001{FILE_ENDING}")
        label = None if scan.label is None else _read_label(scan, image, values)
        if label is not None:
            _save_label(label, image, folder / f"labels{part}" / f"{scan.name}{FILE_ENDING}")
        elif not scan.test:
            nothing = np.full(image.GetSize()[::-1], ignore, dtype=np.uint8)
            _save_label(nothing, image, folder / f"labels{part}" / f"{scan.name}{FILE_ENDING}")
        facts.append(examine_scan(scan.name, image, label))
    return facts


def _remove(broken: Collection[str], folder: Path) -> None:
    """Remove what was written of scans before they proved broken."""
    for name in broken:
        for part in ("Tr", "Ts"):
            for channel in ("_0000", "_0001"):
                (folder / f"images{part}" / f"{name}{channel}{FILE_ENDING}").unlink(missing_ok=True)
            (folder / f"labels{part}" / f"{name}{FILE_ENDING}").unlink(missing_ok=True)


def _load(voxels: Voxels, where: str) -> sitk.Image:
    if isinstance(voxels, Path):
        return read_image(voxels)
    image = voxels.read() if isinstance(voxels, Deferred) else voxels
    check_image(image, where)
    return image


def _read(scan: Scan) -> sitk.Image:
    image = _load(scan.image, _where(scan))
    if is_all_zero(image):
        raise CrossmodError(f"{_where(scan)} is all zero: export the scan again, or leave the case out")
    return image


def _read_label(scan: Scan, image: sitk.Image, values: Mapping[int, int]) -> NDArray[np.uint8]:
    """The label map of a scan in the data set's values."""
    assert scan.label is not None
    where = _where_is(scan.label, f"the label of case {scan.name!r}")
    label = _load(scan.label, where)
    check_same_grid(image, label, _where(scan), where)
    if scan.label_map is not None:
        values = {0: 0, **scan.label_map}
    voxels = sitk.GetArrayViewFromImage(label)
    low, high = voxels.min(), voxels.max()
    if low == high == 0 and not scan.may_be_empty:
        raise CrossmodError(
            f"{where} is empty, it labels no voxel: correct the file, or remove it to leave it unlabelled"
        )
    if np.issubdtype(voxels.dtype, np.integer) and low >= -(2**15) and high < 2**16:
        # Whole volumes of CT: a look-up takes seconds where sorting all voxels takes minutes.
        index = voxels.astype(np.int32) - np.int32(low)
        places = np.flatnonzero(np.bincount(index.ravel()))
        found = places + int(low)
    else:
        found, index = np.unique(voxels, return_inverse=True)
        places = np.arange(len(found))
    unknown = [value for value in found.tolist() if value not in values]
    if unknown:
        told = f"{unknown[:10]}{f' and {len(unknown) - 10} more' if len(unknown) > 10 else ''}"
        raise CrossmodError(
            f"{where} holds the values {told}, which are no labels of this data set; known are {_brief(values)}: "
            "correct the file, or add them to the label table"
        )
    table: NDArray[np.uint8] = np.zeros(int(places[-1]) + 1, dtype=np.uint8)
    table[places] = [values[int(value)] for value in found]
    return np.asarray(table[index].reshape(image.GetSize()[::-1]))


def _brief(values: Iterable[int]) -> str:
    """Numbers in a list, runs of them as ``56-70``."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return f"[{', '.join(f'{r[0]}-{r[-1]}' if len(r) > 2 else ', '.join(map(str, r)) for r in runs)}]"


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
    return _where_is(scan.image, f"the image of case {scan.name!r}")


def _where_is(voxels: Voxels, otherwise: str) -> str:
    if isinstance(voxels, Deferred):
        return str(voxels.where)
    return str(voxels) if isinstance(voxels, Path) else otherwise


def _warn_of_old_data(folder: Path, replaced: Sequence[Path]) -> None:
    preprocessed = os.environ.get(_PREPROCESSED)
    if replaced and preprocessed and (Path(preprocessed) / folder.name).is_dir():
        print(f"Remove {Path(preprocessed) / folder.name} before planning again: it belongs to the replaced data set")
    for file in sorted(folder.parent.glob("Dataset*/dataset.json")) if replaced else []:
        # Other people's data sets lie here too: nothing is taken for granted about their files.
        told = re.search(r'"reuses":\s*"([^"]*)"', file.read_text(errors="replace"))
        if told and told[1] in {old.name for old in replaced}:
            print(f"Convert {file.parent.name} again: it reads the files of the replaced data set")
