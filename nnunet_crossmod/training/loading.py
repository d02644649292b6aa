"""Splits, data sets and loaders of a training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from nnunet_crossmod.data import Case, CrossmodBlock
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.paths import read_json

__all__ = ["cases_of_fold", "check_fold", "end_workers", "in_background", "summary_of_cases"]


def check_fold(file: Path, fold: int | str) -> None:
    """Raise :class:`CrossmodError` unless ``splits_final.json`` holds the fold: nnU-Net would draw one at random."""
    if fold == "all":
        return
    folds = len(read_json(file, "copy it from the raw data set")) if file.is_file() else 0
    if int(fold) >= folds:
        raise CrossmodError(
            f"{file} holds {folds} folds, no fold {fold}: train fold 0 … {folds - 1} or all"
            if folds
            else f"{file} does not exist: copy it from the raw data set, or convert again"
        )


def cases_of_fold(
    trainer: Any, training: Iterable[str], validation: Iterable[str]
) -> tuple[dict[str, Case], dict[str, Case]]:
    """The fold's cases as training and online validation may see them.

    Online validation chooses ``checkpoint_best``: it sees what training may see, no label more. The validation after
    training uses every label of the fold.

    Raises:
        CrossmodError: no annotated case for training or validation, or a modality without a training case.
    """
    block, name = trainer.block, type(trainer).__name__

    def seen(names: Iterable[str]) -> dict[str, Case]:
        return {case_name: case for case_name in names if (case := trainer.see(block.cases[case_name])) is not None}

    for_training = seen(training)
    for_validation = {case_name: case for case_name, case in seen(validation).items() if case.annotated}
    for what, cases in (("training", for_training), ("validation", for_validation)):
        if not any(case.annotated for case in cases.values()):
            raise CrossmodError(
                f"fold {trainer.fold} has no annotated {what} case that {name} may use: annotate one "
                'in the "crossmod" block of dataset.json, or write other splits_final.json'
            )
    needed = {case.modality for case in seen(block.cases).values()}
    absent = [m for m in block.modalities if m in needed and m not in {c.modality for c in for_training.values()}]
    if absent:
        raise CrossmodError(
            f"fold {trainer.fold} has no training case of {absent[0]}, of which {name} needs one "
            "in every batch: write other splits_final.json"
        )
    return for_training, for_validation


def summary_of_cases(block: CrossmodBlock, training: Mapping[str, Case], validation: Mapping[str, Case]) -> str:
    """One line: how many cases of every modality are seen, and how many of them are annotated."""

    def counts(cases: Mapping[str, Case], modality: str) -> str:
        cases_of_modality = [case for case in cases.values() if case.modality == modality]
        return f"{len(cases_of_modality)} ({sum(case.annotated for case in cases_of_modality)} annotated)"

    parts = [f"{m}: {counts(training, m)}, validation {counts(validation, m)}" for m in block.modalities]
    return "Cases seen in training: " + "; ".join(parts)


class WatchedAugmenter(NonDetMultiThreadedAugmenter):  # type: ignore[misc]
    """nnU-Net's, whose end is told in one line."""

    def __next__(self) -> Any:
        """The next batch.

        Raises:
            CrossmodError: one of its processes has died.
        """
        try:
            return super().__next__()
        except RuntimeError as error:
            raise CrossmodError(
                "a process that loads and augments has died; if it says nothing above, memory was full: set the "
                "environment variable nnUNet_n_proc_DA to fewer processes, and continue with --c"
            ) from error


def end_workers(*loaders: Any) -> None:
    """End the worker processes of loaders that have some; those that have ended already stay as they are."""
    for loader in loaders:
        if isinstance(loader, NonDetMultiThreadedAugmenter):
            loader._finish()


def in_background(
    training: nnUNetDataLoader, validation: nnUNetDataLoader, first_seed: int | None, device: torch.device
) -> tuple[Any, Any]:
    """Both loaders in as many worker processes as nnU-Net allows, or in this process where it allows none.

    Args:
        training: loader of the training cases.
        validation: loader of the validation cases.
        first_seed: of the workers; ``None`` draws one.
        device: that the batches go to.
    """

    def started(loader: nnUNetDataLoader, workers: int, cached: int) -> Any:
        if workers == 0:
            augmenter = SingleThreadedAugmenter(loader, None)
        else:
            seeds = None if first_seed is None else [first_seed + i for i in range(workers)]
            pinned = device.type == "cuda"
            augmenter = WatchedAugmenter(loader, None, workers, cached, seeds, pin_memory=pinned, wait_time=0.002)
        return augmenter

    workers = get_allowed_n_proc_DA()
    loaders = (
        started(training, workers, max(6, workers // 2)),
        started(validation, max(1, workers // 2) if workers else 0, max(3, workers // 4)),
    )
    for loader in loaders:
        next(loader)
    return loaders
