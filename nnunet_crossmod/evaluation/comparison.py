"""Methods side by side: means over cases, share of the gap closed, paired tests; as text, Markdown, CSV and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import numpy as np
import pandas as pd

from nnunet_crossmod.errors import CrossmodError, did_you_mean
from nnunet_crossmod.evaluation.metrics import DIGITS, METRICS, TITLES

__all__ = ["RECORD", "Roles", "check_roles", "compare", "gap_closed", "paired_p", "shown", "to_latex", "to_markdown"]

MEAN = "mean"
RECORD = "comparison.json"  # in the work folder of a comparison: its methods, runs and roles


SPREAD = "± standard deviation over seeds (over folds where no seed is given; none where there is one)"
"""What the tables say of it."""


class Roles(NamedTuple):
    """Names of the rows with a role: lower and upper bound of the gap, and the row that others are tested against."""

    floor: str | None = None
    ceiling: str | None = None
    against: str | None = None


def gap_closed(value: float, floor: float, ceiling: float) -> float:
    """Share of the gap between floor and ceiling: 0 at the floor, 1 at the ceiling, NaN where there is no gap."""
    return (value - floor) / (ceiling - floor) if ceiling > floor else float("nan")


def paired_p(ours: Sequence[float] | np.ndarray, theirs: Sequence[float] | np.ndarray) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test over paired cases; 1 where no pair differs.

    Raises:
        ValueError: samples of different length.
    """
    from scipy.stats import wilcoxon

    difference = np.subtract(ours, theirs)
    return float(wilcoxon(difference).pvalue) if difference.any() else 1.0


def check_roles(methods: Sequence[str], roles: Roles) -> None:
    """Raise :class:`CrossmodError` where a role names no method."""
    for role, name in roles._asdict().items():
        if name is not None and name not in methods:
            near = did_you_mean(name, methods)
            raise CrossmodError(f"--{role} {name!r} is not among the rows of -tr{near}: {', '.join(methods)}")


def compare(
    scores: pd.DataFrame, methods: Sequence[str], roles: Roles, targets: Sequence[str] | None = None
) -> pd.DataFrame:
    """One row per modality and method.

    A case's score is its mean over the runs (seeds, folds); means and tests are over cases. Standard deviations are
    over seeds, a seed's score being its mean over folds and cases; without seeds, over runs.

    Args:
        scores: as from :func:`~nnunet_crossmod.evaluation.evaluate_folder`, with ``method``, ``run`` and, if any,
            ``seed`` beside.
        methods: names in the order of the rows.
        roles: which of them are floor and ceiling, and the one that the others are tested against.
        targets: modalities that have a gap (on the source, a ceiling trained on the target is none); all by default.

    Returns:
        ``modality``, ``method``, ``cases``, ``runs``; ``paired`` (cases that every method has a mean Dice of);
        ``<metric> <structure>`` and ``… std`` for every structure and ``mean`` (over a case's structures); ``missed``
        and ``invented`` (structures, all runs together); ``gap closed`` and ``p`` (mean Dice of the paired cases).

    Raises:
        CrossmodError: methods that were not measured on the same cases, or a role that no method has.
    """
    check_roles(methods, roles)
    rows = []
    for modality, scores_of_modality in scores.groupby("modality", sort=False):
        structures = list(dict.fromkeys(scores_of_modality["structure"]))
        scores_of = {method: scores_of_modality[scores_of_modality["method"] == method] for method in methods}
        by_case = {method: _by_case(scores_of[method], structures) for method in methods}
        cases = by_case[methods[0]].index
        for method in methods:
            if not by_case[method].index.equals(cases):
                raise CrossmodError(f"{method} and {methods[0]} were measured on different {modality} cases")
        mean_dice = pd.DataFrame({method: table["dice", MEAN] for method, table in by_case.items()})
        # a scan without any structure has a score only where one was invented: there is nothing to pair
        mean_dice = mean_dice.dropna()
        for method in methods:
            table, own_scores = by_case[method], scores_of[method]
            spread = _spread(own_scores)
            row: dict[str, object] = {"modality": modality, "method": method, "cases": len(cases)}
            row |= {"runs": own_scores["run"].nunique(), "paired": len(mean_dice)}
            for metric in METRICS:
                for structure in [*structures, MEAN]:
                    row[f"{metric} {structure}"] = table[metric, structure].mean()
                    row[f"{metric} {structure} std"] = spread.loc[structure, metric]
            for failure in ("missed", "invented"):
                row[failure] = int((own_scores["status"] == failure).sum())
            row["gap closed"] = (
                gap_closed(*(float(mean_dice[name].mean()) for name in (method, roles.floor, roles.ceiling)))
                if roles.floor and roles.ceiling and (targets is None or modality in targets)
                else np.nan
            )
            row["p"] = (
                paired_p(mean_dice[method].to_numpy(), mean_dice[roles.against].to_numpy())
                if roles.against and method != roles.against and len(mean_dice)
                else np.nan
            )
            rows.append(row)
    return cast("pd.DataFrame", pd.DataFrame(rows))


def _by_case(scores: pd.DataFrame, structures: Sequence[str]) -> pd.DataFrame:
    """Cases along the rows; metric x (structures, mean) along the columns; runs averaged."""
    over_runs = scores.groupby(["case", "structure"], sort=True)[list(METRICS)].mean().unstack("structure")
    for metric in METRICS:
        over_runs[metric, MEAN] = over_runs[metric][list(structures)].mean(axis=1)
    return cast("pd.DataFrame", over_runs)


def _spread(scores: pd.DataFrame) -> pd.DataFrame:
    """Standard deviations over seeds: structures and mean along the rows, metrics along the columns."""
    seed = scores.get("seed", pd.Series(index=scores.index, dtype=object))
    scores = scores.assign(repeat=seed.where(seed.notna(), scores["run"]))
    metrics = list(METRICS)
    spread = scores.groupby(["structure", "repeat"])[metrics].mean().groupby("structure").std()
    per_case = scores.groupby(["repeat", "run", "case"])[metrics].mean()
    spread.loc[MEAN] = per_case.groupby("repeat").mean().std()
    return spread


def shown(table: pd.DataFrame, modality: str) -> pd.DataFrame:
    """The rows of one modality as text, columns titled; columns without a figure (no gap, no test) are left out."""
    rows = table[table["modality"] == modality]
    structures = [name.removeprefix("dice ") for name in rows.columns if name.startswith("dice ")]
    structures = [name for name in structures if not name.endswith(" std")]
    columns: dict[str, Iterable[str]] = {"method": rows["method"]}
    for metric in METRICS:
        for name in structures if metric == "dice" else [MEAN]:
            if rows[f"{metric} {name}"].isna().all():
                continue
            title = name if metric == "dice" and name != MEAN else f"{TITLES[metric]} mean"
            columns[title] = [
                _plus_minus(mean, std, DIGITS[metric])
                for mean, std in zip(rows[f"{metric} {name}"], rows[f"{metric} {name} std"], strict=True)
            ]
    columns["missed"] = [str(value) for value in rows["missed"]]
    columns["invented"] = [str(value) for value in rows["invented"]]
    if rows["gap closed"].notna().any():
        columns["gap closed"] = ["–" if np.isnan(share) else f"{100 * share:.0f} %" for share in rows["gap closed"]]
    if rows["p"].notna().any():
        columns["p"] = [_number(value, 3) for value in rows["p"]]
    return cast("pd.DataFrame", pd.DataFrame({title: list(values) for title, values in columns.items()}))


def _plus_minus(mean: float, std: float, digits: int) -> str:
    return _number(mean, digits) + ("" if np.isnan(std) else f" ± {std:.{digits}f}")


def _number(value: float, digits: int) -> str:
    if np.isnan(value):
        return "–"
    return f"< {10**-digits}" if 0 < value < 0.5 * 10**-digits else f"{value:.{digits}f}"


def to_markdown(table: pd.DataFrame) -> str:
    """A table of text as Markdown."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def to_latex(table: pd.DataFrame, caption: str) -> str:
    """A table of text as LaTeX, with booktabs."""
    latex: str = table.to_latex(
        index=False,
        escape=True,
        caption=re.sub(r"([&%#_$])", r"\\\1", caption),
        column_format="l" + "c" * (len(table.columns) - 1),
    )
    return latex.replace(" ± ", r" $\pm$ ").replace("–", "--").replace("< ", "$<$ ").rstrip()
