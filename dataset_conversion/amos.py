"""AMOS22: abdominal CT (ids up to 500) and MR (ids above), 15 organs, nobody in both.

Files are ``imagesTr/amos_0001.nii.gz`` with ``labelsTr/amos_0001.nii.gz`` and the same in ``imagesVa``, ``labelsVa``,
the test set of the named split ``official``. ``imagesTs`` has no public labels and is not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from .conversion import DataSet, ids_of
from .find_files import Findings, match_files
from .raw_dataset import Scan

ORGANS = (
    "spleen",
    "right kidney",
    "left kidney",
    "gall bladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "postcava",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
    "duodenum",
    "bladder",
    "prostate/uterus",
)
LAST_CT = 500


def find(folders: Sequence[Path], findings: Findings) -> Iterator[Scan]:
    """The scans below some folders."""
    pattern = r"(?:images|(?P<label>labels))(?P<part>Tr|Va)/amos_(?P<number>\d+)"
    images, labels = match_files(folders, pattern, findings, "imagesTr/amos_<NNNN>.nii.gz")
    for key, path in images.items():
        modality = "CT" if int(key[1]) <= LAST_CT else "MR"
        yield Scan(f"amos_{key[1]}", modality, f"amos_{key[1]}", path, labels.get(key), validation=key[0] == "Va")


DATASET = DataSet(
    name="AMOS22",
    description="AMOS22: abdominal organs in CT and MR",
    expects="the folder with imagesTr, labelsTr, imagesVa and labelsVa",
    ids=ids_of(("CT", "MR"), dict(enumerate(ORGANS, start=1))),
    structures={"all": ORGANS, "four": ("liver", "right kidney", "left kidney", "spleen")},
    find=find,
    source=["CT"],
    target=["MR"],
    splits={"official": lambda scan: scan.validation},
    split="official",
    reference="https://zenodo.org/record/7262581",
)
convert, add_arguments, run = DATASET.convert, DATASET.add_arguments, DATASET.run

if __name__ == "__main__":
    DATASET.main()
