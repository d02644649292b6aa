"""A data set of its own with pseudo-labels: everything else is that of the data set it is made from.

Images, real source labels and test scans are hard links (copies where the file system has none); the target's label
files are new, those of the first data set are not read. Plans and folds are the same, so are spacing and normalisation.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.nnunet_runs import FOLDERS, preprocess
from nnunet_crossmod.paths import dataset_folder, read_json
from nnunet_crossmod.plans import resolved_configuration, write_plans
from nnunet_crossmod.raw.atomic_folder import atomic_folder, link_or_copy
from nnunet_crossmod.raw.block import CrossmodBlock

__all__ = ["BaseDataset", "free_id", "id_of", "write_pseudo_dataset"]

MADE_FROM = "pseudo_labels"  # the entry of dataset.json's "conversion" that says which models the labels are of
SPLITS, FINGERPRINT = "splits_final.json", "dataset_fingerprint.json"


@dataclass(frozen=True)
class BaseDataset:
    """The data set whose target scans get pseudo-labels."""

    raw: Path
    preprocessed: Path
    dataset_json: Mapping[str, Any]
    block: CrossmodBlock

    @classmethod
    def read(cls, dataset: int | str) -> BaseDataset:
        """Find it.

        Raises:
            CrossmodError: it is not there or not planned, has no unlabelled target scan, or has pseudo-labels itself.
        """
        raw = dataset_folder("nnUNet_raw", dataset)
        preprocessed = dataset_folder("nnUNet_preprocessed", raw.name)
        dataset_json = read_json(raw / "dataset.json", "convert the data set again")
        block = CrossmodBlock.from_dataset_json(dataset_json, str(raw / "dataset.json"))
        base = cls(raw, preprocessed, dataset_json, block)
        if block.pseudo_labelled:
            raise CrossmodError(
                f"{raw.name} has pseudo-labels (case {block.pseudo_labelled[0]!r}): start from the data set that they "
                "were made on"
            )
        if not base.unlabelled:
            raise CrossmodError(
                f"{raw.name} has no target training scan without annotation: there is nothing to label, train on it"
            )
        return base

    @property
    def ending(self) -> str:
        """Of the files."""
        return str(self.dataset_json["file_ending"])

    @property
    def ignore(self) -> int:
        """Value of nnU-Net's ignore label, its own or the first free one."""
        return int(self.dataset_json["labels"].get("ignore", max(self.block.labels.values()) + 1))

    @property
    def unlabelled(self) -> list[str]:
        """The target's training cases of which training may see no label."""
        block = self.block
        return sorted(
            case.name for case in block.cases.values() if case.modality in block.target and not case.annotated
        )

    def training_files(self) -> dict[str, dict[str, Any]]:
        """Case → ``images`` and ``label``, the paths of its files."""
        from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

        files: dict[str, dict[str, Any]] = get_filenames_of_train_images_and_targets(
            str(self.raw), deepcopy(dict(self.dataset_json))
        )
        self.block.check_files(files, str(self.raw / "imagesTr"))
        return files

    def with_pseudo_labels(self) -> CrossmodBlock:
        """The block in which every unlabelled target scan is annotated by pseudo-labels."""
        everything = frozenset(self.block.labels.values())
        cases = {
            name: replace(case, visible=everything, labelled=False, pseudo=True) if name in self.unlabelled else case
            for name, case in self.block.cases.items()
        }
        return replace(self.block, cases=cases)


def free_id(first: int) -> int:
    """The first id from ``first`` on that no data set has in any of nnU-Net's folders.

    Raises:
        CrossmodError: none is free up to 999.
    """
    folders = [Path(os.environ[variable]) for variable in FOLDERS if os.environ.get(variable)]
    for number in range(first, 1000):
        if not any(any(folder.glob(f"Dataset{number:03d}_*")) for folder in folders):
            return number
    raise CrossmodError(f"no data set id from {first} to 999 is free: name another one with --out-id")


def id_of(name: str) -> int:
    """The id in ``DatasetXXX_Name``.

    Raises:
        CrossmodError: another name.
    """
    match = re.match(r"Dataset(\d{3})_", name)
    if match is None:
        raise CrossmodError(f"{name} is no name of a data set: nnU-Net's are as Dataset511_Name")
    return int(match[1])


def write_pseudo_dataset(
    base: BaseDataset, name: str, labels: Path, made_from: Mapping[str, Any], configuration: str, plans: str, log: Path
) -> None:
    """Write the data set, raw and preprocessed, each complete or not at all; what is there already stays.

    Args:
        base: what it is made from.
        name: ``DatasetXXX_Name``.
        labels: folder of the pseudo-labels; voxels to leave out hold the base's :attr:`~BaseDataset.ignore`.
        made_from: JSON that tells these pseudo-labels from all others; kept in ``dataset.json``.
        configuration: to preprocess.
        plans: name of the plans.
        log: of the preprocessing.

    Raises:
        CrossmodError: a data set of that name with other pseudo-labels, or a preprocessing that failed.
    """
    raw, preprocessed = base.raw.with_name(name), base.preprocessed.with_name(name)
    description = _description(base, name, made_from)
    if raw.is_dir():
        _check_same(raw, description)
    else:
        _write_raw(base, raw, labels, description)
    planned = read_json(base.preprocessed / f"{plans}.json", "plan the data set again")
    identifier = resolved_configuration(planned, configuration)["data_identifier"]
    if preprocessed.is_dir():
        _check_same(preprocessed, description)
        if (preprocessed / identifier).is_dir():
            return
        raise CrossmodError(f"{preprocessed} is not preprocessed for {configuration}: remove it to make it again")
    with atomic_folder(preprocessed) as complete:
        write_plans({**planned, "dataset_name": name}, complete)
        _copy_splits(base, complete)
        shutil.copyfile(base.preprocessed / FINGERPRINT, complete / FINGERPRINT)
        shutil.copyfile(raw / "dataset.json", complete / "dataset.json")
        preprocess(id_of(name), configuration, plans, preprocessed=complete.parent, log=log)


def _write_raw(base: BaseDataset, raw: Path, labels: Path, description: Mapping[str, Any]) -> None:
    ending = base.ending
    with atomic_folder(raw) as complete:
        for case, files in base.training_files().items():
            for channel, image in enumerate(files["images"]):
                link_or_copy(Path(image), complete / "imagesTr" / f"{case}_{channel:04d}{ending}")
            label = labels / f"{case}{ending}" if case in base.unlabelled else Path(files["label"])
            link_or_copy(label, complete / "labelsTr" / f"{case}{ending}")
        for part in ("imagesTs", "labelsTs"):
            for file in sorted((base.raw / part).glob(f"*{ending}")):
                link_or_copy(file, complete / part / file.name)
        _copy_splits(base, complete)
        (complete / "dataset.json").write_text(
            json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def _copy_splits(base: BaseDataset, folder: Path) -> None:
    """The same folds as the base's; trainings of fold "all" need none."""
    if (base.preprocessed / SPLITS).is_file():
        shutil.copyfile(base.preprocessed / SPLITS, folder / SPLITS)


def _description(base: BaseDataset, name: str, made_from: Mapping[str, Any]) -> dict[str, Any]:
    content = {key: value for key, value in base.dataset_json.items() if key != "dataset"}
    return {
        **content,
        "name": name.partition("_")[2],
        "labels": {**content["labels"], "ignore": base.ignore},
        "conversion": {**content.get("conversion", {}), MADE_FROM: dict(made_from)},
        "crossmod": base.with_pseudo_labels().to_json(),
    }


def _check_same(folder: Path, description: Mapping[str, Any]) -> None:
    there = read_json(folder / "dataset.json", f"remove {folder}")
    if there != description:
        raise CrossmodError(
            f"{folder} exists and does not hold these pseudo-labels: remove it, and everything trained on it, or begin "
            "anew with another --work and --out-id"
        )
