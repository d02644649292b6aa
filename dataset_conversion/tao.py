"""Thyroid-associated orbitopathy (TAO): registered T1 and T1c MR, each annotated for structures of its own.

Files are ``<subject>_T1.nii.gz``, ``<subject>_T1_label.nii.gz``, ``<subject>_T1c.nii.gz`` and
``<subject>_T1c_label.nii.gz``, or the same after a slash (``<subject>/T1.nii.gz``). The T1 labels are the groups of
extra-ocular muscles (1) and the optic nerve (2), the T1c labels the lacrimal glands (1 or 3). For finer groups of
muscles describe the folders to ``crossmod convert folders``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from .conversion import DataSet
from .find_files import Findings, match_files
from .raw_dataset import Scan

IDS = {"T1": {1: "EOM", 2: "ON"}, "T1c": {1: "LG", 3: "LG"}}


def find(folders: Sequence[Path], findings: Findings) -> Iterator[Scan]:
    """The scans below some folders, subjects with both sequences only."""
    pattern = r"(?P<subject>[^/]+?)[_/](?P<sequence>T1c?)(?P<label>_label)?"
    images, labels = match_files(folders, pattern, findings, "<subject>_T1.nii.gz or <subject>/T1.nii.gz")
    for key, path in images.items():
        subject, sequence = key
        other = (subject, "T1c" if sequence == "T1" else "T1")
        if other not in images:
            findings.broken(f"{path} has no {other[1]} scan of the same subject: add it, or remove the file")
            continue
        yield Scan(f"{subject}_{sequence}", sequence, subject, path, labels.get(key))


DATASET = DataSet(
    name="TAO",
    description="Thyroid-associated orbitopathy: registered T1 and T1c MR, annotated in parts",
    expects="the folder with the <subject>_T1.nii.gz and <subject>_T1c.nii.gz files",
    ids=IDS,
    structures={"all": ["EOM", "ON", "LG"]},
    find=find,
    source=["T1"],
    target=["T1c"],
    registered=True,
    partial=True,
)
convert, add_arguments, run = DATASET.convert, DATASET.add_arguments, DATASET.run

if __name__ == "__main__":
    DATASET.main()
