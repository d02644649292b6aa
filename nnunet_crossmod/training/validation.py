"""The validation after training: nnU-Net's commands choose by what training may see, and by nothing else.

``nnUNetv2_find_best_configuration``, ``nnUNetv2_determine_postprocessing`` and ``nnUNetv2_accumulate_crossval_results``
take every prediction in ``fold_X/validation``. Scans whose labels are hidden from training, in part or in whole, are
therefore kept in ``fold_X/validation_hidden``, with a ``summary.json`` of their own.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from nnunetv2.evaluation.evaluate_predictions import load_summary_json, save_summary_json
from nnunetv2.utilities.json_export import recursive_fix_for_json_export

from nnunet_crossmod.data import CrossmodBlock

__all__ = ["HIDDEN", "SEEN", "case_of", "mean_dice", "summary_of", "validate"]

SEEN = "validation"
HIDDEN = "validation_hidden"
SUMMARY = "summary.json"
POOLED = "Mean Validation Dice"


def validate(trainer: Any, run: Callable[[], None]) -> None:
    """Run nnU-Net's validation, then keep apart what is hidden from training, and log the Dice of every modality.

    Args:
        trainer: a cross-modal trainer.
        run: nnU-Net's ``perform_actual_validation``.
    """
    with _without_pooled_figures(trainer):
        run()
    if trainer.local_rank != 0:
        return
    ending = trainer.dataset_json["file_ending"]
    hidden = {name for name in trainer.do_split()[1] if not _sees_everything(trainer, name)}
    seen_cases, hidden_cases = _keep_apart(Path(trainer.output_folder), hidden, ending)
    if seen_cases:
        dice = mean_dice(seen_cases)
        trainer.logger.log_summary("final_val/foreground_dice", dice)
        trainer.print_to_log_file(f"{POOLED}: ", dice, "(of the scans in validation/ alone)")
    parts = [_dice_of_modalities(trainer.block, cases, ending) for cases in (seen_cases, hidden_cases)]
    said = f"Validation Dice: {parts[0] or 'no scan with all its labels seen'} ({SEEN}/, by which nnU-Net chooses)"
    if parts[1]:
        said += f"; {parts[1]} ({HIDDEN}/, labels hidden from training: choose nothing by it)"
    trainer.print_to_log_file(said)
    if getattr(trainer, "translates", False):
        shown = (
            "in part" if trainer.raw_share > 0 else "alone: it was not made for the source scans above, which are raw"
        )
        source = ", ".join(trainer.block.source)
        trainer.print_to_log_file(f"{type(trainer).__name__} trains its segmenter on translated {source} scans {shown}")


def _sees_everything(trainer: Any, name: str) -> bool:
    case = trainer.see(trainer.block.cases[name])
    return case is not None and case.visible == frozenset(trainer.block.labels.values())


@contextmanager
def _without_pooled_figures(trainer: Any) -> Iterator[None]:
    """As long as this lasts, the Dice of all scans together is not logged."""
    logger, log = trainer.logger, trainer.print_to_log_file

    def log_all_else(*words: Any, **how: Any) -> None:
        if not str(words[0]).startswith(POOLED):
            log(*words, **how)

    trainer.logger = SimpleNamespace(log_summary=lambda *_: None)
    trainer.print_to_log_file = log_all_else
    try:
        yield
    finally:
        trainer.logger = logger
        del trainer.print_to_log_file


def _keep_apart(fold: Path, hidden: Collection[str], ending: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Move what is hidden; returns nnU-Net's metrics of the seen and of the hidden cases."""
    folders = fold / SEEN, fold / HIDDEN
    shutil.rmtree(folders[1], ignore_errors=True)
    everything = load_summary_json(str(folders[0] / SUMMARY))["metric_per_case"]
    parts: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for case in everything:
        parts[case_of(case, ending) in hidden].append(case)
    (folders[0] / SUMMARY).unlink()
    for name in sorted(hidden):
        folders[1].mkdir(exist_ok=True)
        for file in (folders[0] / f"{name}{suffix}" for suffix in (ending, ".npz", ".pkl")):
            if file.is_file():
                file.replace(folders[1] / file.name)
    for folder, cases in zip(folders, parts, strict=True):
        for case in cases:
            case["prediction_file"] = str(folder / Path(case["prediction_file"]).name)
        if cases:
            save_summary_json(summary_of(cases), str(folder / SUMMARY))
    return parts


def case_of(metrics: Mapping[str, Any], ending: str) -> str:
    """The case's name of an entry of nnU-Net's ``metric_per_case``."""
    return Path(metrics["prediction_file"]).name.removesuffix(ending)


def summary_of(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """nnU-Net's summary of cases: the mean of every label over cases, and the mean of these means."""
    means = {
        label: {metric: _mean(case["metrics"][label][metric] for case in cases) for metric in metrics}
        for label, metrics in cases[0]["metrics"].items()
    }
    names = next(iter(means.values()))
    foreground = {name: float(np.mean([mean[name] for mean in means.values()])) for name in names}
    summary = {"metric_per_case": list(cases), "mean": means, "foreground_mean": foreground}
    recursive_fix_for_json_export(summary)
    return summary


def mean_dice(
    cases: Sequence[Mapping[str, Any]], seen: Callable[[Mapping[str, Any], int], bool] | None = None
) -> float:
    """Mean over the labels of their mean Dice over cases; of each case the labels that are seen, all by default.

    NaN where no label is found in any case.
    """
    per_label = [
        _mean(case["metrics"][label]["Dice"] for case in cases if seen is None or seen(case, label))
        for label in (cases[0]["metrics"] if cases else ())
    ]
    return _mean(per_label)


def _mean(values: Any) -> float:
    finite = [float(value) for value in values if not math.isnan(value)]
    return float(np.mean(finite)) if finite else math.nan


def _dice_of_modalities(block: CrossmodBlock, cases: Sequence[Mapping[str, Any]], ending: str) -> str:
    parts = []
    for modality in block.modalities:
        of_modality = [case for case in cases if block.cases[case_of(case, ending)].modality == modality]
        if of_modality:
            dice = mean_dice(of_modality)
            parts.append(f"{modality} {'without labels' if math.isnan(dice) else f'{dice:.4f}'}")
    return ", ".join(parts)
