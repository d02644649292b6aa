"""``crossmod report``: everything about a comparison, or about a data set's trainings, on one page."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.colors import to_hex
from tqdm import tqdm

from nnunet_crossmod.compare import RECORD
from nnunet_crossmod.data import CrossmodBlock
from nnunet_crossmod.embeddings import clusters, organ_embeddings
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.evaluation import read_scores
from nnunet_crossmod.evaluation.charts import line_chart, scatter_chart
from nnunet_crossmod.evaluation.comparison import Roles, compare, shown
from nnunet_crossmod.evaluation.metrics import CONVENTIONS
from nnunet_crossmod.evaluation.page import Section, cards, details, figure, key, page, picture, table
from nnunet_crossmod.evaluation.pictures import colours_of, contours
from nnunet_crossmod.inference.trained_model import untranslated
from nnunet_crossmod.paths import dataset_folder, find_dataset_json
from nnunet_crossmod.training.record import read_rows

__all__ = ["write_report"]


@dataclass(frozen=True)
class _Run:
    method: str
    name: str
    results: Path
    work: Path | None = None


def write_report(dataset: int | str, work: Path, file: Path, *, device: str = "cpu", embeddings: bool = True) -> Path:
    """Write the page.

    Args:
        dataset: id or name.
        work: folder of ``crossmod compare``; where it holds no comparison, the page shows the data set's trainings.
        file: the page.
        device: for the embeddings.
        embeddings: whether to compute them.

    Raises:
        CrossmodError: neither a comparison nor a training is there, or the comparison is of another data set.
    """
    dataset_json = json.loads(find_dataset_json(dataset).read_text())
    block = CrossmodBlock.from_dataset_json(dataset_json)
    name = _name_of(find_dataset_json(dataset))
    record = json.loads((work / RECORD).read_bytes()) if (work / RECORD).is_file() else None
    if record is not None and record["dataset"] != name:
        raise CrossmodError(f"{work} compares {record['dataset']}, not {name}: name another folder with -i")
    runs = _runs_of(record, work) if record else _trainings(name)
    if not runs:
        raise CrossmodError(
            f"{work} holds no comparison and $nnUNet_results no training of {name}: run crossmod compare"
        )
    methods = list(dict.fromkeys(run.method for run in runs))
    sections: list[Section] = []
    if record:
        scores = pd.concat([_scores(run) for run in runs])
        roles, tolerance = Roles(**record["roles"]), float(record["tolerance_mm"])
        sections += _tables(scores, methods, roles, block, tolerance)
        sections.append(
            _overlays(scores, runs, block, dataset_folder("nnUNet_raw", dataset), dataset_json["file_ending"])
        )
    sections.append(_curves(runs, methods))
    if embeddings:
        checkpoint = record["checkpoint"] if record else "checkpoint_final.pth"
        sections.append(_clusters(_first_of_each(runs), block, checkpoint, device))
    sections.append(_pictures(_first_of_each(runs)))
    lead = f"{', '.join(block.source)} (labels) → {', '.join(block.target)}; {len(runs)} trainings"
    lead += f" in {record['configuration']}" if record else ""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page(f"{name}: cross-modality segmentation", lead, sections), encoding="utf-8")
    return file


def _runs_of(record: Mapping[str, Any], work: Path) -> list[_Run]:
    return [_Run(r["method"]["title"], r["run"], Path(r["results"]), work / r["work"]) for r in record["runs"]]


def _trainings(dataset: str) -> list[_Run]:
    base = os.environ.get("nnUNet_results")  # noqa: SIM112 - nnU-Net's spelling
    if not base:
        raise CrossmodError("nnUNet_results is not set: export nnUNet_results=/a/folder")
    files = sorted((Path(base) / dataset).glob("*/fold_*/losses.jsonl"))
    return [_Run(file.parents[1].name, file.parent.name, file.parent) for file in files]


def _name_of(dataset_json: Path) -> str:
    """Of the data set; the file lies in its folder, or in that of a model of it."""
    return next(folder.name for folder in dataset_json.parents if re.match(r"Dataset\d{3}_", folder.name))


def _first_of_each(runs: Sequence[_Run]) -> list[_Run]:
    return list({run.method: run for run in reversed(runs)}.values())[::-1]


def _scores(run: _Run) -> pd.DataFrame:
    file = (run.work or Path()) / "metrics.csv"
    if not file.is_file():
        raise CrossmodError(f"{file} does not exist: let crossmod compare finish first")
    scores: pd.DataFrame = read_scores(file).assign(method=run.method, run=run.name)
    return scores


def _tables(
    scores: pd.DataFrame, methods: Sequence[str], roles: Roles, block: CrossmodBlock, tolerance: float
) -> list[Section]:
    compared = compare(scores, methods, roles, block.target)
    sections = []
    for modality in (*block.target, *block.source):
        rows = compared[compared["modality"] == modality]
        if rows.empty:
            continue
        of = scores[scores["modality"] == modality]
        by_case = of.groupby(["case", "method"])["dice"].mean().unstack("method")[list(methods)].round(3)
        note = (
            f"Mean ± standard deviation over {rows['cases'].iloc[0]} test scans; a scan's score is its mean over the "
            f"runs ({', '.join(f'{m}: {n}' for m, n in zip(rows['method'], rows['runs'], strict=True))})."
        )
        if roles.against:
            note += f" p: Wilcoxon signed-rank, two-sided, paired by scan, against {roles.against}, uncorrected."
        if roles.floor and roles.ceiling and modality in block.target:
            note += f" Gap closed: from {roles.floor} to {roles.ceiling}, mean Dice."
        sections.append(
            Section(
                f"{modality}, {'target' if modality in block.target else 'source'}",
                table(shown(compared, modality, roles)),
                f'<p class="note">{escape(note)}</p>',
                details("Mean Dice of every scan", table(by_case.reset_index())),
            )
        )
    meanings = [*CONVENTIONS.items(), ("tolerance of nsd", f"{tolerance:g} mm")]
    words = "".join(f"<dt>{escape(what)}</dt><dd>{escape(means)}</dd>" for what, means in meanings)
    sections.append(Section("Definitions", details("How the metrics are computed", f"<dl>{words}</dl>")))
    return sections


def _overlays(scores: pd.DataFrame, runs: Sequence[_Run], block: CrossmodBlock, raw: Path, ending: str) -> Section:
    """Worst, median and best target scan of every method's first run."""
    parts = []
    for run in _first_of_each(runs):
        of = scores[(scores["method"] == run.method) & (scores["run"] == run.name)]
        dice = of[of["modality"].isin(block.target)].groupby("case")["dice"].mean().dropna().sort_values()
        if dice.empty or run.work is None:
            continue
        positions = {"worst": 0, "median": (len(dice) - 1) // 2, "best": len(dice) - 1}
        names: dict[int, list[str]] = {}
        for name, position in positions.items():
            names.setdefault(position, []).append(name)
        figures = []
        for position, called in names.items():
            case = str(dice.index[position])
            drawn = contours(
                raw / "imagesTs" / f"{case}_0000{ending}",
                raw / "labelsTs" / f"{case}{ending}",
                run.work / "predictions" / f"{case}{ending}",
                block.labels,
            )
            caption = f"{', '.join(called)}: {case}, mean Dice {dice.iloc[position]:.3f}"
            figures.append(figure(picture(drawn, f"{run.method}, {caption}"), caption))
        parts.append(f"<h3>{escape(run.method)}, {run.name}</h3>{cards(figures)}")
    colours = [to_hex(colour) for colour in colours_of(block.labels).values()]
    note = '<p class="note">Dashed: reference. Solid: prediction. The slice with most reference voxels.</p>'
    return (
        Section("Worst, median and best", key(list(block.labels), colours=colours), note, *parts) if parts else _none()
    )


def _none() -> Section:
    return Section("")


def _curves(runs: Sequence[_Run], methods: Sequence[str]) -> Section:
    rows = {run: read_rows(run.results / "losses.jsonl") for run in runs}
    terms = list(dict.fromkeys(name for found in rows.values() for row in found for name in row if "/" in name))
    figures = [
        figure(
            line_chart(
                f"{term} over epochs",
                [
                    (methods.index(run.method), [(row["epoch"], row[term]) for row in found if term in row])
                    for run, found in rows.items()
                ],
            ),
            term,
        )
        for term in terms
    ]
    judged = {
        run: list({row["epoch"]: row for row in read_rows(run.results / "label_free.jsonl")}.values()) for run in runs
    }  # a training that continued from a checkpoint has judged some epochs twice
    for name in ("criterion", "source_dice", "certainty", "balance"):
        lines = [
            (methods.index(run.method), [(row["epoch"], row[name]) for row in found]) for run, found in judged.items()
        ]
        if chart := line_chart(f"{name} over epochs", lines):
            figures.append(figure(chart, f"label-free selection: {name}"))
    return Section("Losses by term", key(methods), cards(figures)) if figures else _none()


def _clusters(runs: Sequence[_Run], block: CrossmodBlock, checkpoint: str, device: str) -> Section:
    figures, left_out = [], []
    for run in tqdm(runs, desc="embeddings", unit="model", disable=None):
        try:
            found, places, silhouettes = clusters(organ_embeddings(run.results, checkpoint, device))
        except (CrossmodError, OSError, RuntimeError) as error:
            left_out.append(f"{run.method}: {str(error).splitlines()[0]}")
            continue
        values = list(block.labels.values())
        chart = scatter_chart(
            f"t-SNE of organ embeddings, {run.method}",
            places,
            [values.index(int(organ)) for organ in found.organs],
            found.modality.tolist(),
        )
        told = ", ".join(f"by {name} {value:.2f}" for name, value in silhouettes.items())
        told += (
            f". {caution}" if (caution := untranslated(run.results.parent.name.split("__")[0], block.source)) else ""
        )
        figures.append(figure(chart, f"{run.method}: {len(found.patches)} organs; silhouette {told}"))
    note = (
        "Bottleneck features averaged around every organ that the model predicts in crops of the fold's validation "
        "scans, laid out by t-SNE (cosine distance); colour: organ, shape: modality. Organs well apart and modalities "
        "mixed is what contrast between organs aims at: a high silhouette by organ, one near 0 by modality. For a "
        "picture without the contrastive term add a row such as “AICLTrainer fpc_weight=0” to the comparison."
    )
    missing = f'<p class="note">Not shown: {escape("; ".join(left_out))}</p>' if left_out else ""
    body = [key(list(block.labels)), key(block.modalities, shapes=True), cards(figures)] if figures else []
    return Section("Organ embeddings", f'<p class="note">{note}</p>', *body, missing)


def _pictures(runs: Sequence[_Run]) -> Section:
    """What training drew into the fold's folder, the last of every series; its loss curves stand above."""
    parts = []
    for run in runs:
        files = [file for file in sorted(run.results.glob("*.png")) if file.name != "losses.png"]
        series: dict[tuple[str, str], Path] = {}
        for file in sorted(run.results.glob("*/*.png")):  # epoch_0009_to_target.png: the last of each kind and folder
            series[file.parent.name, re.sub(r"\d+", "", file.name)] = file
        names = {file: file.relative_to(run.results).as_posix() for file in [*files, *series.values()]}
        shown = "".join(figure(picture(f, f"{run.method}, {name}"), name, "whole") for f, name in names.items())
        parts.append(details(f"{run.method}, {run.name}", shown))
    return Section("Pictures from training", *parts)
