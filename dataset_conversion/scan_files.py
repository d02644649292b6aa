"""Find the image and the label file of each scan, in folders or by file-name patterns."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.raw.scan_listing import ENDINGS, ending_of, files_below, is_hidden, natural_order, stem_of

from .dicom_series import is_dicom_folder
from .find_files import Findings

__all__ = ["ScanFiles", "find_scan_files"]

_LABEL = re.compile(r"[._](label|labels|seg|segmentation|mask|gt|manual)$", re.IGNORECASE)
_IMAGE = re.compile(r"_(0000|image|img)$", re.IGNORECASE)
_WORD = re.compile(r"_(image|img)$", re.IGNORECASE)
_CHANNEL = re.compile(r"_\d{4}$")
_WILDCARD = re.compile(r"(\*\*/|\*|\?|\[[^]]+\])")

Key: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class ScanFiles:
    """The files of a scan: its name, its image (a file or a DICOM folder) and its label file, if it has one."""

    name: str
    image: Path
    label: Path | None


@dataclass(frozen=True)
class _Candidate:
    """A file, or a folder with DICOM files, that was found in a place."""

    place: _Place
    path: Path

    @property
    def stem(self) -> str:
        return stem_of(self.path)

    @property
    def case_folder(self) -> Path | None:
        """The sub-folder of its place that it lies in, if it does."""
        if self.place.is_pattern or self.path == Path(self.place.text):
            return None
        inside = self.path.relative_to(self.place.text)
        return Path(self.place.text, inside.parts[0]) if len(inside.parts) > 1 else None


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

    def candidates(self, of_labels: bool) -> list[_Candidate]:
        """Its image files, and its DICOM folders unless labels are looked for."""
        if self.is_pattern:
            # An ending counts in any case, as in folders.
            ending = ending_of(Path(self.text))
            anyhow = "".join(f"[{letter}{letter.upper()}]" if letter.isalpha() else letter for letter in ending)
            paths = sorted(map(Path, glob.glob(self.text[: len(self.text) - len(ending)] + anyhow, recursive=True)))
            found = [
                path
                for path in paths
                if not is_hidden(path) and (ending_of(path) or (not of_labels and is_dicom_folder(path)))
            ]
        elif not Path(self.text).is_dir():
            raise CrossmodError(f"{self.text} is no folder: correct the path")
        elif not of_labels and is_dicom_folder(Path(self.text)):
            found = [Path(self.text)]
        else:
            children = [path for path in Path(self.text).iterdir() if not is_hidden(path)]
            children.sort(key=lambda path: natural_order(path.name))
            found = [path for path in children if path.is_file() and ending_of(path)]
            for child in children:
                if child.is_dir():
                    found += _shallowest(child, of_labels)
        return [_Candidate(self, path) for path in found]

    def matched_text(self, path: Path) -> Key:
        """What stands for the wildcards of the pattern in a path that fits it."""
        parts = _WILDCARD.split(self.text)
        # Odd places hold the wildcards.
        expression = "".join(_expression(part) if place % 2 else re.escape(part) for place, part in enumerate(parts))
        match = re.fullmatch(expression, str(path), re.IGNORECASE)
        assert match is not None
        return match.groups()


def find_scan_files(
    images: Sequence[str], labels: Sequence[str], findings: Findings, channel: int | None = None
) -> Iterator[ScanFiles]:
    """The scans of one modality.

    In folders, a label file has the name of its image, apart from ``_0000``, ``_image``, ``_label``, ``_seg`` and the
    like at the end. Where both are patterns, a label belongs to the image with the same text in place of the
    wildcards. A label may lie beside its image: it is never taken for an image.

    A sub-folder counts with what lies highest in it. Where files of one name lie in many sub-folders
    (``case/ct.nii.gz``), a sub-folder is a scan and gives its name.

    Args:
        images: folders, or patterns with ``*``, ``?`` or ``[…]``.
        labels: folders or patterns of label files; empty where there are none.
        findings: collects what is wrong with single files.
        channel: which channel to take where files are channels of scans, as ``case_0000`` and ``case_0001``.

    Raises:
        CrossmodError: no such folder, one without images or label files, channels of which none was chosen, several
            images in a sub-folder, or patterns of images and labels that differ in their wildcards.
    """
    # A path as text is what the paths found begin with: "./mr" becomes "mr".
    image_places = [_Place(str(Path(text))) for text in images]
    label_places = [_Place(str(Path(text))) for text in labels]
    by_pattern = bool(labels) and all(place.is_pattern for place in (*image_places, *label_places))
    if by_pattern and len({place.wildcards for place in (*image_places, *label_places)}) > 1:
        raise CrossmodError(
            f"the patterns {', '.join((*images, *labels))} differ in their number of wildcards, so labels cannot be "
            "assigned to images: write them alike in --images and --label-files"
        )
    candidates = [found for place in image_places for found in place.candidates(of_labels=False)]
    candidate_labels = [
        found
        for place in label_places
        for found in place.candidates(of_labels=True)
        if place not in image_places or _LABEL.search(found.stem)
    ]
    for flag, places, found_there in (
        ("--images", image_places, candidates),
        ("--label-files", label_places, candidate_labels),
    ):
        for place in places:
            if all(item.place != place for item in found_there):
                raise _nothing_found(place, flag)
    label_names = {_LABEL.sub("", item.stem) for item in candidate_labels}
    suffix = _image_suffix([item.stem for item in candidates], label_names)
    label_files: dict[Key, Path] = {}
    for item, name in _named(candidate_labels, lambda stem: suffix.sub("", _LABEL.sub("", stem)), findings):
        key = item.place.matched_text(item.path) if by_pattern else (name,)
        _add(label_files, key, item.path, findings)
    scans = _without_labels(candidates, [item.path for item in candidate_labels], suffix)
    if _are_channels(scans, label_names):
        scans, suffix = _of_one_channel(scans, channel), _CHANNEL
    image_files: dict[Key, Path] = {}
    names: dict[Key, str] = {}
    for item, name in _named(scans, lambda stem: suffix.sub("", stem), findings):
        key = item.place.matched_text(item.path) if by_pattern else (name,)
        if _add(image_files, key, item.path, findings):
            names[key] = name
    rule = (
        "an image and its label have the same text in place of the wildcards; correct --label-files, or remove it"
        if by_pattern
        else "a label has the name of its image, but for _0000, _image, _label, _seg and the like; rename or remove "
        "it, or pair them by patterns with --images and --label-files"
    )
    for key in sorted(set(label_files) - set(image_files)):
        findings.broken(f"{label_files[key]} has no image in {', '.join(images)}: {rule}")
    for key, image in image_files.items():
        yield ScanFiles(names[key], image, label_files.get(key))


def _nothing_found(place: _Place, flag: str) -> CrossmodError:
    if flag == "--images":
        return CrossmodError(f"{place.text} holds no image ({', '.join(ENDINGS)} or DICOM folders): correct {flag}")
    return CrossmodError(
        f"{place.text} holds no label file ({', '.join(ENDINGS)}): correct {flag}, and convert structures in DICOM "
        "(RTSTRUCT, SEG) to NIfTI first"
    )


def _shallowest(folder: Path, of_labels: bool) -> list[Path]:
    """What lies highest in a sub-folder: files of images; or else the folder itself, if it has DICOM files."""
    files: dict[int, list[Path]] = {}
    for path in files_below(folder):
        if ending_of(path):
            files.setdefault(len(path.parts), []).append(path)
    if files:
        return files[min(files)]
    has_dicom = not of_labels and any(is_dicom_folder(parent) for parent in _folders(folder))
    return [folder] if has_dicom else []


def _folders(folder: Path) -> Iterator[Path]:
    yield from dict.fromkeys([folder, *(path.parent for path in files_below(folder))])


def _image_suffix(images: Sequence[str], labels: Collection[str]) -> re.Pattern[str]:
    """What does not count at the end of an image's name: ``_0000`` does where it is the number of the scan."""
    numbered = [stem for stem in images if _CHANNEL.search(stem)]
    are_scans = len({stem[-4:] for stem in numbered}) > 1
    are_channels = any(stem[:-5] in labels for stem in numbered)
    return _WORD if are_scans and not are_channels else _IMAGE


def _are_channels(candidates: Sequence[_Candidate], labels: Collection[str]) -> bool:
    """Whether files are channels of scans, as nnU-Net names them: ``a_0000``, ``a_0001``, ``b_0000``, ``b_0001``.

    ``a_0000``, ``a_0001``, ``a_0002`` alone are scans, unless their label is ``a``; so are files whose labels have
    numbers too.
    """
    numbers: dict[str, set[str]] = {}
    for item in candidates:
        if _CHANNEL.search(item.stem):
            numbers.setdefault(item.stem[:-5], set()).add(item.stem[-4:])
    several = [name for name, found in numbers.items() if len(found) > 1]
    if not several or any(_CHANNEL.search(label) for label in labels):
        return False
    alike = len(set(map(frozenset, numbers.values()))) == 1 and "0000" in numbers[several[0]]
    return (len(several) > 1 and alike) or any(name in labels for name in several)


def _of_one_channel(candidates: Sequence[_Candidate], channel: int | None) -> list[_Candidate]:
    chosen = [item for item in candidates if channel is not None and item.stem.endswith(f"_{channel:04d}")]
    if not chosen:
        first, second = [item.path for item in candidates if _CHANNEL.search(item.stem)][:2]
        raise CrossmodError(
            f"{first} and {second.name} are channels of one scan by their names, and a data set has one: choose it "
            "with --frame MODALITY=0, or by a pattern such as 'MODALITY=FOLDER/*_0000.nii.gz'; or rename the files"
        )
    return chosen


def _named(
    candidates: Sequence[_Candidate], clean: Callable[[str], str], findings: Findings
) -> Iterator[tuple[_Candidate, str]]:
    """Each file with the name of its scan: its own, or that of its sub-folder where many hold files of its name."""
    nested = Counter(item.stem for item in candidates if item.case_folder is not None)
    by_folder = any(number > 1 for number in nested.values())
    files_of: dict[Path | None, list[str]] = {}
    for item in candidates:
        files_of.setdefault(item.case_folder, []).append(item.path.name)
    for item in candidates:
        folder, names = item.case_folder, files_of[item.case_folder]
        if folder is None or not by_folder:
            yield item, _own_name(item, clean)
        elif len(names) == 1:
            yield item, folder.name
        elif item.path.name == names[0]:
            findings.broken(
                f"{folder} holds {len(names)} files, {', '.join(names[:4])}{' …' if len(names) > 4 else ''}: say which "
                f"is of the scan by a pattern, as MODALITY='{item.place.text}/*/{names[0]}'; masks of single "
                "structures must be merged into one file"
            )


def _without_labels(
    candidates: Sequence[_Candidate], labels: Sequence[Path], suffix: re.Pattern[str]
) -> list[_Candidate]:
    """The files that are no labels: neither named as such nor with the name of an image beside them and ``_label``."""
    taken = {path.resolve() for path in labels}
    images = {(item.path.parent, suffix.sub("", item.stem)) for item in candidates}

    def is_image(item: _Candidate) -> bool:
        image = _LABEL.sub("", item.stem)
        belongs_to_image = image != item.stem and (item.path.parent, suffix.sub("", image)) in images
        return not belongs_to_image and item.path.resolve() not in taken

    return [item for item in candidates if is_image(item)]


def _add(files: dict[Key, Path], key: Key, path: Path, findings: Findings) -> bool:
    if key in files:
        findings.broken(f"{files[key]} and {path} have one name: remove or rename one")
        return False
    files[key] = path
    return True


def _own_name(item: _Candidate, clean: Callable[[str], str]) -> str:
    """The file's own name; what stands for the wildcards where folders are among them, as in ``*/ct.nii.gz``."""
    if item.place.is_pattern and _WILDCARD.search(str(Path(item.place.text).parent)):
        matched = item.place.matched_text(item.path)
        return "_".join(stem_of(Path(text.strip("/").replace("/", "_"))) for text in matched if text)
    return clean(item.stem)


def _expression(wildcard: str) -> str:
    if wildcard == "**/":
        return "((?:.*/)?)"
    return {"*": "([^/]*)", "?": "([^/])"}.get(wildcard, f"({wildcard.replace('[!', '[^')})")
