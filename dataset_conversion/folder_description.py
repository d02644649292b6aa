"""The description of folders of scans, checked, as a data set that can be converted."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_crossmod.errors import CrossmodError

from .conversion import DataSet
from .dicom_series import read_dicom_series
from .find_files import Findings
from .raw_dataset import Deferred, Scan
from .scan_files import find_scan_files
from .subjects import subject_by_pattern, subject_warnings, subjects_by_name

__all__ = ["dataset_of"]

_KEYS = {"name", "source", "target", "labels", "images", "label_files", "labels_of", "series", "subject"}
_FLAGS = {"registered": False, "paired": True, "partial": False, "resample_uneven": False}


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
    common, own, series = (_table(description, key) for key in ("labels", "labels_of", "series"))
    for key, named in (("label_files", label_files), ("labels_of", own), ("series", series)):
        for modality in named:
            if modality not in images:
                raise CrossmodError(f'"{key}" names {modality!r}, but "images" has {list(images)}: name its images')
    for modality in images:
        if modality in label_files and not (own.get(modality) or common):
            raise CrossmodError(f'no labels are named: give "labels" as name: value, or "labels_of" for {modality}')
    flags = {key: description.get(key, default) for key, default in _FLAGS.items()}
    if wrong := [key for key, value in flags.items() if not isinstance(value, bool)]:
        raise CrossmodError(f'"{wrong[0]}" must be true or false')
    subject = _pattern(description.get("subject"))

    def find(_: Sequence[Path], findings: Findings) -> Iterator[Scan]:
        for modality in images:
            files = list(find_scan_files(images[modality], label_files.get(modality, []), findings))
            by_name = subjects_by_name([item.name for item in files], modality)
            read = partial(read_dicom_series, series=series.get(modality), resample_uneven=flags["resample_uneven"])
            for item in files:
                whose = (
                    by_name[item.name] if subject is None else subject_by_pattern(subject, item.name, str(item.image))
                )
                whose = whose if flags["paired"] else f"{whose}_{modality}"
                image = Deferred(item.image, partial(read, item.image)) if item.image.is_dir() else item.image
                yield Scan(_case_name(item.name, modality), modality, whose, image, item.label)

    return DataSet(
        name=str(description.get("name", "Folders")),
        description=f"{', '.join(images)} from folders",
        expects="the folder that the description is relative to",
        ids={modality: _ids(own.get(modality, common)) for modality in images},
        structures={"all": list(dict.fromkeys([*common, *(name for table in own.values() for name in table)]))},
        find=find,
        source=description.get("source") or [name for name in images if name in label_files],
        target=description.get("target") or [name for name in images if name not in label_files],
        split="none",
        registered=flags["registered"],
        partial=flags["partial"],
        warn=subject_warnings,
    )


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
        raise CrossmodError(f'"subject" is no regular expression: {error}') from error


def _table(description: Mapping[str, Any], key: str) -> dict[str, Any]:
    table = description.get(key, {})
    if not isinstance(table, dict) or (key == "images" and len(table) < 2):
        raise CrossmodError(f'"{key}" must be an object{" with two modalities or more" if key == "images" else ""}')
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


def _ids(table: Any) -> dict[int, str]:
    """Value in the label files → structure."""
    ids: dict[int, str] = {}
    for name, values in table.items() if isinstance(table, dict) else ():
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, int) or isinstance(value, bool) or value == 0 or value in ids:
                raise CrossmodError(f"label {name!r} has the value {value!r}: give each label whole numbers of its own")
            ids[value] = name
    return ids
