"""MM-WHS 2017: whole hearts in CT and MR, 20 labelled patients each, no patient in both.

Files are ``ct_train_1001_image.nii.gz``, ``ct_train_1001_label.nii.gz``, ``mr_train_1001_…``, anywhere below the input
folder (``ct_train`` and ``mr_train`` of the download). The unlabelled ``ct_test`` and ``mr_test`` are not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from .conversion import DataSet, ids_of
from .find_files import Findings, match_files
from .raw_dataset import Scan

# 421 occurs in one MR label file beside 420.
IDS = {500: "LV", 600: "RV", 420: "LA", 421: "LA", 550: "RA", 205: "Myo", 820: "AA", 850: "PA"}
SIFA_TEST = {"CT": ("1003", "1008", "1014", "1019"), "MR": ("1007", "1009", "1018", "1019")}


def find(folders: Sequence[Path], findings: Findings) -> Iterator[Scan]:
    """The scans below some folders."""
    pattern = r"(?P<kind>ct|mr)_train_(?P<number>\d+)_(?:image|(?P<label>label))"
    images, labels = match_files(folders, pattern, findings, "ct_train_<N>_image.nii.gz or mr_train_<N>_image.nii.gz")
    for key, path in images.items():
        kind, number = key
        yield Scan(f"{kind}_{number}", kind.upper(), f"{kind}_{number}", path, labels.get(key))


DATASET = DataSet(
    name="MMWHS",
    description="MM-WHS 2017: whole heart in CT and MR",
    expects="the folder with ct_train and mr_train",
    ids=ids_of(("MR", "CT"), IDS),
    structures={
        "four": ["Myo", "LA", "LV", "AA"],
        "all": ["Myo", "LA", "LV", "RA", "RV", "AA", "PA"],
    },
    find=find,
    source=["MR"],
    target=["CT"],
    splits={"sifa": lambda scan: scan.subject.partition("_")[2] in SIFA_TEST[scan.modality]},
    split="sifa",
    reference="https://zmiclab.github.io/zxh/0/mmwhs/",
)
convert, add_arguments, run = DATASET.convert, DATASET.add_arguments, DATASET.run

if __name__ == "__main__":
    DATASET.main()
