"""The description of folders of scans, checked, as a data set that can be converted."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.raw.image_files import read_image

from .conversion import DataSet
from .dicom_series import read_dicom_series
from .find_files import Findings
from .raw_dataset import IGNORE, Deferred, Scan
from .scan_files import ScanFiles, find_scan_files
from .subjects import subject_by_pattern, subject_warnings, subjects_by_name

__all__ = ["dataset_of"]

_TABLES = ("labels", "images", "label_files", "labels_of", "series", "frame")
_KEYS = {"name", "source", "target", "subject", "ignore", *_TABLES}
_FLAGS = {"registered": False, "paired": True, "partial": False, "resample_uneven": False, "keep_even": False}


def dataset_of(description: Mapping[str, Any], base: Path) -> DataSet:
    """The data set that a description stands for.

    Args:
        description: the content of the JSON file; see ``folders.py`` for its entries.
        base: what its paths are relative to.

    Raises:
        CrossmodError: an unknown key, or a missing or wrong entry.
    """
    known = _KEYS | set(_FLAGS)
    unknown = sorted(set(description) - known)
    if unknown:
        raise CrossmodError(f"{unknown[0]!r} means nothing; known are {sorted(known)}")
    images, label_files = _places(description, "images", base), _places(description, "label_files", base)
    common, own, series, frame = (_table(description, key) for key in ("labels", "labels_of", "series", "frame"))
    for key, named in (("label_files", label_files), ("labels_of", own), ("series", series), ("frame", frame)):
        for modality in named:
            if modality not in images:
                raise CrossmodError(
                    f'"{key}" (--{key.replace("_", "-")}) names {modality!r}, but "images" (--images) has '
                    f"{list(images)}: name its images"
                )
    if not label_files:
        raise CrossmodError(
            'no label files are given: name those of the source with "label_files" (--label-files MODALITY=FOLDER)'
        )
    for modality in images:
        if modality in label_files and not (own.get(modality) or common):
            raise CrossmodError(
                f'no labels are named: give "labels" (--labels) as name: value, or "labels_of" (--labels-of) for '
                f"{modality}"
            )
    flags = {key: description.get(key, default) for key, default in _FLAGS.items()}
    if wrong := [key for key, value in flags.items() if not isinstance(value, bool)]:
        raise CrossmodError(f'"{wrong[0]}" must be true or false')
    if flags["resample_uneven"] and flags["keep_even"]:
        raise CrossmodError("--resample-uneven and --keep-even exclude each other: choose one")
    for modality, number in frame.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise CrossmodError(f'"frame" (--frame) of {modality} is {number!r}: give a number, counted from 0')
    subject = _pattern(description.get("subject"))

    def find(_: Sequence[Path], findings: Findings) -> Iterator[Scan]:
        modality_of: dict[Path, str] = {}
        for modality in images:
            places = images[modality], label_files.get(modality, [])
            findings.inputs += [Path(place) for place in (*places[0], *places[1]) if Path(place).is_dir()]
            files = list(find_scan_files(*places, findings, frame.get(modality)))
            by_name = subjects_by_name([item.name for item in files], modality)
            cases = _case_names([item.name for item in files], modality)
            read = partial(
                read_dicom_series,
                series=series.get(modality),
                resample_uneven=flags["resample_uneven"],
                keep_even=flags["keep_even"],
            )
            for item in files:
                other = modality_of.setdefault(item.image.resolve(), modality)
                if other != modality:
                    raise CrossmodError(
                        f"{item.image} is given as {other} and as {modality}: give each modality its own files with "
                        "--images, by patterns if they lie in one folder"
                    )
                whose = (
                    by_name[item.name] if subject is None else subject_by_pattern(subject, item.name, str(item.image))
                )
                whose = whose if flags["paired"] else f"{whose}_{modality}"
                case = cases[item.name]
                if not item.name.isascii():
                    findings.renamed[case] = item.name
                yield Scan(case, modality, whose, _image(item, read, frame.get(modality)), item.label)

    return DataSet(
        name=str(description.get("name", "Folders")),
        description=f"{', '.join(images)} from folders",
        expects="the folder that the description is relative to",
        ids={modality: _ids(own.get(modality, common), description.get("ignore", [])) for modality in images},
        structures={"all": _structures(common, *own.values())},
        find=find,
        source=description.get("source") or [name for name in images if name in label_files],
        target=description.get("target") or [name for name in images if name not in label_files],
        split="none",
        registered=flags["registered"],
        partial=flags["partial"],
        warn=subject_warnings,
    )


def _image(item: ScanFiles, read_series: Any, frame: int | None) -> Path | Deferred:
    if item.image.is_dir():
        return Deferred(item.image, partial(read_series, item.image))
    if frame is None:
        return item.image
    return Deferred(item.image, partial(read_image, item.image, frame))


def _case_names(names: Sequence[str], modality: str) -> dict[str, str]:
    """Name of a scan → name of its case, of plain letters; numbered where too little is left to tell scans apart."""
    plain = {name: _case_name(name, modality) for name in names}
    cases: dict[str, str] = {}
    for name in names:
        if not name.isascii() and (list(plain.values()).count(plain[name]) > 1 or plain[name] == modality):
            taken = set(plain.values()) | set(cases.values())
            numbered = (f"scan{number}_{modality}" for number in range(1, len(names) + len(taken) + 1))
            cases[name] = next(case for case in numbered if case not in taken)
        else:
            cases[name] = plain[name]
    return cases


def _case_name(name: str, modality: str) -> str:
    """The name of a scan with its modality, unless the name tells it by itself: ``p1_T2``, ``t2_01``."""
    lower, word = name.lower(), modality.lower()
    if not (lower.endswith(word) or re.match(rf"{re.escape(word)}[_-]", lower)):
        name = f"{name}_{modality}"
    # Müller becomes Muller, as nnU-Net's files had better have plain names.
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).lstrip("._-")


def _pattern(subject: Any) -> re.Pattern[str] | None:
    try:
        return None if subject is None else re.compile(str(subject))
    except re.error as error:
        raise CrossmodError(f'"subject" (--subject) is no regular expression: {error}') from error


def _table(description: Mapping[str, Any], key: str) -> dict[str, Any]:
    table = description.get(key, {})
    if not isinstance(table, dict):
        raise CrossmodError(f'"{key}" must be an object')
    if key == "images" and len(table) < 2:
        raise CrossmodError('"images" (--images) must name two modalities or more: --images A=FOLDER B=FOLDER')
    return table


def _places(description: Mapping[str, Any], key: str, base: Path) -> dict[str, list[str]]:
    """Modality → its folders and patterns."""
    places = {}
    for modality, value in _table(description, key).items():
        listed = value if isinstance(value, list) else [value]
        if not listed or not all(isinstance(place, str) for place in listed):
            raise CrossmodError(f'"{key}" of {modality} must be a folder, a pattern, or a list of them')
        places[modality] = [str(base / place) for place in listed]
    return places


def _structures(*tables: Mapping[str, Any]) -> list[str]:
    """The names of the tables, but for those of voxels that belong to no structure."""
    names = dict.fromkeys(name for table in tables for name in table)
    return [name for name in names if name not in ("background", IGNORE)]


def _ids(table: Any, ignored: Any) -> dict[int, str]:
    """Value in the label files → structure."""
    ids: dict[int, str] = {}
    entries = dict(table) if isinstance(table, dict) else {}
    for name, values in [*entries.items(), (IGNORE, ignored)]:
        for value in values if isinstance(values, list) else [values]:
            is_number = isinstance(value, int) and not isinstance(value, bool) and (value != 0 or name == IGNORE)
            if not is_number or value in ids:
                raise CrossmodError(
                    f"label {name!r} has the value {value!r}: give each label whole numbers of its own with --labels, "
                    "other than 0"
                )
            ids[value] = name
    return ids
