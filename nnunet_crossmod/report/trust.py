"""What to trust without labels: how far models agree on every scan, and what that says of Dice where both are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pandas as pd

from nnunet_crossmod.agreement import (
    AGREEMENT,
    NEW_SCANS,
    PICTURE,
    agreement,
    least_agreed,
    rank_correlation,
    read_label_map,
)
from nnunet_crossmod.report.page import Figure, Group, Section, picture

__all__ = ["agreement_of_predictions", "trust"]

NOTE = (
    "Agreement: mean Dice between the predictions of every two models (seeds, folds, checkpoints), 0 none, 1 the same "
    "voxels. It needs no label. Look first at the scans on which models agree least: where they differ, some are "
    "wrong. Models may also agree on one mistake."
)


def trust(
    compared: Mapping[str, pd.DataFrame], scores: pd.DataFrame | None, structures: Sequence[str], work: Path
) -> Section:
    """The section.

    Args:
        compared: method → agreement of its models on the test scans, as from :func:`agreement_of_predictions`.
        scores: of the test scans, with ``method``.
        structures: names, in the order of the tables.
        work: folder of ``crossmod self-train``, whose rounds are shown; of any other folder nothing is.
    """
    groups = []
    for method, table in compared.items():
        dice = None if scores is None else scores[scores["method"] == method].groupby("case")["dice"].mean()
        groups += _of_scans(f"{method}, test scans", table, structures, dice)
    for file in sorted(work.glob(f"round*/{AGREEMENT}"), key=lambda file: int(file.parent.name.removeprefix("round"))):
        groups += _of_round(file, structures)
    if (work / NEW_SCANS).is_file():
        groups += _of_scans("New scans, by the models of the last round", _read(work / NEW_SCANS), structures, None)
    return Section("What to trust without labels", groups, notes=[NOTE] if groups else [])


def agreement_of_predictions(
    folders: Sequence[Path], cases: Sequence[str], ending: str, labels: Mapping[str, int]
) -> pd.DataFrame:
    """Agreement of several models, one folder of label maps each.

    Args:
        folders: two or more.
        cases: to look at.
        ending: of the files.
        labels: foreground structures, name → value.

    Returns:
        one row per case and structure: ``case``, ``structure``, ``agreement``.
    """
    rows = []
    for case in cases:
        maps = [read_label_map(folder / f"{case}{ending}") for folder in folders]
        rows += [
            {"case": case, "structure": name, "agreement": value} for name, value in agreement(maps, labels).items()
        ]
    return cast("pd.DataFrame", pd.DataFrame(rows, columns=["case", "structure", "agreement"]))


def _of_scans(
    heading: str, table: pd.DataFrame, structures: Sequence[str], dice: pd.Series[float] | None
) -> list[Group]:
    """The scans, those with the least agreement first, with their Dice where it is known."""
    least = least_agreed(table)
    per_scan = table.pivot_table(index="case", columns="structure", values="agreement", aggfunc="mean", dropna=False)
    shown = per_scan.reindex(index=least.index, columns=list(structures))
    shown["agreement"] = least
    if dice is not None:
        shown["Dice"] = dice.reindex(least.index)
        correlation = rank_correlation(least, dice)
        told = "too few scans" if pd.isna(correlation) else f"{correlation:.2f}"
        heading += f": rank correlation of agreement with Dice {told}"
    return [Group(heading, table=_as_text(shown).reset_index(names="scan"), folded=True)]


def _of_round(file: Path, structures: Sequence[str]) -> list[Group]:
    table = _read(file)
    name = file.parent.name.replace("round", "Round ")
    columns = {"agreement": "between models", "before": "with the round before", "kept": "share kept"}
    means = table.groupby("structure")[list(columns)].mean().reindex(list(structures)).rename(columns=columns)
    means = means.dropna(axis="columns", how="all")
    groups = [Group(f"{name} of self-training", table=_as_text(means).reset_index(names="structure"))]
    groups += _of_scans(f"{name}, unlabelled scans", table, structures, None)
    drawn = file.with_name(PICTURE)
    if drawn.is_file():
        caption = "the scans with the least agreement; white: dropped, neither learnt from nor background"
        figure = Figure(picture(drawn, f"{name}: what was kept"), caption)
        groups.append(Group(f"{name}, what was kept", [figure], folded=True, wide=True))
    return groups


def _read(file: Path) -> pd.DataFrame:
    return pd.read_csv(file, dtype=dict.fromkeys(("case", "modality", "structure"), str))


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    return cast("pd.DataFrame", table.map(lambda value: "–" if pd.isna(value) else f"{value:.3f}"))
