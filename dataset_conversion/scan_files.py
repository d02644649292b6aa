"""Find the image and the label file of each scan, in folders or by file-name patterns."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from nnunet_crossmod.errors import CrossmodError

from .dicom_series import is_dicom_folder
from .find_files import Findings

__all__ = ["ENDINGS", "ScanFiles", "find_scan_files"]

ENDINGS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".gipl", ".hdr")
_LABEL = re.compile(r"_(label|labels|seg|segmentation|mask|gt|manual)$")
_IMAGE = re.compile(r"_(0000|image|img)$")
_WORD = re.compile(r"_(image|img)$")
_WILDCARD = re.compile(r"(\*\*/|\*|\?|\[[^]]+\])")

Key: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class ScanFiles:
    """The files of a scan: its name, its image (a file or a DICOM folder) and its label file, if it has one."""

    name: str
    image: Path
    label: Path | None


@dataclass(frozen=True)
class _Place:
    """A folder, or a pattern such as ``mr/image_*.nii.gz``."""

    text: str

    @property
    def is_pattern(self) -> bool:
        return _WILDCARD.search(self.text) is not None

    @property
    def wildcards(self) -> int:
        return len(_WILDCARD.findall(self.text))

    def files(self, of_labels: bool) -> Iterator[Path]:
        """Its image files, and its DICOM folders unless labels are looked for."""
        if self.is_pattern:
            paths = [Path(path) for path in glob.glob(self.text, recursive=True)]
        elif Path(self.text).is_dir():
            paths = list(Path(self.text).iterdir())
        else:
            raise CrossmodError(f"{self.text} is no folder: correct the path")
        for path in sorted(paths):
            if path.name.startswith("."):
                continue
            if path.name.lower().endswith(ENDINGS) or (not of_labels and is_dicom_folder(path)):
                yield path

    def matched_text(self, path: Path) -> Key:
        """What stands for the wildcards of the pattern in a path that fits it."""
        parts = _WILDCARD.split(self.text)
        # Odd places hold the wildcards.
        expression = "".join(_expression(part) if place % 2 else re.escape(part) for place, part in enumerate(parts))
        match = re.fullmatch(expression, str(path))
        assert match is not None
        return match.groups()


def find_scan_files(images: Sequence[str], labels: Sequence[str], findings: Findings) -> Iterator[ScanFiles]:
    """The scans of one modality.

    In folders, a label file has the name of its image, apart from ``_0000``, ``_image``, ``_label``, ``_seg`` and the
    like at the end. Where both are patterns, a label belongs to the image with the same text in place of the
    wildcards. A label may lie beside its image: it is never taken for an image.

    Args:
        images: folders, or patterns with ``*``, ``?`` or ``[…]``.
        labels: folders or patterns of label files; empty where there are none.
        findings: collects what is wrong with single files.

    Raises:
        CrossmodError: no such folder, no image, or patterns of images and labels that differ in their wildcards.
    """
    # A path as text is what the paths found begin with: "./mr" becomes "mr".
    image_places = [_Place(str(Path(text))) for text in images]
    label_places = [_Place(str(Path(text))) for text in labels]
    by_pattern = bool(labels) and all(place.is_pattern for place in (*image_places, *label_places))
    if by_pattern and len({place.wildcards for place in (*image_places, *label_places)}) > 1:
        raise CrossmodError(
            f"the patterns {', '.join((*images, *labels))} differ in their number of wildcards, so labels cannot be "
            "assigned to images: write them alike"
        )
    candidates = [(place, path) for place in image_places for path in place.files(of_labels=False)]
    candidate_labels = [
        (place, path)
        for place in label_places
        for path in place.files(of_labels=True)
        if place not in image_places or _LABEL.search(_stem(path))
    ]
    suffix = _image_suffix([_stem(path) for _, path in candidates], [_stem(path) for _, path in candidate_labels])
    label_files: dict[Key, Path] = {}
    for place, path in candidate_labels:
        key = place.matched_text(path) if by_pattern else (suffix.sub("", _LABEL.sub("", _stem(path))),)
        _add(label_files, key, path, findings)
    image_files: dict[Key, Path] = {}
    names: dict[Key, str] = {}
    for place, path in _without_labels(candidates, list(label_files.values()), suffix):
        name = _name(place, path, suffix)
        key = place.matched_text(path) if by_pattern else (name,)
        if _add(image_files, key, path, findings):
            names[key] = name
    if not image_files:
        raise CrossmodError(
            f"{', '.join(images)} holds no image ({', '.join(ENDINGS)} or DICOM folders): correct the path"
        )
    for key in sorted(set(label_files) - set(image_files)):
        findings.broken(f"{label_files[key]} has no image in {', '.join(images)}: add it, or remove the label")
    for key, image in image_files.items():
        yield ScanFiles(names[key], image, label_files.get(key))


def _image_suffix(images: Sequence[str], labels: Sequence[str]) -> re.Pattern[str]:
    """What does not count at the end of an image's name: ``_0000`` does where it is the number of the scan."""
    numbered = [stem for stem in images if re.search(r"_\d{4}$", stem)]
    are_scans = len({stem[-4:] for stem in numbered}) > 1
    are_channels = any(_LABEL.sub("", label) == stem[:-5] for label in labels for stem in numbered)
    return _WORD if are_scans and not are_channels else _IMAGE


def _without_labels(
    candidates: Sequence[tuple[_Place, Path]], labels: Sequence[Path], suffix: re.Pattern[str]
) -> Iterator[tuple[_Place, Path]]:
    """The files that are no labels: neither named as such nor with the name of an image beside them and ``_label``."""
    taken = {path.resolve() for path in labels}
    images = {(path.parent, suffix.sub("", _stem(path))) for _, path in candidates}
    for place, path in candidates:
        image = _LABEL.sub("", _stem(path))
        belongs_to_image = image != _stem(path) and (path.parent, suffix.sub("", image)) in images
        if not belongs_to_image and path.resolve() not in taken:
            yield place, path


def _add(files: dict[Key, Path], key: Key, path: Path, findings: Findings) -> bool:
    if key in files:
        findings.broken(f"{files[key]} and {path} have one name: remove or rename one")
        return False
    files[key] = path
    return True


def _name(place: _Place, path: Path, suffix: re.Pattern[str]) -> str:
    """The file's own name; what stands for the wildcards where folders are among them, as in ``*/ct.nii.gz``."""
    if place.is_pattern and _WILDCARD.search(str(Path(place.text).parent)):
        return "_".join(_stem(Path(text.strip("/").replace("/", "_"))) for text in place.matched_text(path) if text)
    return suffix.sub("", _stem(path))


def _expression(wildcard: str) -> str:
    if wildcard == "**/":
        return "((?:.*/)?)"
    return {"*": "([^/]*)", "?": "([^/])"}.get(wildcard, f"({wildcard.replace('[!', '[^')})")


def _stem(path: Path) -> str:
    return next((path.name[: -len(end)] for end in ENDINGS if path.name.lower().endswith(end)), path.name)
