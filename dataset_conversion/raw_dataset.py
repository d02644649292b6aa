"""What a raw data set holds: its scans, labels and roles, and what ``dataset.json`` says of them.

A conversion lists its :class:`Scan` objects in a :class:`RawDataset`; ``writer.py`` checks every file and writes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import SimpleITK as sitk

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.raw.block import Case, CrossmodBlock

from .splits import splits

__all__ = [
    "AS_THEY_ARE",
    "FILE_ENDING",
    "IGNORE",
    "Annotation",
    "Deferred",
    "Handling",
    "RawDataset",
    "Scan",
    "Voxels",
    "in_order",
    "place_of",
]

FILE_ENDING = ".nii.gz"
REORIENTING_READER = "NibabelIOWithReorient"
IGNORE = "ignore"
"""nnU-Net's name of the label that voxels have which nobody annotated."""
_CASE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Annotation: TypeAlias = Literal["all"] | Sequence[str]
Folds: TypeAlias = list[dict[str, list[str]]]


@dataclass(frozen=True)
class Deferred:
    """An image that is put together only when it is written: a DICOM series, a record of a file.

    Attributes:
        where: what it is read from, for messages.
        read: reads it; raises :class:`CrossmodError` where that fails.
    """

    where: Path
    read: Callable[[], sitk.Image]


Voxels: TypeAlias = Path | Deferred | sitk.Image


@dataclass(frozen=True)
class Scan:
    """One scan of the data set to write.

    Attributes:
        name: the case name, unique in the data set.
        modality: one of the data set's modalities.
        subject: whose scan it is.
        image: the file, the image itself, or how to read it.
        label: the label map on the image's grid, or None where there is none.
        annotated: what training may see: ``"all"``, label names, or nothing.
        test: whether it belongs to the test set.
        label_map: value in its label file → value in the data set; None where that of the data set holds.
        validation: whether it is validated; where any scan is, these make up the one fold.
        may_be_empty: whether a label map without any label is in order, as for single slices.
    """

    name: str
    modality: str
    subject: str
    image: Voxels
    label: Voxels | None = None
    annotated: Annotation = ()
    test: bool = False
    label_map: Mapping[int, int] | None = None
    validation: bool = False
    may_be_empty: bool = False

    @property
    def image_place(self) -> str:
        """Where its image is read from, for messages."""
        return place_of(self.image, f"the image of case {self.name!r}")

    @property
    def label_place(self) -> str:
        """Where its label map is read from, for messages."""
        return place_of(self.label, f"the label of case {self.name!r}")


def in_order(modalities: Iterable[str]) -> list[str]:
    """Modalities by name, so that two directions of a data set number them alike."""
    return sorted(sorted(modalities), key=str.casefold)


@dataclass(frozen=True)
class Handling:
    """How label maps and orientations are taken.

    Attributes:
        allow_empty: label maps may be empty.
        resample_labels: label maps on another grid are put onto that of their image, by the nearest voxel.
        reorient: nnU-Net turns all scans to one orientation when it reads them.
    """

    allow_empty: bool = False
    resample_labels: bool = False
    reorient: bool = False


AS_THEY_ARE = Handling()


@dataclass(frozen=True)
class RawDataset:
    """What becomes ``DatasetXXX_Name``.

    Attributes:
        name: the name after the id, letters, digits, ``_`` and ``-``.
        scans: the training and the test scans.
        labels: label name → value: background 0, then 1, 2, … without gaps.
        modalities: all modalities; their order gives the values of the modality channel (:func:`in_order`).
        source: the modalities with annotated scans.
        target: the other ones.
        label_map: value in the label files → value in ``labels``; several may share one; 0 stays 0. None where the
            files already hold the values.
        registered: whether the scans of one subject lie on one grid.
        folds: cross-validation folds in ``splits_final.json``.
        seed: decides which subject lands in which fold.
        description: for ``dataset.json``.
        reference: for ``dataset.json``.
        licence: for ``dataset.json``.
        conversion: how the data set was made (its split, its structures), recorded in ``dataset.json``.
        left_out: what was left out and why, one line each; printed and recorded.
        handling: how label maps and orientations are taken.
    """

    name: str
    scans: Sequence[Scan]
    labels: Mapping[str, int]
    modalities: Sequence[str]
    source: Sequence[str]
    target: Sequence[str]
    label_map: Mapping[int, int] | None = None
    registered: bool = False
    folds: int = 5
    seed: int = 12345
    description: str = ""
    reference: str = ""
    licence: str = ""
    conversion: Mapping[str, Any] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    handling: Handling = AS_THEY_ARE

    @property
    def training(self) -> list[Scan]:
        """The scans that are not for the test."""
        return [scan for scan in self.scans if not scan.test]

    @property
    def ignore(self) -> int:
        """The value of nnU-Net's ignore label: all of an unlabelled scan, and voxels that nobody annotated."""
        return len(self.labels)

    def without(self, names: Collection[str], reasons: Sequence[str]) -> RawDataset:
        """The data set that leaves some scans out."""
        kept = [scan for scan in self.scans if scan.name not in names]
        return replace(self, scans=kept, left_out=[*self.left_out, *reasons])

    def check(self) -> None:
        """Refuse scans that do not make up a data set.

        Raises:
            CrossmodError: wrong labels or case names, an annotated scan without labels, or a role without scans.
        """
        labels = self.labels
        if sorted(labels.values()) != list(range(len(labels))) or len(labels) < 2 or labels.get("background") != 0:
            raise CrossmodError(f"labels {dict(labels)} must be background 0, then 1, 2, … without gaps")
        by_name: dict[str, Scan] = {}
        for scan in self.scans:
            if not _CASE_NAME.fullmatch(scan.name):
                raise CrossmodError(
                    f"case name {scan.name!r} may hold letters, digits, '.', '_' and '-' only: rename it"
                )
            if scan.name in by_name:
                places = f"{by_name[scan.name].image_place}; {scan.image_place}"
                raise CrossmodError(f"two scans are named {scan.name!r} ({places}): rename or remove one")
            by_name[scan.name] = scan
            if scan.annotated and scan.label is None:
                raise CrossmodError(
                    f"case {scan.name!r} is annotated but has no label file: {scan.image_place}: add one"
                )
        for modality in (*self.source, *self.target):
            if not any(scan.modality == modality for scan in self.training):
                skipped = f"; left out were: {'; '.join(self.left_out)}" if self.left_out else ""
                raise CrossmodError(
                    f"modality {modality!r} has no training scans: add some, choose another --split or "
                    f"--test, or leave it out of --source and --target{skipped}"
                )
        if not any(scan.annotated and scan.modality in self.source for scan in self.training):
            raise CrossmodError(f"no training scan of the source {list(self.source)} is annotated: add its label files")

    def describe(self, where: str) -> tuple[dict[str, Any], CrossmodBlock, Folds]:
        """The content of ``dataset.json``, its block, and the folds.

        Args:
            where: how messages name the data set.

        Raises:
            CrossmodError: a wrong modality or label name, or scans that cannot be divided into folds.
        """
        block = self._block()
        labels = dict(self.labels)
        partly_ignored = any(self.ignore in (scan.label_map or {}).values() for scan in self.scans)
        if partly_ignored or not all(case.labelled for case in block.cases.values()):
            labels[IGNORE] = self.ignore
        dataset_json: dict[str, Any] = {
            "name": self.name,
            "description": self.description,
            "reference": self.reference,
            "licence": self.licence,
            "channel_names": {"0": "image", "1": "noNorm"},
            "labels": labels,
            "numTraining": len(block.cases),
            "file_ending": FILE_ENDING,
            **({"overwrite_image_reader_writer": REORIENTING_READER} if self.handling.reorient else {}),
            "conversion": {**self.conversion, **({"left_out": list(self.left_out)} if self.left_out else {})},
            "crossmod": block.to_json(),
        }
        checked = CrossmodBlock.from_dataset_json(dataset_json, where)
        return dataset_json, checked, self._declared_fold() or splits(checked.cases, self.folds, self.seed)

    def _block(self) -> CrossmodBlock:
        foreground = {name: value for name, value in self.labels.items() if value}

        def case(scan: Scan) -> Case:
            names = list(foreground) if scan.annotated == "all" else list(scan.annotated)
            unknown = [name for name in names if name not in foreground]
            if unknown:
                raise CrossmodError(
                    f"case {scan.name!r} is annotated with {unknown[0]!r}, but the labels are {list(foreground)}"
                )
            visible = frozenset(foreground[name] for name in names)
            return Case(scan.name, scan.modality, visible, scan.subject, scan.label is not None)

        return CrossmodBlock(
            modalities=tuple(self.modalities),
            source=tuple(self.source),
            target=tuple(self.target),
            cases={scan.name: case(scan) for scan in self.training},
            labels=foreground,
            registered=self.registered,
            test={scan.name: replace(case(scan), visible=frozenset()) for scan in self.scans if scan.test},
        )

    def _declared_fold(self) -> Folds:
        """The one fold that the scans themselves declare; nothing where they leave it to a draw."""
        validated = sorted(scan.name for scan in self.training if scan.validation and scan.label is not None)
        if not validated:
            return []
        annotated_in_validation = {scan.validation for scan in self.training if scan.annotated}
        if annotated_in_validation != {True, False}:
            part = "validation" if True in annotated_in_validation else "training"
            raise CrossmodError(f"annotated scans are found in {part} only: both parts of the data set are needed")
        return [{"train": sorted(scan.name for scan in self.training if not scan.validation), "val": validated}]


def place_of(voxels: Voxels | None, otherwise: str) -> str:
    """The file or folder that an image is read from; ``otherwise`` where it is in memory."""
    if isinstance(voxels, Deferred):
        return str(voxels.where)
    return str(voxels) if isinstance(voxels, Path) else otherwise
