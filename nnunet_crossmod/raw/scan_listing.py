"""The one listing of scan files: endings in any case, sub-folders to any depth, hidden files left out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["ENDINGS", "ending_of", "files_below", "image_files", "is_hidden", "natural_order", "stem_of"]

ENDINGS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".gipl", ".hdr")
"""Of files that hold one volume."""


def ending_of(path: Path) -> str:
    """The ending of a volume's file in small letters; nothing for other files."""
    name = path.name.lower()
    return next((ending for ending in ENDINGS if name.endswith(ending)), "")


def stem_of(path: Path) -> str:
    """The name without the ending of a volume's file."""
    return path.name[: len(path.name) - len(ending_of(path))]


def is_hidden(path: Path) -> bool:
    """Whether its name begins with a dot, as of the attributes that a Mac puts beside a file (``._name``)."""
    return path.name.startswith(".")


def files_below(folder: Path) -> Iterator[Path]:
    """All files of a folder and its sub-folders, in natural order; links are followed, hidden ones left out."""
    walked: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(parent) in walked:  # a link to a folder above
            folders.clear()
            continue
        walked.add(os.path.realpath(parent))
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural_order)
        yield from (Path(parent, name) for name in sorted(files, key=natural_order) if not name.startswith("."))


def image_files(folder: Path, ending: str | None = None) -> list[Path]:
    """The files of volumes directly in a folder, in natural order.

    Args:
        folder: the folder.
        ending: only those that end so, in capital or small letters; any volume by default.
    """
    files = [path for path in folder.glob("*") if path.is_file() and not is_hidden(path)]
    wanted = [
        path for path in files if (ending_of(path) if ending is None else path.name.lower().endswith(ending.lower()))
    ]
    return sorted(wanted, key=lambda path: natural_order(path.name))


def natural_order(name: str) -> tuple[tuple[str, int], ...]:
    """Sort key under which ``patient2`` comes before ``patient10``."""
    return tuple((word, int(number or 0)) for word, number in re.findall(r"(\D*)(\d*)", name))
