"""CHAOS (abdominal MR) and BTCV (abdominal CT): liver, kidneys and spleen in different people.

CHAOS is ``MR/<N>/T2SPIR/DICOM_anon/*.dcm`` with ``Ground/*.png``, and ``MR/<N>/T1DUAL`` with in- and out-of-phase
series that share one set of labels; BTCV is ``img/img0001.nii.gz`` with ``label/label0001.nii.gz``. Both may lie below
one input folder, or below one each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from .conversion import DataSet
from .dicom_series import read_dicom_series, read_label_stack
from .find_files import Findings, match_files
from .raw_dataset import Deferred, Scan

ORGANS = ("liver", "right kidney", "left kidney", "spleen")
# The grey value of an organ varies: 63, 126, 189 and 252 are the usual ones.
CHAOS = {
    grey: organ
    for organ, (low, high) in zip(ORGANS, ((55, 70), (110, 135), (175, 200), (240, 255)), strict=True)
    for grey in range(low + 1, high + 1)
}
BTCV = {1: "spleen", 2: "right kidney", 3: "left kidney", 4: "gallbladder", 5: "esophagus", 6: "liver", 7: "stomach"}
BTCV |= {8: "aorta", 9: "inferior vena cava", 10: "veins", 11: "pancreas", 12: "right adrenal", 13: "left adrenal"}
SERIES = {"MR": "T2SPIR/DICOM_anon", "T1in": "T1DUAL/DICOM_anon/InPhase", "T1out": "T1DUAL/DICOM_anon/OutPhase"}


def find(folders: Sequence[Path], findings: Findings) -> Iterator[Scan]:
    """The scans below some folders; series and label stacks are read when they are written."""
    findings.inputs += folders
    series_of: dict[str, Path] = {}
    for folder in folders:
        for modality, inside in SERIES.items():
            for series in sorted(folder.rglob(f"MR/*/{inside}")):
                subject, protocol = series.parents[len(Path(inside).parts) - 1], inside.partition("/")[0]
                name = f"chaos{subject.name}_{modality}"
                if name in series_of:
                    findings.broken(f"{series_of[name]} and {series} are the same scan of the data set: remove one")
                    continue
                series_of[name], ground = series, subject / protocol / "Ground"
                label = Deferred(ground, partial(read_label_stack, ground, series)) if ground.is_dir() else None
                image = Deferred(series, partial(read_dicom_series, series))
                yield Scan(name, modality, f"chaos{subject.name}", image, label)
    if any(True for folder in folders for _ in folder.rglob("img[0-9]*.nii*")):
        pattern = r"(?:img|(?P<label>label))(?P<number>\d{4})"
        images, labels = match_files(folders, pattern, findings, "img<NNNN>.nii.gz (BTCV)")
        for key, path in images.items():
            yield Scan(f"btcv{key[0]}", "CT", f"btcv{key[0]}", path, labels.get(key))


DATASET = DataSet(
    name="CHAOSBTCV",
    description="CHAOS T2-SPIR (and T1-DUAL) MR, and BTCV CT: abdominal organs",
    expects="the folders with CHAOS (MR/<N>/T2SPIR) and BTCV (img/img0001.nii.gz)",
    ids={**dict.fromkeys(SERIES, CHAOS), "CT": BTCV},
    structures={"four": ORGANS},
    find=find,
    source=["MR"],
    target=["CT"],
    reference="https://chaos.grand-challenge.org, https://www.synapse.org/#!Synapse:syn3193805",
)
convert, add_arguments, run = DATASET.convert, DATASET.add_arguments, DATASET.run

if __name__ == "__main__":
    DATASET.main()
