"""Another direction of a converted data set that shares its files: ``dataset.json``, folds and links to test scans."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.paths import read_json
from nnunet_crossmod.raw.atomic_folder import atomic_folder, link_or_copy
from nnunet_crossmod.raw.block import Case, CrossmodBlock
from nnunet_crossmod.raw.modality_channel import channel_file

from .raw_dataset import FILE_ENDING, IGNORE, Scan
from .raw_files import CaseFiles, raw_files, read_case
from .roles import TestChoice, choose_test_subjects
from .splits import splits
from .writer import SHEET, new_dataset_folder, raw_folder_of, write_descriptions

if TYPE_CHECKING:
    from .overview import ScanFacts

__all__ = ["reuse_dataset"]

UNLABELLED = "unlabelledTr"
"""Not ``labelsTr``: where that exists, nnU-Net takes it for the reference labels of all cases."""


def reuse_dataset(
    base_id: int,
    dataset_id: int,
    source: Sequence[str],
    target: Sequence[str],
    *,
    test: TestChoice | None = None,
    raw_folder: Path | None = None,
    overwrite: bool = False,
    seed: int = 12345,
) -> Path:
    """Write another direction of a data set.

    ``dataset.json`` names the files of the base, which must stay where it is; ``imagesTs`` and ``labelsTs`` are hard
    links (copies where the file system refuses them), because ``nnUNetv2_predict`` wants a folder. Modalities keep the
    order of the base, so that its modality channels hold.

    Args:
        base_id: the converted data set.
        dataset_id: the id of the other direction.
        source: modalities whose labelled scans are annotated; their other scans are left out.
        target: the other modalities of the base.
        test: a general split, or the words of ``--test``; None keeps the test subjects of the base.
        raw_folder: where the data sets lie; ``$nnUNet_raw`` by default.
        overwrite: replace the data set that has this id.
        seed: decides which subject lands in which fold.

    Returns:
        The folder written.

    Raises:
        CrossmodError: no such base, other modalities than it has, labels in parts, or what makes up no data set.
    """
    base = _Base.read(base_id, raw_folder)
    base.check_roles(source, target)
    name = base.folder.name.partition("_")[2]
    folder, existing = new_dataset_folder(dataset_id, name, base.folder.parent, overwrite)
    if base.folder in existing:
        raise CrossmodError(f"{base.folder.name} cannot replace itself: choose another -d")
    if test is None:
        test_subjects = {case.subject for case in base.block.test.values()}
    else:
        test_subjects = choose_test_subjects(base.scans(), target, test, {}, seed)
    block, without_labels = base.other_direction(source, target, test_subjects)
    folds = splits(block.cases, seed=seed)
    reasons = [f"{len(without_labels)} source scans without labels: {', '.join(without_labels)}"]
    left_out = reasons if without_labels else []
    dataset_json = base.describe(block, test_subjects, left_out)
    # Only now: the metrics that this package imports beside it take seconds to load.
    from .overview import contact_sheet, overview_table

    with atomic_folder(folder, replacing=existing) as complete:
        facts, training_files = _share_files(base, block, folder, complete, dataset_json["labels"].get(IGNORE))
        write_descriptions(complete, {**dataset_json, "dataset": training_files}, folds)
        contact_sheet(facts, block, complete / SHEET)
    print(f"\n{folder}, with the files of {base.folder.name}: {overview_table(facts, block, left_out)}\n")
    return folder


@dataclass(frozen=True)
class _Base:
    """The data set whose files are shared."""

    folder: Path
    dataset_json: Mapping[str, Any]
    block: CrossmodBlock
    files: Mapping[str, CaseFiles]

    @classmethod
    def read(cls, base_id: int, raw_folder: Path | None) -> _Base:
        raw = raw_folder_of(raw_folder)
        candidates = sorted(raw.glob(f"Dataset{base_id:03d}_*/dataset.json"))
        if len(candidates) != 1:
            raise CrossmodError(f"{raw} has {len(candidates)} data sets {base_id} to reuse: convert it first with -i")
        folder = candidates[0].parent.resolve()
        dataset_json = read_json(folder / "dataset.json", "convert the data set again")
        block = CrossmodBlock.from_dataset_json(dataset_json, str(folder / "dataset.json"))
        return cls(folder, dataset_json, block, raw_files(folder, dataset_json))

    @property
    def cases(self) -> dict[str, Case]:
        return {**self.block.cases, **self.block.test}

    @property
    def all_labels(self) -> frozenset[int]:
        return frozenset(self.block.labels.values())

    def label_of(self, name: str) -> Path | None:
        """The label file of a case, if it holds real labels."""
        return self.files[name].label if name in self.block.test or self.cases[name].labelled else None

    def scans(self) -> list[Scan]:
        return [
            Scan(name, case.modality, case.subject, self.files[name].images[0], self.label_of(name))
            for name, case in self.cases.items()
        ]

    def check_roles(self, source: Sequence[str], target: Sequence[str]) -> None:
        if sorted((*source, *target)) != sorted(self.block.modalities):
            raise CrossmodError(
                f"{self.folder.name} is of {list(self.block.modalities)}, not of {[*source, *target]}: name each of "
                "its modalities as --source or --target, or convert with -i"
            )
        if any(case.visible not in (frozenset(), self.all_labels) for case in self.block.cases.values()):
            raise CrossmodError(
                f"{self.folder.name} is annotated in parts, the same in both directions: train on it as it is"
            )

    def other_direction(
        self, source: Sequence[str], target: Sequence[str], test_subjects: set[str]
    ) -> tuple[CrossmodBlock, list[str]]:
        """The block with new roles, and the source scans that it leaves out because they have no labels."""
        training: dict[str, Case] = {}
        test: dict[str, Case] = {}
        without_labels = []
        for name, case in self.cases.items():
            labelled = self.label_of(name) is not None
            if case.subject in test_subjects:
                test[name] = replace(case, visible=frozenset(), labelled=labelled)
            elif case.modality in target:
                training[name] = replace(case, visible=frozenset(), labelled=labelled)
            elif labelled:
                training[name] = replace(case, visible=self.all_labels, labelled=True)
            else:
                without_labels.append(name)
        for modality in self.block.modalities:
            if not any(case.modality == modality for case in training.values()):
                raise CrossmodError(
                    f"{self.folder.name} has no {modality} scan left to train on: choose another --test or --split"
                )
        block = replace(self.block, source=tuple(source), target=tuple(target), cases=training, test=test)
        return block, without_labels

    def describe(self, block: CrossmodBlock, test_subjects: set[str], left_out: Sequence[str]) -> dict[str, Any]:
        """``dataset.json`` of the other direction, without its ``"dataset"``."""
        labels = {name: value for name, value in self.dataset_json["labels"].items() if name != IGNORE}
        partly_ignored = "ignored_values" in self.dataset_json.get("conversion", {})
        if partly_ignored or not all(case.labelled for case in block.cases.values()):
            labels[IGNORE] = len(labels)
        conversion = {
            **self.dataset_json.get("conversion", {}),
            "reuses": self.folder.name,
            "split": sorted(test_subjects),
            "left_out": list(left_out),
        }
        if not left_out:
            del conversion["left_out"]
        return {
            **self.dataset_json,
            "labels": labels,
            "numTraining": len(block.cases),
            "conversion": conversion,
            "crossmod": block.to_json(),
        }


def _share_files(
    base: _Base, block: CrossmodBlock, folder: Path, complete: Path, ignore: int | None
) -> tuple[list[ScanFacts], dict[str, dict[str, Any]]]:
    """Link the test scans into ``complete``; return the facts of all scans, and nnU-Net's list of training files."""
    from .overview import examine_scan

    facts = []
    training_files = {}
    for name in tqdm([*block.cases, *block.test], desc=f"Writing {folder.name}", unit="scan", disable=None):
        files, label_file = base.files[name], base.label_of(name)
        image, label = read_case(files)
        facts.append(examine_scan(name, image, None if label_file is None else label))
        if name in block.test:
            for number, file in enumerate(files.images):
                link_or_copy(file, complete / "imagesTs" / channel_file(name, number, FILE_ENDING))
            if label_file is not None:
                link_or_copy(label_file, complete / "labelsTs" / f"{name}{FILE_ENDING}")
            continue
        label_path = f"{UNLABELLED}/{name}{FILE_ENDING}"
        if files.label is not None:
            label_path = os.path.relpath(files.label, folder)
        else:
            _write_ignore_label(image, ignore, complete / label_path)
        images = [os.path.relpath(file, folder) for file in files.images]
        training_files[name] = {"images": images, "label": label_path}
    return facts, training_files


def _write_ignore_label(image: sitk.Image, ignore: int | None, destination: Path) -> None:
    label = sitk.GetImageFromArray(np.full(image.GetSize()[::-1], ignore, dtype=np.uint8))
    label.CopyInformation(image)
    destination.parent.mkdir(exist_ok=True)
    sitk.WriteImage(label, str(destination), useCompression=True)
