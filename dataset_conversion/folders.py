"""Any folders of scans: one folder of images a modality, with or without a folder of labels.

Images are single-channel files (NIfTI, MHA, NRRD …) or folders of one DICOM series each. A label file has the name of
its image; ``_0000``, ``_image``, ``_label``, ``_seg`` and the like at the end of a name do not count. The same name in
two modalities is the same subject, unless ``"paired"`` is false; ``"subject"``, a regular expression, picks the subject
out of a name. ``"partial"`` annotates each modality, target or not, for the structures of its own table in
``"labels_of"``.

.. code-block:: json

    {"name": "Liver", "source": ["MR"], "target": ["CT"], "labels": {"liver": 1, "kidneys": [2, 3]},
     "images": {"MR": "mr/images", "CT": "ct"}, "label_files": {"MR": "mr/labels"},
     "labels_of": {"CT": {"liver": 6}}, "registered": false, "paired": true, "partial": false, "subject": "p[0-9]+"}
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_crossmod.data.dicom_series import is_dicom_folder, read_dicom_series
from nnunet_crossmod.errors import CrossmodError

from .conversion import DataSet, Findings
from .raw_dataset import Deferred, Scan, add_common_arguments, main, read_shots

ENDINGS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".gipl", ".hdr")
KEYS = {"name", "source", "target", "labels", "images", "label_files", "labels_of"}
FLAGS = {"registered": False, "paired": True, "partial": False}
_LABEL = re.compile(r"_(label|labels|seg|segmentation|mask|gt|manual)$")
_IMAGE = re.compile(r"_(0000|image|img)$")


def dataset_of(spec: Mapping[str, Any], base: Path) -> DataSet:
    """The data set that a description stands for, its folders relative to ``base``.

    Raises:
        CrossmodError: an unknown key, or a missing or wrong entry.
    """
    unknown = sorted(set(spec) - KEYS - set(FLAGS) - {"subject"})
    if unknown:
        raise CrossmodError(f"{unknown[0]!r} means nothing; known are {sorted(KEYS | set(FLAGS) | {'subject'})}")
    images, label_files, own = (_table(spec, key) for key in ("images", "label_files", "labels_of"))
    common = _table(spec, "labels")
    for key, named in (("label_files", label_files), ("labels_of", own)):
        for modality in named:
            if modality not in images:
                raise CrossmodError(f'"{key}" names {modality!r}, but "images" has {list(images)}: name its images')
    for modality in images:
        if modality in label_files and not (own.get(modality) or common):
            raise CrossmodError(f'no labels are named: give "labels" as name: value, or "labels_of" for {modality}')
    ids = {modality: _ids(own.get(modality, common)) for modality in images}
    structures = list(dict.fromkeys([*common, *(name for table in own.values() for name in table)]))
    flags = {key: spec.get(key, default) for key, default in FLAGS.items()}
    if wrong := [key for key, value in flags.items() if not isinstance(value, bool)]:
        raise CrossmodError(f'"{wrong[0]}" must be true or false')
    try:
        subject = re.compile(str(spec.get("subject", ".+")))
    except re.error as error:
        raise CrossmodError(f'"subject" is no regular expression: {error}') from error

    def find(_: Sequence[Path], findings: Findings) -> Iterator[Scan]:
        for modality in images:
            labelled = base / label_files[modality] if modality in label_files else None
            for stem, image, label in _pairs(base / images[modality], labelled, findings):
                found = subject.search(stem)
                if found is None:
                    raise CrossmodError(f'{image}: "subject" ({subject.pattern}) finds nothing in {stem!r}: correct it')
                whose = found[1] if subject.groups else found[0]
                name = stem if stem.lower().endswith(modality.lower()) else f"{stem}_{modality}"
                name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-")
                voxels = Deferred(image, partial(read_dicom_series, image)) if image.is_dir() else image
                yield Scan(name, modality, whose if flags["paired"] else f"{whose}_{modality}", voxels, label)

    return DataSet(
        name=str(spec.get("name", "Folders")),
        description=f"{', '.join(images)} from folders",
        expects="the folder that the description is relative to",
        ids=ids,
        structures={"all": structures},
        find=find,
        source=spec.get("source") or [name for name in images if name in label_files],
        target=spec.get("target") or [name for name in images if name not in label_files],
        split="none",
        registered=flags["registered"],
        partial=flags["partial"],
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``crossmod convert folders``."""
    add_common_arguments(parser, source=[], target=[], input_help=None)
    parser.add_argument("--json", type=Path, metavar="FILE", help="the description, instead of the flags below")
    parser.add_argument("--name", default="Folders", help="of the data set")
    parser.add_argument("--images", nargs="+", default=[], metavar="MODALITY=FOLDER", help="images of each modality")
    parser.add_argument("--label-files", nargs="+", default=[], metavar="MODALITY=FOLDER", help="label maps, if any")
    parser.add_argument("--labels", nargs="+", default=[], metavar="NAME=ID[,ID]", help="structures and their values")
    parser.add_argument("--subject", default=".+", metavar="REGEX", help="what of a file name is the subject")
    parser.add_argument("--registered", action="store_true", help="scans of a subject lie on one grid")
    parser.add_argument("--unpaired", action="store_true", help="equal names in two modalities are two subjects")
    parser.add_argument("--test", nargs="+", metavar="SUBJECT", help="test subjects, by name or number (none)")
    parser.add_argument("--split", choices=["none", "fifth", "labelled-target"], help="a split by rule instead")
    parser.add_argument("--skip-broken", action="store_true", help="leave out what is unusable, and list it")


def run(args: argparse.Namespace) -> None:
    """Carry out ``crossmod convert folders``."""
    if args.json is None:
        base = Path()
        spec: Any = {
            "name": args.name,
            "images": _assignments(args.images, "--images"),
            "label_files": _assignments(args.label_files, "--label-files"),
            "labels": {
                name: [_integer(value, name) for value in values.split(",")]
                for name, values in _assignments(args.labels, "--labels").items()
            },
            "subject": args.subject,
            "registered": args.registered,
            "paired": not args.unpaired,
        }
    else:
        base = args.json.parent
        try:
            spec = json.loads(args.json.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CrossmodError(f"{args.json} cannot be read as JSON ({error})") from error
        if not isinstance(spec, dict):
            raise CrossmodError(f"{args.json} must hold one object")
    dataset = dataset_of(spec, base)
    dataset.convert(
        base,
        args.dataset_id,
        args.source,
        args.target,
        test=args.test or args.split,
        shots=read_shots(args.shots, args.target or dataset.target),
        skip_broken=args.skip_broken,
        overwrite=args.overwrite,
    )


def _pairs(images: Path, labels: Path | None, findings: Findings) -> Iterator[tuple[str, Path, Path | None]]:
    """Name, image and label file of each scan."""
    for folder in (images, *([labels] if labels else [])):
        if not folder.is_dir():
            raise CrossmodError(f"{folder} is no folder: correct the path")
    together = labels is not None and labels.resolve() == images.resolve()
    found: dict[str, Path] = {}
    by_name: dict[str, Path] = {}
    parts = [(images, found, False), *([(labels, by_name, True)] if labels else [])]
    for folder, into, of_labels in parts:
        for path in sorted(folder.iterdir()):
            if not (path.name.endswith(ENDINGS) or (not of_labels and is_dicom_folder(path))):
                continue
            stem = next((path.name.removesuffix(end) for end in ENDINGS if path.name.endswith(end)), path.name)
            if together and bool(_LABEL.search(stem)) is not of_labels:
                continue
            stem = _IMAGE.sub("", _LABEL.sub("", stem) if of_labels else stem)
            if stem in into:
                findings.broken(f"{into[stem]} and {path} have one name: remove or rename one")
                continue
            into[stem] = path
    for stem in sorted(set(by_name) - set(found)):
        findings.broken(f"{by_name[stem]} has no image in {images}: add it, or remove the label")
    if not found:
        raise CrossmodError(f"{images} holds no image ({', '.join(ENDINGS)} or DICOM folders): correct the path")
    for stem, image in found.items():
        yield stem, image, by_name.get(stem)


def _table(spec: Mapping[str, Any], key: str) -> dict[str, Any]:
    table = spec.get(key, {})
    if not isinstance(table, dict) or (key == "images" and len(table) < 2):
        raise CrossmodError(f'"{key}" must be an object{" with two modalities or more" if key == "images" else ""}')
    return table


def _ids(table: Any) -> dict[int, str]:
    ids: dict[int, str] = {}
    for name, values in table.items() if isinstance(table, dict) else ():
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, int) or isinstance(value, bool) or value == 0 or value in ids:
                raise CrossmodError(f"label {name!r} has the value {value!r}: give each label whole numbers of its own")
            ids[value] = name
    return ids


def _assignments(words: Sequence[str], flag: str) -> dict[str, str]:
    if wrong := [word for word in words if not re.fullmatch(r"[^=]+=.+", word)]:
        raise CrossmodError(f"{flag} {wrong[0]} is not NAME=VALUE")
    return dict(word.split("=", 1) for word in words)


def _integer(value: str, name: str) -> int:
    if not re.fullmatch(r"-?\d+", value):
        raise CrossmodError(f"label {name!r} has the value {value!r}: give whole numbers")
    return int(value)


if __name__ == "__main__":
    main(__doc__, add_arguments, run)
