"""``crossmod self-train``: train, label the target's training scans, keep what the models agree on, train on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray
from tqdm import tqdm

from nnunet_crossmod.agreement import (
    AGREEMENT,
    PICTURE,
    RECORD,
    agreement,
    dice,
    kept_share,
    kept_voxels,
    least_agreed,
    look_at_first,
    majority,
    read_label_map,
)
from nnunet_crossmod.compare import Comparison, MethodRow, Run, cases_seen
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.paths import load_trainer, read_json, write_whole
from nnunet_crossmod.pictures.kept_labels import kept_label_grid, most_telling_slice
from nnunet_crossmod.pseudo_dataset import BaseDataset, free_id, id_of, write_pseudo_dataset
from nnunet_crossmod.raw.atomic_folder import atomic_folder, link_or_copy
from nnunet_crossmod.raw.block import CrossmodBlock

__all__ = ["Model", "SelfTraining"]

ROWS_OF_PICTURE = 8


@dataclass(frozen=True)
class Model:
    """One model of a round: a training, and the checkpoint of it that predicts."""

    run: Run
    checkpoint: str

    @property
    def name(self) -> str:
        """Folder of the model, fold and checkpoint."""
        return f"{self.run.results.parent.name}/{self.run.results.name}/{self.checkpoint}"


@dataclass(frozen=True)
class SelfTraining:
    """Rounds of pseudo-labels.

    Args:
        training: how every model is trained: data set, configuration, folds, seeds, …; its one method is that of the
            rounds that learn from pseudo-labels, its ``work`` gets what is written beside data sets and models.
        first: method of the models that give the first pseudo-labels.
        checkpoints: every one of a training is a model of its own.
        rounds: how often to train on pseudo-labels, at most.
        until: agreement of two rounds that ends them.
        in_pieces: structures that may come in several pieces; of the others the largest one is kept.
        out_id: id of the first pseudo-labelled data set; by default the first free one after that of the data set.
    """

    training: Comparison
    first: MethodRow
    checkpoints: Sequence[str]
    rounds: int = 1
    until: float = 0.98
    in_pieces: Sequence[str] = ()
    out_id: int | None = None

    def run(self) -> list[Model]:
        """Do what is missing; returns the models of the last round.

        Raises:
            CrossmodError: wrong input, before anything is trained; a command that failed (the message names its log).
        """
        base = BaseDataset.read(self.training.dataset)
        self._check(base)
        names = self._names(base)
        scans = self._link_scans(base)
        models: list[Model] = []
        before: list[Model] = []
        for number in range(self.rounds + 1):
            models = self._models(number, names, base, scans)
            table, digest = self._agree(number, base, models, before)
            print(shown(table, number, len(models)), flush=True)
            if number and (reached := mean_of(table, "before")) >= self.until:
                print(f"Rounds {number - 1} and {number} agree ({reached:.3f}, --until {self.until:g}): done")
                break
            if number == self.rounds:
                break
            made_from = {
                "data set": base.raw.name,
                "round": number,
                "models": [model.name for model in models],
                "in_pieces": list(self.in_pieces),
                "digest": digest,
            }
            print(f"\nPseudo-labels of round {number} become {names[number]}", flush=True)
            write_pseudo_dataset(
                base,
                names[number],
                self._folder(number) / "labels",
                made_from,
                self.training.configuration,
                self.training.plans,
                self._folder(number) / "preprocess.log",
            )
            before = models
        return models

    def _folder(self, number: int) -> Path:
        return self.training.work / f"round{number}"

    # ---- before anything is trained ------------------------------------------------------------------------------

    def _check(self, base: BaseDataset) -> None:
        training = self.training
        number = len(training.folds) * len(training.seeds) * len(self.checkpoints)
        if number < 2:
            raise CrossmodError("one model agrees with itself: give several --seeds, folds (-f) or checkpoints (-chk)")
        if unknown := [name for name in self.in_pieces if name not in base.block.labels]:
            raise CrossmodError(
                f"--in-pieces {unknown[0]!r} is no structure of {base.raw.name}; there are "
                f"{', '.join(base.block.labels)}, or all"
            )
        self._at(base.raw.name, self.first, 0).check_methods()
        training.check_methods()
        self._at(base.raw.name, self.first, 0).check_annotations(base.block)
        _check_it_hides_labels(self.first, base.block)
        _check_it_learns(training.methods[0], base.with_pseudo_labels(), training.settings or {})

    def _at(self, dataset: str, method: MethodRow, number: int) -> Comparison:
        return replace(self.training, dataset=dataset, methods=[method], work=self._folder(number))

    def _names(self, base: BaseDataset) -> list[str]:
        """The data sets of all rounds; a second call finds them again in the work folder."""
        path = self.training.work / RECORD
        record = {"dataset": base.raw.name, "configuration": self.training.configuration}
        names: list[str] = []
        if path.is_file():
            there = read_json(path, f"remove {self.training.work}")
            names = there.pop("pseudo_labelled")
            if there != record:
                raise CrossmodError(
                    f"{self.training.work} holds the self-training of {there['dataset']} in {there['configuration']}: "
                    "name another folder with --work"
                )
        elif self.out_id is not None and free_id(self.out_id) != self.out_id:
            raise CrossmodError(f"--out-id {self.out_id} is taken by another data set: {free_id(self.out_id)} is free")
        if names and self.out_id not in (None, id_of(names[0])):
            raise CrossmodError(
                f"{self.training.work} began with {names[0]}: leave out --out-id, or name another --work"
            )
        plain = base.raw.name.partition("_")[2]
        following = self.out_id or id_of(base.raw.name) + 1
        for number in range(1, self.rounds + 1):
            if number > len(names):
                names.append(f"Dataset{free_id(following):03d}_{plain}_pseudo{number}")
            following = id_of(names[number - 1]) + 1
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({**record, "pseudo_labelled": names}, indent=2) + "\n")
        return names

    def _link_scans(self, base: BaseDataset) -> Path:
        """A folder of the images of the scans to label."""
        folder = self.training.work / "scans"
        files = base.training_files()
        with atomic_folder(folder, [folder] if folder.exists() else []) as complete:
            for case in base.unlabelled:
                for channel, image in enumerate(files[case]["images"]):
                    link_or_copy(Path(image), complete / f"{case}_{channel:04d}{base.ending}")
        return folder

    # ---- one round -----------------------------------------------------------------------------------------------

    def _models(self, number: int, names: Sequence[str], base: BaseDataset, scans: Path) -> list[Model]:
        """The models of a round, trained, with their predictions of the scans to label."""
        dataset, method = (names[number - 1], self.training.methods[0]) if number else (base.raw.name, self.first)
        print(f"\nRound {number}: {method.title} on {dataset}", flush=True)
        comparison = self._at(dataset, method, number)
        return [
            Model(run, checkpoint)
            for checkpoint in self.checkpoints
            for run in replace(comparison, checkpoint=checkpoint).train_and_predict(scans, base.ending)
        ]

    def _agree(
        self, number: int, base: BaseDataset, models: Sequence[Model], before: Sequence[Model]
    ) -> tuple[pd.DataFrame, str]:
        """Write what is kept, a table and a picture of it; returns the table and a digest of what is kept."""
        folder, ending, structures = self._folder(number), base.ending, base.block.labels
        in_one_piece = [value for name, value in structures.items() if name not in self.in_pieces]
        rows, slices, digest = [], {}, hashlib.sha1()
        with atomic_folder(folder / "labels", [folder / "labels"] if (folder / "labels").exists() else []) as complete:
            for case in tqdm(base.unlabelled, desc="     agree", unit="scan", disable=None):
                maps = _maps(models, case, ending)
                labels, kept = kept_voxels(maps, in_one_piece)
                earlier = majority(_maps(before, case, ending)) if before else None
                for name, value in agreement(maps, structures).items():
                    rows.append(
                        {
                            "case": case,
                            "modality": base.block.cases[case].modality,
                            "structure": name,
                            "agreement": value,
                            "before": np.nan if earlier is None else dice(labels, earlier, structures[name]),
                            "kept": kept_share(labels, kept, structures[name]),
                        }
                    )
                image = sitk.ReadImage(str(self.training.work / "scans" / f"{case}_0000{ending}"))
                slices[case] = most_telling_slice(case, sitk.GetArrayFromImage(image), labels, kept)
                written = np.where(kept, labels, base.ignore).astype(np.uint8)
                digest.update(case.encode() + written.tobytes())
                label = sitk.GetImageFromArray(written)
                label.CopyInformation(image)
                sitk.WriteImage(label, str(complete / f"{case}{ending}"), useCompression=True)
        table = pd.DataFrame(rows)
        write_whole(folder / AGREEMENT, table.to_csv(index=False))
        least = least_agreed(table).index[:ROWS_OF_PICTURE]
        kept_label_grid([slices[str(case)] for case in least], structures, folder / PICTURE)
        return table, digest.hexdigest()


def mean_of(table: pd.DataFrame, column: str) -> float:
    """Mean over scans of a structure, then over structures; -1 where no scan has any."""
    mean = table.groupby("structure")[column].mean().mean()
    return -1.0 if pd.isna(mean) else float(mean)


def shown(table: pd.DataFrame, number: int, models: int) -> str:
    """The round as text: a line per structure, and the scans to look at first."""
    columns = {"agreement": "between models", "before": f"with round {number - 1}", "kept": "share kept"}
    if not number:
        del columns["before"]
    means = table.groupby("structure", sort=False)[list(columns)].mean()
    means.loc["mean"] = means.mean()
    text = means.rename(columns=columns).map(lambda value: "–" if pd.isna(value) else f"{value:.3f}")
    text.index.name = None
    return (
        f"\nRound {number}, {table['case'].nunique()} unlabelled scans, {models} models: agreement is Dice\n"
        f"{text.to_string()}\nLeast agreed: {look_at_first(table)}"
    )


def _check_it_hides_labels(method: MethodRow, block: CrossmodBlock) -> None:
    hidden = {case.name for case in block.cases.values() if case.modality in block.target and not case.annotated}
    if any(case.name in hidden and case.annotated for case in cases_seen(method.trainer, block)):
        raise CrossmodError(f"{method.trainer} reads labels of the target: name another trainer, as MeanTeacherTrainer")


def _check_it_learns(method: MethodRow, block: CrossmodBlock, settings: Mapping[str, Any]) -> None:
    kind = load_trainer(method.trainer)
    forbids = {**settings, **method.settings}.get("forbid_annotated_target", kind.forbid_annotated_target)
    if forbids or not any(case.pseudo for case in cases_seen(method.trainer, block)):
        raise CrossmodError(
            f"{method.trainer} learns from no label of the target, thus from no pseudo-label: train the rounds with "
            f"another (-tr MeanTeacherTrainer); it may give the first pseudo-labels (--first {method.trainer})"
        )


def _maps(models: Sequence[Model], case: str, ending: str) -> list[NDArray[np.integer[Any]]]:
    return [read_label_map(model.run.work / "predictions" / f"{case}{ending}") for model in models]
