"""Write a folder of many files so that it exists complete or not at all; share files between folders."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_folder", "link_or_copy"]


@contextmanager
def atomic_folder(folder: Path, replacing: Sequence[Path] = ()) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes ``folder`` when the block ends without an exception.

    Until then it is hidden beside ``folder``. An exception, Ctrl-C included, removes it and leaves everything as it
    was.

    Args:
        folder: the folder to be; its parents are made if need be.
        replacing: folders beside it that go away in the moment it appears (``folder`` itself among them if it exists).

    Yields:
        The folder to write into.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.partial", dir=folder.parent) as staging:
        complete = Path(staging) / folder.name
        complete.mkdir()
        yield complete
        moved: list[tuple[Path, Path]] = []
        try:
            for number, old in enumerate(replacing):
                moved.append((old, old.rename(Path(staging) / f"replaced{number}")))
            complete.rename(folder)
        except BaseException:
            for old, kept in moved:
                kept.rename(old)
            raise


def link_or_copy(file: Path, destination: Path) -> None:
    """A hard link to a file where the file system allows one, else a copy; the folder is made if need be."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        destination.hardlink_to(file.resolve())
    except OSError:
        shutil.copyfile(file, destination)
