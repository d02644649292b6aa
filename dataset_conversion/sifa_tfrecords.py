"""MM-WHS as released with PnP-AdaNet and SIFA: training slices in TFRecords, test volumes in npz files.

Training is ``ct_train_tfs/*.tfrecords``, ``ct_val_tfs``, ``mr_train_tfs``, ``mr_val_tfs``, or ``training_ct`` and
``training_mr`` as in the repository of SIFA: three neighbouring slices a file, of which the middle one is the sample.
It becomes a case of one slice, because the release does not say whose slice it is. The one fold validates the release's
own validation slices. Test volumes are ``ct_*1003*.npz`` and so on, stored rotated by half a turn against training,
which is undone. No voxel size is given: it is written as 1 mm.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import SimpleITK as sitk

from nnunet_crossmod.raw.scan_listing import files_below

from .conversion import DataSet
from .find_files import Findings
from .raw_dataset import Deferred, Scan
from .slice_files import read_npz_volume, read_slice_record

IDS = {1: "Myo", 2: "LA", 3: "LV", 4: "AA", 5: "PA"}
_KIND = re.compile(r"(?:^|[^a-z])(ct|mr)(?:[^a-z]|$)")


def find(folders: Sequence[Path], findings: Findings) -> Iterator[Scan]:
    """The slices and volumes below some folders; they are read when they are written."""
    findings.inputs += folders
    files: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(file for file in files_below(folder) if file.suffix in (".tfrecords", ".npz")):
            kinds = _KIND.findall(path.stem.lower()) or _KIND.findall(path.parent.name.lower())
            if not kinds:
                findings.broken(f"{path}: neither its name nor its folder says ct or mr: rename it")
                continue
            test = path.suffix == ".npz"
            read = read_npz_volume if test else read_slice_record
            words = re.split(r"[^a-z]", f"{path.parent.name}_{path.stem}".lower())
            validation = "val" in words or "validation" in words
            part = "test" if test else "val" if validation else "train"
            named_by_folder = test or not _KIND.search(path.stem.lower())
            name = f"{kinds[0]}_{part}_{path.stem}" if named_by_folder else path.stem
            if name in files:
                findings.broken(f"{files[name]} and {path} are the same file of the data set: remove one")
                continue
            files[name] = path
            image, label = (Deferred(path, partial(_pick, read, path, part)) for part in (0, 1))
            yield Scan(name, kinds[0].upper(), name, image, label, (), test, None, validation, may_be_empty=not test)


def _pick(read: Callable[[Path], tuple[sitk.Image, sitk.Image]], path: Path, part: int) -> sitk.Image:
    return read(path)[part]


DATASET = DataSet(
    name="MMWHSSIFA",
    description="MM-WHS 2017, slices as released with PnP-AdaNet and SIFA",
    expects="the folder with ct_train_tfs, ct_val_tfs, mr_train_tfs, mr_val_tfs (or training_ct, training_mr) and the "
    "npz test volumes",
    ids={"MR": IDS, "CT": IDS},
    structures={"four": ["Myo", "LA", "LV", "AA"]},
    find=find,
    source=["MR"],
    target=["CT"],
    splits={"sifa": lambda scan: scan.test},
    split="sifa",
    reference="https://github.com/carrenD/Medical-Cross-Modality-Domain-Adaptation",
    note="The MR test volumes also sit in the MR training slices of this release: results on MR are transductive.",
)
convert, add_arguments, run = DATASET.convert, DATASET.add_arguments, DATASET.run

if __name__ == "__main__":
    DATASET.main()
