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

from nnunet_crossmod.errors import CrossmodError

from .command_line import add_common_arguments, main, read_shots
from .conversion import DataSet
from .dicom_series import read_dicom_series
from .find_files import Findings
from .raw_dataset import Deferred, Scan
from .scan_files import find_scan_files

KEYS = {"name", "source", "target", "labels", "images", "label_files", "labels_of"}
FLAGS = {"registered": False, "paired": True, "partial": False}


def dataset_of(spec: Mapping[str, Any], base: Path) -> DataSet:
    """The data set that a description stands for, its folders relative to ``base``.

    Raises:
        CrossmodError: an unknown key, or a missing or wrong entry.
    """
    unknown = sorted(set(spec) - KEYS - set(FLAGS) - {"subject"})
    if unknown:
        raise CrossmodError(f"{unknown[0]!r} means nothing; known are {sorted(KEYS | set(FLAGS) | {'subject'})}")
    images, label_files = _places(spec, "images", base), _places(spec, "label_files", base)
    own = _table(spec, "labels_of")
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
            for files in find_scan_files(images[modality], label_files.get(modality, []), findings):
                stem, image, label = files.name, files.image, files.label
                found = subject.search(stem)
                if found is None:
                    raise CrossmodError(f'{image}: "subject" ({subject.pattern}) finds nothing in {stem!r}: correct it')
                whose = found[1] if subject.groups else found[0]
                name = stem if _says(stem, modality) else f"{stem}_{modality}"
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
    add_common_arguments(parser, source=[], target=[])
    parser.add_argument("--json", type=Path, metavar="FILE", help="the description, instead of the flags below")
    parser.add_argument("--name", default="Folders", help="of the data set")
    parser.add_argument(
        "--images",
        nargs="+",
        default=[],
        metavar="MODALITY=PLACE",
        help="images of each modality: a folder, or a pattern in quotes ('MR=mr/image_*.nii.gz'); several are allowed",
    )
    parser.add_argument(
        "--label-files",
        nargs="+",
        default=[],
        metavar="MODALITY=PLACE",
        help="label maps, if any, likewise ('MR=mr/label_*.nii.gz')",
    )
    parser.add_argument("--labels", nargs="+", default=[], metavar="NAME=ID[,ID]", help="structures and their values")
    parser.add_argument("--subject", default=".+", metavar="REGEX", help="what of a file name is the subject")
    parser.add_argument("--registered", action="store_true", help="scans of a subject lie on one grid")
    parser.add_argument("--unpaired", action="store_true", help="equal names in two modalities are two subjects")
    parser.add_argument(
        "--test",
        nargs="+",
        metavar="NAME",
        help="test subjects, by name or number, or patterns of scan names or files ('check/*'); none by default",
    )
    parser.add_argument("--split", choices=["none", "fifth", "labelled-target"], help="a split by rule instead")
    parser.add_argument("--skip-broken", action="store_true", help="leave out what is unusable, and list it")


def run(args: argparse.Namespace) -> None:
    """Carry out ``crossmod convert folders``."""
    if args.json is None:
        base = Path()
        spec: Any = {
            "name": args.name,
            "images": _several(args.images, "--images"),
            "label_files": _several(args.label_files, "--label-files"),
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


def _table(spec: Mapping[str, Any], key: str) -> dict[str, Any]:
    table = spec.get(key, {})
    if not isinstance(table, dict) or (key == "images" and len(table) < 2):
        raise CrossmodError(f'"{key}" must be an object{" with two modalities or more" if key == "images" else ""}')
    return table


def _places(spec: Mapping[str, Any], key: str, base: Path) -> dict[str, list[str]]:
    """Modality → its folders and patterns."""
    places = {}
    for modality, value in _table(spec, key).items():
        listed = value if isinstance(value, list) else [value]
        if not listed or not all(isinstance(place, str) for place in listed):
            raise CrossmodError(f'"{key}" of {modality} must be a folder, a pattern, or a list of them')
        places[modality] = [str(base / place) for place in listed]
    return places


def _says(stem: str, modality: str) -> bool:
    """Whether a file name tells its modality by itself: ``p1_T2``, ``t2_01``."""
    name, word = stem.lower(), modality.lower()
    return name.endswith(word) or re.match(rf"{re.escape(word)}[_-]", name) is not None


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


def _several(words: Sequence[str], flag: str) -> dict[str, list[str]]:
    """Like :func:`_assignments` where a name may have several values, each in a word of its own."""
    values: dict[str, list[str]] = {}
    for word in words:
        for name, value in _assignments([word], flag).items():
            values.setdefault(name, []).append(value)
    return values


def _integer(value: str, name: str) -> int:
    if not re.fullmatch(r"-?\d+", value):
        raise CrossmodError(
            f"label {name!r} has the value {value!r}: give whole numbers, and label maps with --label-files"
        )
    return int(value)


if __name__ == "__main__":
    main(__doc__, add_arguments, run)
