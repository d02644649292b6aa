"""MS-CMRSeg 2019: cardiac MR of 45 patients in three sequences, bSSFP (C0), LGE and T2.

Files are ``patient<N>_C0.nii.gz``, ``patient<N>_C0_manual.nii.gz`` and so on, anywhere below the input folder. The
sequences of a patient differ in grid and in the number of slices. LGE labels come with a few patients (1 to 5 in the
first release); these are the test patients where LGE is the target. Where T2 is one, name test patients or take a
random fifth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from .conversion import DataSet, ids_of
from .find_files import Findings, match_files
from .raw_dataset import Scan

SEQUENCES = {"C0": "bSSFP", "LGE": "LGE", "T2": "T2"}
IDS = {200: "Myo", 500: "LV", 600: "RV"}


def find(folders: Sequence[Path], findings: Findings) -> Iterator[Scan]:
    """The scans below some folders."""
    pattern = r"(?P<patient>patient\d+)_(?P<sequence>C0|LGE|T2)(?P<label>_manual)?"
    images, labels = match_files(folders, pattern, findings, "patient<N>_C0.nii.gz, _LGE or _T2")
    for key, path in images.items():
        patient, sequence = key
        yield Scan(f"{patient}_{sequence}", SEQUENCES[sequence], patient, path, labels.get(key))


DATASET = DataSet(
    name="MSCMRSeg",
    description="MS-CMRSeg 2019: short-axis cardiac MR",
    expects="the folder with the patient<N>_C0.nii.gz files",
    ids=ids_of(SEQUENCES.values(), IDS),
    structures={"all": ["Myo", "LV", "RV"]},
    find=find,
    source=["bSSFP"],
    target=["LGE"],
    split="labelled-target",
    reference="https://zmiclab.github.io/zxh/0/mscmrseg19/",
)
convert, add_arguments, run = DATASET.convert, DATASET.add_arguments, DATASET.run

if __name__ == "__main__":
    DATASET.main()
