"""Find images and label files by what their paths say, and note what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.raw.scan_listing import files_below, stem_of

__all__ = ["Findings", "match_files"]

Key: TypeAlias = tuple[str, ...]


@dataclass
class Findings:
    """What is wrong with the files of a data set, and what was left out.

    Attributes:
        skip_broken: go on after something broken.
        left_out: what was left out and why, one line each.
        renamed: case → the name of its scan, where that has letters that file names had better not have.
        inputs: the input folders.
        used: the files and folders that scans and labels are read from.
    """

    skip_broken: bool = False
    left_out: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    inputs: list[Path] = field(default_factory=list)
    used: set[Path] = field(default_factory=set)

    def broken(self, message: str) -> None:
        """Stop with the message; or note it and go on."""
        if not self.skip_broken:
            raise CrossmodError(message)
        self.left_out.append(message)

    def unused(self) -> list[Path]:
        """The files below the input folders that are not used, nor in a used folder, nor beside a file of one name."""
        used = {path.resolve() for path in self.used}
        folders = {path for path in used if path.is_dir()}
        stems = {(path.parent, stem_of(path)) for path in used}
        return [
            path
            for path in dict.fromkeys(path.resolve() for folder in self.inputs for path in files_below(folder))
            if path not in used
            and not folders.intersection(path.parents)
            and (path.parent, stem_of(path)) not in stems
            and (path.parent, path.stem) not in stems
        ]


def match_files(
    folders: Sequence[Path], pattern: str, findings: Findings, expects: str
) -> tuple[dict[Key, Path], dict[Key, Path]]:
    """Images and label files by their paths.

    Args:
        folders: where to look, sub-folders included.
        pattern: a regular expression for the path below the folder, whose group ``label`` matches in label files only;
            the other named groups are the key of a file, in their order. ``.nii`` or ``.nii.gz`` follows by itself.
        findings: notes a file that occurs twice and a label without image.
        expects: what files are expected, for the message.

    Returns:
        Key → image and key → label file, in the order of the numbers in the keys.

    Raises:
        CrossmodError: no image at all.
    """
    findings.inputs += [folder for folder in folders if folder not in findings.inputs]
    expression = re.compile(rf"(?:^|/){pattern}\.(?i:nii(?:\.gz)?)$")
    groups = [name for name in expression.groupindex if name != "label"]
    images: dict[Key, Path] = {}
    labels: dict[Key, Path] = {}
    for folder in folders:
        for path in sorted(files_below(folder)):
            match = expression.search(path.relative_to(folder).as_posix())
            if match is None:
                continue
            key, files = tuple(match[name] for name in groups), labels if match["label"] else images
            if key in files:
                findings.broken(f"{files[key]} and {path} are the same file of the data set: remove one")
            else:
                files[key] = path
    if not images:
        raise CrossmodError(f"{', '.join(map(str, folders))} holds no {expects} file: check the path")
    for key in [key for key in labels if key not in images]:
        findings.broken(f"{labels.pop(key)} has no image beside it: add the image, or remove the label")
    ordered = sorted(images, key=lambda key: [[int(number) for number in re.findall(r"\d+", part)] for part in key])
    return {key: images[key] for key in ordered}, labels
