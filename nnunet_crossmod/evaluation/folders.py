"""Folders of predicted and reference label maps: every case measured, then means a modality and structure."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import SimpleITK as sitk
from tqdm import tqdm

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.evaluation.metrics import CONVENTIONS, DIGITS, METRICS, TITLES, Score, measure
from nnunet_crossmod.paths import write_whole
from nnunet_crossmod.raw.image_files import check_same_grid, read_image, turned, whole_numbers
from nnunet_crossmod.raw.scan_listing import image_files

__all__ = ["as_json", "evaluate_folder", "printed", "read_scores", "summarise", "summary", "write_evaluation"]

COUNTS = ("scored", "missed", "invented", "absent")
CASES_A_PROCESS = 32  # fewer are measured sooner than another process has started


class _Pair(NamedTuple):
    case: str
    prediction: Path
    reference: Path


def evaluate_folder(
    predictions: Path,
    references: Path,
    labels: Mapping[str, int],
    modalities: Mapping[str, str] | str,
    ending: str = ".nii.gz",
    ignore: int | None = None,
    *,
    tolerance: float = 2.0,
    processes: int | None = None,
    known: Iterable[int] | None = None,
    only: str = "",
) -> pd.DataFrame:
    """Compare every predicted case with its reference.

    Args:
        predictions: folder of predicted label maps.
        references: folder of reference label maps under the same names; predictions without one are passed over.
        labels: foreground structures, name → value.
        modalities: case → modality (an empty name where a case is not listed), or one for all cases.
        ending: of the files.
        ignore: value of voxels in the references that do not count.
        tolerance: of the normalised surface Dice, in mm.
        processes: how many at a time; by default one for every 32 cases, as far as there are cores.
        known: all values that label maps may hold beside background and ``ignore``; by default those of ``labels`` and
            whatever a reference holds.
        only: this modality's cases only.

    Returns:
        one row per case and structure: ``case``, ``modality``, ``structure``, ``status``, ``dice``, ``hd95`` and
        ``assd`` in mm, ``nsd``; see :data:`~nnunet_crossmod.evaluation.metrics.CONVENTIONS`.
        ``attrs["notes"]`` lists files that are not compared and values of no structure.

    Raises:
        CrossmodError: no case in common, a reference without prediction, grids that differ, or voxels that are not
            whole numbers or no known label.
    """
    predicted, expected = (
        {path.name[: -len(ending)]: path for path in image_files(folder, ending)}
        for folder in (predictions, references)
    )
    if only and not isinstance(modalities, str):
        expected = {case: path for case, path in expected.items() if modalities.get(case) == only}
        if not expected:
            raise CrossmodError(f"{references} holds no case of {only}: leave -m out, or give another folder with -g")
    if not set(predicted) & set(expected):
        raise CrossmodError(
            f"{predictions} and {references} have no case in common: give folders with equal file names"
        )
    if missing := sorted(set(expected) - set(predicted)):
        raise CrossmodError(f"{references / (missing[0] + ending)} has no prediction in {predictions}: predict it, too")
    pairs = [_Pair(case, predicted[case], expected[case]) for case in sorted(expected)]
    unnamed = _check_values(pairs, labels, {0, *(() if ignore is None else (ignore,))}, known)
    work = partial(_measure_files, labels=dict(labels), ignore=ignore, tolerance=tolerance)
    if processes is None:
        processes = max(1, min(len(pairs) // CASES_A_PROCESS, os.cpu_count() or 1, 8))
    measured = list(tqdm(_each(work, pairs, processes), "evaluate", len(pairs), unit="case", disable=None))
    rows = [
        {
            "case": pair.case,
            "modality": modalities if isinstance(modalities, str) else modalities.get(pair.case, ""),
            **score._asdict(),
        }
        for pair, scores in zip(pairs, measured, strict=True)
        for score in scores
    ]
    table = cast("pd.DataFrame", pd.DataFrame(rows))
    notes = [_unused(predictions, set(predicted) - set(expected), ending), _unused(references, set(), ending)]
    if unnamed:
        notes.append(
            f"{references} holds the values {sorted(unnamed)}, of no structure "
            f"({', '.join(f'{name}={value}' for name, value in labels.items())}): they are not measured"
        )
    table.attrs["notes"] = [note for note in notes if note]
    return table


def _unused(folder: Path, without_reference: set[str], ending: str) -> str:
    """A line on the files of a folder that are not compared; nothing where there are none."""
    others = [path.name for path in image_files(folder) if not path.name.lower().endswith(ending.lower())]
    unused = [*(case + ending for case in sorted(without_reference)), *others]
    more = " …" if len(unused) > 5 else ""
    return f"{len(unused)} files of {folder} are not compared: {', '.join(unused[:5])}{more}" if unused else ""


def _each(work: Callable[[_Pair], list[Score]], pairs: list[_Pair], processes: int) -> Iterable[list[Score]]:
    if processes == 1:
        yield from map(work, pairs)
        return
    # a forked process would inherit the threads of torch, and hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _use_one_thread) as pool:
        yield from pool.map(work, pairs)


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _measure_files(pair: _Pair, labels: Mapping[str, int], ignore: int | None, tolerance: float) -> list[Score]:
    prediction, reference = (_read(file) for file in (pair.prediction, pair.reference))
    if prediction.GetDimension() == reference.GetDimension() == 3:
        prediction = turned(reference, prediction)
    if prediction.GetSize() != reference.GetSize():
        raise CrossmodError(
            f"{pair.prediction} has size {prediction.GetSize()}, but {pair.reference} has {reference.GetSize()}: "
            "predict the same scan"
        )
    if reference.GetDimension() == 3:
        check_same_grid(reference, prediction, str(pair.reference), str(pair.prediction))
    maps = [_labels_of(image, file) for image, file in ((prediction, pair.prediction), (reference, pair.reference))]
    return measure(maps[0], maps[1], labels, reference.GetSpacing()[::-1], ignore=ignore, tolerance=tolerance)


def _check_values(
    pairs: Sequence[_Pair], labels: Mapping[str, int], no_structure: set[int], known: Iterable[int] | None
) -> set[int]:
    """Look at every file before the first is measured, which takes longer; returns what references hold unnamed."""
    allowed = no_structure | set(labels.values() if known is None else known)
    in_references: set[int] = set()
    for file in [pair.reference for pair in pairs]:
        values = _values_in(file)
        in_references |= values
        if known is not None:
            _check_known(file, values, allowed)
    if in_references - no_structure and not in_references & set(labels.values()):
        _check_known(pairs[0].reference.parent, in_references, allowed)
    for file in [pair.prediction for pair in pairs]:
        _check_known(file, _values_in(file), allowed if known is not None else allowed | in_references)
    return in_references - allowed


def _values_in(file: Path) -> set[int]:
    return set(np.unique(_labels_of(_read(file), file)).tolist())


def _check_known(where: Path, values: set[int], allowed: set[int]) -> None:
    if unknown := sorted(values - allowed):
        raise CrossmodError(
            f"{where} holds the values {unknown[:10]}, which are no labels; known are {sorted(allowed)}: name them "
            "with -l NAME=VALUE (and choose structures with -s), or relabel the file"
        )


def _labels_of(image: sitk.Image, file: Path) -> np.ndarray:
    """The voxels as whole numbers."""
    voxels: np.ndarray = whole_numbers(sitk.GetArrayFromImage(image))
    if np.issubdtype(voxels.dtype, np.floating) and (broken := np.unique(voxels[voxels % 1 != 0])[:5].tolist()):
        raise CrossmodError(
            f"{file} holds {', '.join(f'{value:g}' for value in broken)}, which are no whole numbers: write label "
            "maps, not probabilities"
        )
    return voxels.astype(np.int64)


def _read(file: Path) -> sitk.Image:
    if file.name.lower().endswith((".nii", ".nii.gz")):
        return read_image(file)
    try:
        return sitk.ReadImage(str(file))
    except RuntimeError as error:
        raise CrossmodError(f"{file} cannot be read: write it again") from error


def summarise(scores: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """Mean over cases: one row per modality, one column per structure, and the mean over cases of a case's mean."""
    table: pd.DataFrame = scores.pivot_table(
        index="modality", columns="structure", values=metric, aggfunc="mean", sort=False
    )
    table["mean"] = _case_means(scores)[metric].groupby("modality").mean()
    table.insert(0, "cases", scores.groupby("modality")["case"].nunique())
    return table


def summary(scores: pd.DataFrame) -> dict[str, Any]:
    """Means, standard deviations and counts: modality → ``cases`` and structure (``mean`` over all) → metric.

    Standard deviations of a single case are ``None``, and so is everything of a structure that is absent throughout.
    """
    told: dict[str, Any] = {}
    for modality, of in scores.groupby("modality", sort=False):
        structures = {
            str(name): {
                **{metric: _mean_and_std(rows[metric]) for metric in METRICS},
                **{status: int((rows["status"] == status).sum()) for status in COUNTS},
            }
            for name, rows in of.groupby("structure", sort=False)
        }
        means = _case_means(of)
        structures["mean"] = {
            **{metric: _mean_and_std(means[metric]) for metric in METRICS},
            **{status: int((of["status"] == status).sum()) for status in COUNTS},
        }
        told[str(modality)] = {"cases": int(of["case"].nunique()), "structures": structures}
    return told


def _case_means(scores: pd.DataFrame) -> pd.DataFrame:
    means: pd.DataFrame = scores.groupby(["modality", "case"], sort=False)[list(METRICS)].mean()
    return means


def _mean_and_std(values: pd.Series[float]) -> dict[str, float | None]:
    mean, std = float(values.mean()), float(values.std())
    return {"mean": None if np.isnan(mean) else mean, "std": None if np.isnan(std) else std}


def printed(scores: pd.DataFrame, tolerance: float) -> str:
    """The summary as text: a block per modality, a line per structure."""
    titles = {**TITLES, "nsd": f"NSD {tolerance:g} mm"}
    blocks = []
    for modality, told in summary(scores).items():
        lines = {
            name: {
                **{title: _plus_minus(values[metric], DIGITS[metric]) for metric, title in titles.items()},
                **{status: values[status] for status in COUNTS},
            }
            for name, values in told["structures"].items()
        }
        title = f"{modality or 'all'}: {told['cases']} case" + ("" if told["cases"] == 1 else "s")
        blocks.append(f"{title}\n{pd.DataFrame.from_dict(lines, orient='index').to_string()}")
    penalty = "missed or invented: Dice and NSD 0, distances the image's diagonal; absent: in no mean"
    notes = [f"Warning: {note}" for note in scores.attrs.get("notes", [])]
    return "\n\n".join(blocks) + "\n".join([f"\n\n{penalty}", *notes])


def _plus_minus(value: Mapping[str, float | None], digits: int) -> str:
    if value["mean"] is None:
        return "–"
    return f"{value['mean']:.{digits}f}" + ("" if value["std"] is None else f" ± {value['std']:.{digits}f}")


def read_scores(file: Path) -> pd.DataFrame:
    """A ``metrics.csv`` of :func:`write_evaluation`: names stay the text they are, also ``0017`` and ``NA``."""
    names = dict.fromkeys(("case", "modality", "structure", "status"), str)
    figures = {metric: [""] for metric in METRICS}
    scores: pd.DataFrame = pd.read_csv(file, dtype=names, keep_default_na=False, na_values=figures)
    return scores


def write_evaluation(scores: pd.DataFrame, folder: Path, tolerance: float) -> None:
    """Write ``metrics.csv`` (one row per case and structure) and ``summary.json`` (conventions, means, counts)."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "summary.json", as_json(scores, tolerance) + "\n")
    write_whole(folder / "metrics.csv", scores.to_csv(index=False))


def as_json(scores: pd.DataFrame, tolerance: float) -> str:
    """Conventions, means and counts as JSON."""
    description = {"conventions": {**CONVENTIONS, "tolerance_mm": tolerance}, "modalities": summary(scores)}
    return json.dumps(description, indent=2, ensure_ascii=False)
