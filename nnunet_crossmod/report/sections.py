"""The sections of the report, from a comparison or from a data set's trainings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.colors import to_hex
from tqdm import tqdm

from nnunet_crossmod.agreement import rounds_of
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.evaluation import read_scores
from nnunet_crossmod.evaluation.comparison import RECORD, SPREAD, Roles, compare, shown
from nnunet_crossmod.inference.trained_model import untranslated
from nnunet_crossmod.paths import (
    FINAL,
    check_output_file,
    dataset_folder,
    device_of,
    find_dataset_json,
    nnunet_folder,
    read_json,
)
from nnunet_crossmod.pictures.curves import Curve
from nnunet_crossmod.pictures.overlays import colours_of, contours
from nnunet_crossmod.raw.block import CrossmodBlock
from nnunet_crossmod.report.charts import METHOD_COLOURS, SHAPES, line_chart, method_line, scatter_chart
from nnunet_crossmod.report.page import Entry, Figure, Group, Key, Section, picture, render
from nnunet_crossmod.report.terms import SELECTION, meaning_of_loss, meanings_of_columns
from nnunet_crossmod.report.trust import agreement_of_predictions, trust

__all__ = ["write_report"]


@dataclass(frozen=True)
class _Run:
    method: str
    name: str
    results: Path
    work: Path | None = None
    seed: int | None = None


def write_report(dataset: int | str, work: Path, file: Path, *, device: str = "cpu", embeddings: bool = True) -> Path:
    """Write the page.

    Args:
        dataset: id or name.
        work: folder of ``crossmod compare``; where it holds no comparison, the page shows the data set's trainings, and
            the rounds of ``crossmod self-train`` where it is the folder of one.
        file: the page.
        device: for the embeddings, ``auto`` or as nnU-Net's.
        embeddings: whether to compute them.

    Raises:
        CrossmodError: neither a comparison nor a training is there, or the comparison is of another data set.
    """
    check_output_file(file)
    dataset_json_path = find_dataset_json(dataset)
    dataset_json = read_json(dataset_json_path, "convert the data set again")
    block = CrossmodBlock.from_dataset_json(dataset_json, str(dataset_json_path))
    name = _name_of(dataset_json_path)
    record = read_json(work / RECORD, "run crossmod compare again") if (work / RECORD).is_file() else None
    if record is not None and record["dataset"] != name:
        raise CrossmodError(f"{work} compares {record['dataset']}, not {name}: name another folder with -i")
    runs = _runs_of(record, work) if record else _trainings([name, *rounds_of(work, name)])
    if not runs:
        raise CrossmodError(
            f"{work} holds no comparison and $nnUNet_results no training of {name}: run crossmod compare"
        )
    device = device_of(device) if embeddings else device
    methods = list(dict.fromkeys(run.method for run in runs))
    sections: list[Section] = []
    scores, agreements = None, {}
    conclusion = (
        f"No test scans were scored: this page shows what the trainings of {name} left; "
        "crossmod compare scores and compares them."
    )
    if record:
        scores = pd.concat([_scores(run) for run in runs])
        roles = Roles(**record["roles"])
        compared = compare(scores, methods, roles, block.target)
        conclusion = conclude(compared, block.target, roles)
        sections += _tables(scores, compared, roles, block)
        sections.append(
            _overlays(scores, runs, block, dataset_folder("nnUNet_raw", dataset), dataset_json["file_ending"])
        )
        agreements = _agreements(scores, runs, block, dataset_json["file_ending"])
    sections.append(trust(agreements, scores, list(block.labels), work))
    sections.append(_curves(runs, methods))
    if embeddings:
        checkpoint = record["checkpoint"] if record else FINAL
        sections.append(_clusters(_first_of_each(runs), block, checkpoint, device))
    sections.append(_pictures(_first_of_each(runs)))
    if record:
        sections.append(Section("Terms", [Group(terms=meanings_of_columns(record["tolerance_mm"]))]))
    lead = f"From {', '.join(block.source)} (labels) to {', '.join(block.target)}; {len(runs)} trainings"
    lead += f" in {record['configuration']}" if record else ""
    page = render(f"{name}: cross-modality segmentation", conclusion, lead, sections)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page, encoding="utf-8")
    return file


def _runs_of(record: Mapping[str, Any], work: Path) -> list[_Run]:
    return [
        _Run(run["method"]["title"], run["run"], Path(run["results"]), work / run["work"], run["seed"])
        for run in record["runs"]
    ]


def _trainings(datasets: Sequence[str]) -> list[_Run]:
    """Those of a data set, and of others beside it, which are named."""
    results = nnunet_folder("nnUNet_results")
    return [
        _Run(f"{file.parents[1].name}{'' if dataset == datasets[0] else f', {dataset}'}", file.parent.name, file.parent)
        for dataset in datasets
        for file in sorted((results / dataset).glob("*/fold_*/losses.jsonl"))
    ]


def _name_of(dataset_json: Path) -> str:
    """Of the data set; the file lies in its folder, or in that of a model of it."""
    return next(folder.name for folder in dataset_json.parents if re.match(r"Dataset\d{3}_", folder.name))


def _first_of_each(runs: Sequence[_Run]) -> list[_Run]:
    return list({run.method: run for run in reversed(runs)}.values())[::-1]


def _scores(run: _Run) -> pd.DataFrame:
    file = (run.work or Path()) / "metrics.csv"
    if not file.is_file():
        raise CrossmodError(f"{file} does not exist: let crossmod compare finish first")
    scores: pd.DataFrame = read_scores(file).assign(method=run.method, run=run.name, seed=run.seed)
    return scores


def conclude(compared: pd.DataFrame, targets: Sequence[str], roles: Roles) -> str:
    """What a comparison says about the target, in one sentence.

    The sentence is about the method with the best mean Dice, floor and ceiling left aside where there are others.

    Args:
        compared: as from :func:`~nnunet_crossmod.evaluation.comparison.compare`.
        targets: the modalities without labels.
        roles: names of floor, ceiling and the row that others are tested against.
    """
    statements = []
    for modality in targets:
        rows = compared[compared["modality"] == modality].set_index("method").dropna(subset=["dice mean"])
        if rows.empty:
            continue
        dice = rows["dice mean"]
        candidates = dice.drop([name for name in (roles.floor, roles.ceiling) if name in dice.index])
        best = str((candidates if len(candidates) else dice).idxmax())
        scans = int(rows.loc[best, "cases"])
        statement = f"on {modality}, {best} reaches a mean Dice of {dice[best]:.3f} over {_counted(scans, 'test scan')}"
        if roles.floor in dice.index and roles.floor != best:
            difference = dice[best] - dice[roles.floor]
            statement += f", {abs(difference):.3f} {'above' if difference >= 0 else 'below'} {roles.floor}"
        gap = rows.loc[best, "gap closed"]
        if pd.notna(gap) and best not in roles:
            statement += f", which is {100 * gap:.0f} % of the way to {roles.ceiling}"
        p = rows.loc[best, "p"]
        if pd.notna(p):
            verdict = "is unlikely to be chance" if p < 0.05 else "may be chance"
            statement += f"; the difference from {roles.against} {verdict} (p = {p:.2g})"
        statements.append(statement)
    if not statements:
        return "No scan of the target has a score."
    sentence = "; ".join(statements)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _structures(labels: Mapping[str, int]) -> Key:
    colours = colours_of(labels)
    return Key("Structures", [Entry(name, to_hex(colours[value])) for name, value in labels.items()])


def _methods(methods: Sequence[str]) -> Key:
    colours = list(METHOD_COLOURS)
    signs = {"-": "━", "--": "╍", ":": "┅"}
    lines = [method_line(i) for i in range(len(methods))]
    entries = [
        Entry(name, f"var(--method-{colours.index(colour)})", signs[line])
        for name, (colour, line) in zip(methods, lines, strict=True)
    ]
    return Key("Methods", entries)


def _tables(scores: pd.DataFrame, compared: pd.DataFrame, roles: Roles, block: CrossmodBlock) -> list[Section]:
    sections = []
    for modality in (*block.target, *block.source):
        rows = compared[compared["modality"] == modality]
        if rows.empty:
            continue
        dice = scores[scores["modality"] == modality].groupby(["case", "method"])["dice"].mean().unstack("method")
        per_case = dice[rows["method"].tolist()].map(lambda value: "–" if pd.isna(value) else f"{value:.3f}")
        runs = ", ".join(f"{method}: {number}" for method, number in zip(rows["method"], rows["runs"], strict=True))
        note = (
            f"Mean over {_counted(int(rows['cases'].iloc[0]), 'test scan')} {SPREAD}; a scan's score is its mean over "
            f"the runs ({runs})."
        )
        if roles.against:
            note += f" p: Wilcoxon signed-rank, two-sided, paired by scan, against {roles.against}, uncorrected."
        if roles.floor and roles.ceiling and modality in block.target:
            note += f" Gap closed: from {roles.floor} to {roles.ceiling}, mean Dice."
        sections.append(
            Section(
                f"{modality}, {'target' if modality in block.target else 'source'}",
                [
                    Group(table=shown(compared, modality)),
                    Group("Mean Dice of every scan", table=per_case.reset_index(), folded=True),
                ],
                notes=[note],
            )
        )
    return sections


def _overlays(scores: pd.DataFrame, runs: Sequence[_Run], block: CrossmodBlock, raw: Path, ending: str) -> Section:
    """Worst, median and best target scan of every method's first run."""
    groups = []
    for run in _first_of_each(runs):
        scores_of_run = scores[(scores["method"] == run.method) & (scores["run"] == run.name)]
        target = scores_of_run[scores_of_run["modality"].isin(block.target)]
        dice = target.groupby("case")["dice"].mean().dropna().sort_values()
        if dice.empty or run.work is None:
            continue
        positions = {"worst": 0, "median": (len(dice) - 1) // 2, "best": len(dice) - 1}
        ranks: dict[int, list[str]] = {}
        for rank, position in positions.items():
            ranks.setdefault(position, []).append(rank)
        figures = []
        for position, ranks_of_case in ranks.items():
            case = str(dice.index[position])
            content = contours(
                raw / "imagesTs" / f"{case}_0000{ending}",
                raw / "labelsTs" / f"{case}{ending}",
                run.work / "predictions" / f"{case}{ending}",
                block.labels,
            )
            caption = f"{', '.join(ranks_of_case)}: {case}, mean Dice {dice.iloc[position]:.3f}"
            figures.append(Figure(picture(content, f"{run.method}, {caption}"), caption))
        groups.append(Group(f"{run.method}, {run.name}", figures))
    note = "Dashed: reference. Solid: prediction. The slice with most reference voxels."
    return Section("Worst, median and best scan", groups, [_structures(block.labels)], [note] if groups else [])


def _agreements(
    scores: pd.DataFrame, runs: Sequence[_Run], block: CrossmodBlock, ending: str
) -> dict[str, pd.DataFrame]:
    """Of every method with several runs, how far they agree on the target's test scans."""
    cases = sorted(set(scores[scores["modality"].isin(block.target)]["case"]))
    folders: dict[str, list[Path]] = {}
    for run in runs:
        folders.setdefault(run.method, []).append((run.work or Path()) / "predictions")
    return {
        method: agreement_of_predictions(several, cases, ending, block.labels)
        for method, several in folders.items()
        if len(several) > 1 and cases
    }


def _curves(runs: Sequence[_Run], methods: Sequence[str]) -> Section:
    from nnunet_crossmod.training.record import read_rows

    lines = {run: method_line(methods.index(run.method)) for run in runs}

    def figure(title: str, caption: str, rows: Mapping[_Run, Sequence[Mapping[str, Any]]], name: str) -> Figure:
        points = {run: [(row["epoch"], row[name]) for row in rows[run] if name in row] for run in runs}
        return Figure(line_chart(title, [Curve(points[run], *lines[run]) for run in runs]), caption)

    losses = {run: read_rows(run.results / "losses.jsonl") for run in runs}
    terms = list(dict.fromkeys(name for rows in losses.values() for row in rows for name in row if "/" in name))
    figures = [figure(term, f"{term}: {meaning_of_loss(term)}", losses, term) for term in terms]
    criteria = {
        run: list({row["epoch"]: row for row in read_rows(run.results / "label_free.jsonl")}.values()) for run in runs
    }  # a training that continued from a checkpoint has recorded some epochs twice
    figures += [figure(f"label-free selection: {name}", meaning, criteria, name) for name, meaning in SELECTION.items()]
    figures = [figure for figure in figures if figure.content]
    return Section("Losses by term", [Group(figures=figures)] if figures else [], [_methods(methods)])


def _clusters(runs: Sequence[_Run], block: CrossmodBlock, checkpoint: str, device: str) -> Section:
    from nnunet_crossmod.report.embeddings import clusters, organ_embeddings

    figures, left_out = [], []
    colours = {value: to_hex(colour) for value, colour in colours_of(block.labels).items()}
    for run in tqdm(runs, desc="embeddings", unit="model", disable=None):
        try:
            embeddings, places, silhouettes = clusters(organ_embeddings(run.results, checkpoint, device))
        except (CrossmodError, OSError, RuntimeError) as error:
            left_out.append(f"{run.method}: {str(error).splitlines()[0]}")
            continue
        chart = scatter_chart(
            f"t-SNE of organ embeddings, {run.method}",
            places,
            [colours[int(organ)] for organ in embeddings.organs],
            embeddings.modality.tolist(),
        )
        separation = ", ".join(f"by {name} {round(value, 2) + 0.0:.2f}" for name, value in silhouettes.items())
        caption = f"{run.method}: {len(embeddings.patches)} organs; silhouette {separation}"
        plans = read_json(run.results.parent / "plans.json", "train it again")
        if caution := untranslated(run.results.parent.name.split("__")[0], block.source, plans):
            caption += f". {caution}"
        figures.append(Figure(chart, caption))
    note = (
        "Bottleneck features averaged around every organ that the model predicts in crops of the fold's validation "
        "scans, laid out in the plane by t-SNE (cosine distance), which keeps neighbours together. Organs well apart "
        "and modalities mixed is what contrast between organs aims at. The silhouette says so in figures, from −1 to "
        "1: near 1 where groups are well apart, near 0 where they are mixed; high by organ and near 0 by modality is "
        "good. For a picture without the contrastive term add a row such as “AICLTrainer fpc_weight=0” to the "
        "comparison."
    )
    signs = list(SHAPES.values())
    modalities = Key("Modalities", [Entry(name, sign=signs[i % len(signs)]) for i, name in enumerate(block.modalities)])
    return Section(
        "Organ embeddings",
        [Group(figures=figures)] if figures else [],
        [_structures(block.labels), modalities] if figures else [],
        [note, f"Not shown: {'; '.join(left_out)}"] if left_out else [note],
    )


def _pictures(runs: Sequence[_Run]) -> Section:
    """What training drew into the fold's folder, the last of every series; its loss curves stand above."""
    groups = []
    for run in runs:
        files = [file for file in sorted(run.results.glob("*.png")) if file.name != "losses.png"]
        series: dict[tuple[str, str], Path] = {}
        for file in sorted(run.results.glob("*/*.png")):  # epoch_0009_to_target.png: the last of each kind and folder
            series[file.parent.name, re.sub(r"\d+", "", file.name)] = file
        names = {file: file.relative_to(run.results).as_posix() for file in [*files, *series.values()]}
        figures = [Figure(picture(file, f"{run.method}, {name}"), name) for file, name in names.items()]
        if figures:
            groups.append(Group(f"{run.method}, {run.name}", figures, folded=True, wide=True))
    return Section("Pictures from training", groups)
