"""The one writer of raw data sets: whatever a data set looks like, it becomes one nnU-Net folder with one contract.

``DatasetXXX_Name`` has the modality channel, the ``"crossmod"`` block and the folds; it appears complete or not at all.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from tqdm import tqdm

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.paths import nnunet_folder
from nnunet_crossmod.raw.atomic_folder import atomic_folder
from nnunet_crossmod.raw.block import CrossmodBlock
from nnunet_crossmod.raw.image_files import (
    Reading,
    aligned,
    check_image,
    check_same_grid,
    is_all_zero,
    onto_grid,
    read_with_notes,
    save_image,
)
from nnunet_crossmod.raw.modality_channel import channel_file, modality_channel

from .label_maps import check_segment_names, map_labels
from .raw_dataset import FILE_ENDING, Deferred, RawDataset, Scan, Voxels

if TYPE_CHECKING:
    from .overview import ScanFacts

__all__ = [
    "SHEET",
    "new_dataset_folder",
    "raw_folder_of",
    "try_raw_dataset",
    "write_descriptions",
    "write_raw_dataset",
]

SHEET = "contact_sheet.png"
_RESAMPLE = "put the label map onto the image with --resample-labels, or export it anew"
_RAW, _PREPROCESSED = "nnUNet_raw", "nnUNet_preprocessed"


def write_raw_dataset(
    dataset: RawDataset,
    dataset_id: int,
    *,
    raw_folder: Path | None = None,
    overwrite: bool = False,
    skip_broken: bool = False,
) -> Path:
    """Write ``DatasetXXX_Name``: complete, or not at all.

    Args:
        dataset: what it holds.
        dataset_id: 1 to 999.
        raw_folder: where to write; ``$nnUNet_raw`` by default.
        overwrite: replace the data set that has this id.
        skip_broken: leave out scans with unusable files instead of stopping (all scans of the subject if registered).

    Returns:
        The folder written.

    Raises:
        CrossmodError: an unusable file, files that do not fit together, scans that do not make up a data set, or an
            existing data set. Nothing is left behind.
    """
    dataset.check()
    folder, existing = new_dataset_folder(dataset_id, dataset.name, raw_folder, overwrite)
    # Once before anything is written: what cannot become a data set is reported before minutes of copying.
    dataset_json, block, folds = dataset.describe(folder.name)
    # Only now: the metrics that this package imports beside it take seconds to load.
    from .overview import contact_sheet, orientations, overview_table, overview_warnings

    facts: list[ScanFacts] = []
    reasons: list[str] = []
    broken: set[str] = set()
    notes: dict[str, list[str]] = {}
    with atomic_folder(folder, replacing=existing) as complete:
        for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
            (complete / part).mkdir()
        with tqdm(total=len(dataset.scans), desc=f"Writing {folder.name}", unit="scan", disable=None) as progress:
            for group in _groups(dataset):
                try:
                    facts += _write_group(group, complete, block, dataset, notes)
                except CrossmodError as error:
                    if not skip_broken:
                        raise
                    reasons.append(str(error))
                    broken |= {scan.name for scan in group}
                    _remove(group, complete)
                progress.update(len(group))
        if broken:
            dataset = dataset.without(broken, reasons)
            dataset.check()
            dataset_json, block, folds = dataset.describe(folder.name)
        dataset_json["crossmod"] = replace(block, orientations=orientations(facts, block)).to_json()
        write_descriptions(complete, dataset_json, folds)
        contact_sheet(facts, block, complete / SHEET)
    print(f"\n{folder}: {overview_table(facts, block, dataset.left_out)}\nTo check by eye: {folder / SHEET}")
    _print_doubts(notes, overview_warnings(facts, block, dataset.handling.reorient))
    _warn_of_old_data(folder, existing)
    return folder


def try_raw_dataset(
    dataset: RawDataset,
    dataset_id: int,
    problems: Sequence[str] = (),
    *,
    raw_folder: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Read and check all that :func:`write_raw_dataset` would, print what is wrong with each scan, and write nothing.

    Args:
        dataset: what the data set would hold.
        dataset_id: 1 to 999.
        problems: what is wrong besides, one line each.
        raw_folder: where it would be written; ``$nnUNet_raw`` by default.
        overwrite: whether it may replace the data set that has this id.

    Raises:
        CrossmodError: something is wrong.
    """
    from .overview import overview_warnings
    from .preview import problem_table

    wrong: dict[str, str] = {}
    general = list(problems)
    facts: list[ScanFacts] = []
    notes: dict[str, list[str]] = {}
    for group in tqdm(list(_groups(dataset)), desc=f"Reading {dataset.name}", unit="scan", disable=None):
        read: list[_ScanData] = []
        for scan in group:
            try:
                read.append(_read_scan(scan, dataset))
                check_same_grid(read[0].image, read[-1].image, read[0].scan.image_place, scan.image_place)
            except CrossmodError as error:
                wrong[scan.name] = str(error)
            else:
                facts.append(_facts(read[-1], notes))
    kept = dataset.without(set(wrong), [])
    doubts: list[str] = []
    try:
        new_dataset_folder(dataset_id, dataset.name, raw_folder, overwrite)
    except CrossmodError as error:
        general.append(str(error))
    try:
        kept.check()
        doubts = overview_warnings(facts, kept.describe(dataset.name)[1], dataset.handling.reorient)
    except CrossmodError as error:
        general.append(str(error))
    print(problem_table(dataset, wrong, general))
    _print_doubts(notes, doubts)
    if wrong or general:
        raise CrossmodError(
            f"{len(wrong)} of {len(dataset.scans)} scans cannot be used, {len(general)} things are wrong besides: "
            "see the table; mend them, or leave the scans out with --skip-broken"
        )
    print("Nothing is wrong: convert without --dry-run")


def _print_doubts(notes: Mapping[str, Sequence[str]], warnings: Sequence[str]) -> None:
    for note, places in notes.items():
        others = f" and {len(places) - 1} more" if len(places) > 1 else ""
        print(f"Note: {places[0]}{others}: {note}; written so that all readers agree")
    for warning in warnings:
        print(f"Warning: {warning}")


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
    raw_folder = raw_folder_of(raw_folder)
    existing = sorted(path for path in raw_folder.glob(f"Dataset{dataset_id:03d}_*") if path.is_dir())
    if existing and not overwrite:
        raise CrossmodError(f"{existing[0]} already has id {dataset_id}: choose another id, or add --overwrite")
    return raw_folder / f"Dataset{dataset_id:03d}_{name}", existing


def raw_folder_of(chosen: Path | None) -> Path:
    """The chosen folder, or ``$nnUNet_raw``.

    Raises:
        CrossmodError: neither is given, or ``$nnUNet_raw`` does not exist.
    """
    if chosen is not None:
        return Path(chosen)
    folder = nnunet_folder(_RAW)
    if not folder.is_dir():
        raise CrossmodError(f"{_RAW} names {folder}, which does not exist: correct it, or mkdir -p {folder}")
    return folder


def write_descriptions(
    folder: Path, dataset_json: Mapping[str, Any], folds: Sequence[Mapping[str, Sequence[str]]]
) -> None:
    """Write ``dataset.json`` and ``splits_final.json``."""
    (folder / "dataset.json").write_text(json.dumps(dataset_json, indent=2) + "\n")
    (folder / "splits_final.json").write_text(json.dumps(folds, indent=2) + "\n")


def _groups(dataset: RawDataset) -> Iterator[list[Scan]]:
    """Scans that must be held in memory together: those of a subject if they share a grid, else one at a time."""
    groups: dict[str, list[Scan]] = {}
    for scan in dataset.scans:
        groups.setdefault(scan.subject if dataset.registered else scan.name, []).append(scan)
    yield from groups.values()


class _ScanData(NamedTuple):
    """A scan that was read: its image, the notes on its file, its label map (z, y, x) if it has one."""

    scan: Scan
    reading: Reading
    label: NDArray[np.uint8] | None

    @property
    def image(self) -> sitk.Image:
        return self.reading.image


def _read_scan(scan: Scan, dataset: RawDataset) -> _ScanData:
    reading = _read(scan.image, scan.image_place)
    if is_all_zero(reading.image):
        raise CrossmodError(f"{scan.image_place} is all zero: export the scan again, or leave the case out")
    return _ScanData(scan, reading, None if scan.label is None else _read_label(scan, reading.image, dataset))


def _write_group(
    group: Sequence[Scan], folder: Path, block: CrossmodBlock, dataset: RawDataset, notes: dict[str, list[str]]
) -> list[ScanFacts]:
    read = [_read_scan(scan, dataset) for scan in group]
    for item in read:
        check_same_grid(read[0].image, item.image, read[0].scan.image_place, item.scan.image_place)
    images = [item.image for item in read]
    for item in read:
        scan, files = item.scan, _Files(folder, item.scan)
        if isinstance(scan.image, Path):
            save_image(item.reading, scan.image, files.image, shutil.copyfile)
        else:
            _save(item.image, files.image)
        _save(modality_channel(item.image, block.modalities.index(scan.modality), images), files.modality_channel)
        if item.label is not None:
            _save_label(item.label, item.image, files.label)
        elif not scan.test:
            _save_label(np.full(item.image.GetSize()[::-1], dataset.ignore, dtype=np.uint8), item.image, files.label)
    return [_facts(item, notes) for item in read]


def _facts(item: _ScanData, notes: dict[str, list[str]]) -> ScanFacts:
    from .overview import examine_scan

    for note in item.reading.notes:
        notes.setdefault(note, []).append(item.scan.image_place)
    return examine_scan(item.scan.name, item.image, item.label)


class _Files:
    """The files of a scan in the data set."""

    def __init__(self, folder: Path, scan: Scan) -> None:
        part = "Ts" if scan.test else "Tr"
        self.image = folder / f"images{part}" / channel_file(scan.name, 0, FILE_ENDING)
        self.modality_channel = folder / f"images{part}" / channel_file(scan.name, 1, FILE_ENDING)
        self.label = folder / f"labels{part}" / f"{scan.name}{FILE_ENDING}"


def _remove(group: Sequence[Scan], folder: Path) -> None:
    """Remove what was written of scans before one of them proved broken."""
    for scan in group:
        files = _Files(folder, scan)
        for file in (files.image, files.modality_channel, files.label):
            file.unlink(missing_ok=True)


def _read(voxels: Voxels, where: str) -> Reading:
    if isinstance(voxels, Path):
        return read_with_notes(voxels)
    image = voxels.read() if isinstance(voxels, Deferred) else voxels
    check_image(image, where)
    return Reading(image)


def _read_label(scan: Scan, image: sitk.Image, dataset: RawDataset) -> NDArray[np.uint8]:
    """The label map of a scan in the data set's values."""
    assert scan.label is not None
    label = aligned(image, _read(scan.label, scan.label_place).image)
    values = dataset.label_map if scan.label_map is None else scan.label_map
    if values is None:
        values = {value: value for value in dataset.labels.values()}
    names = {value: name for name, value in dataset.labels.items()}
    check_segment_names(label, {value: names[own] for value, own in values.items() if own in names}, scan.label_place)
    if dataset.handling.resample_labels:
        label = onto_grid(label, image, scan.label_place)
    else:
        check_same_grid(image, label, scan.image_place, scan.label_place, _RESAMPLE)
    may_be_empty = scan.may_be_empty or dataset.handling.allow_empty
    return map_labels(label, {0: 0, **values}, scan.label_place, may_be_empty)


def _save_label(values: NDArray[np.uint8], image: sitk.Image, destination: Path) -> None:
    label = sitk.GetImageFromArray(values)
    label.CopyInformation(image)
    _save(label, destination)


def _save(image: sitk.Image, destination: Path) -> None:
    sitk.WriteImage(image, str(destination), useCompression=True)


def _warn_of_old_data(folder: Path, replaced: Sequence[Path]) -> None:
    preprocessed = os.environ.get(_PREPROCESSED)
    if replaced and preprocessed and (Path(preprocessed) / folder.name).is_dir():
        print(f"Remove {Path(preprocessed) / folder.name} before planning again: it belongs to the replaced data set")
    for file in sorted(folder.parent.glob("Dataset*/dataset.json")) if replaced else []:
        # Other people's data sets lie here too: nothing is taken for granted about their files.
        reused = re.search(r'"reuses":\s*"([^"]*)"', file.read_text(errors="replace"))
        if reused and reused[1] in {old.name for old in replaced}:
            print(f"Convert {file.parent.name} again: it reads the files of the replaced data set")
