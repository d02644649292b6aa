"""The tables of ``crossmod compare``: one a modality, what to know before they are read, and every scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pandas as pd

from nnunet_crossmod.evaluation.comparison import SPREAD, Roles, shown, to_latex, to_markdown

__all__ = ["CEILING", "FLOOR", "ComparisonTables", "dice_per_scan"]

FLOOR, CEILING = "SourceOnlyTrainer", "TargetSupervisedTrainer"


@dataclass(frozen=True)
class ComparisonTables:
    """What the tables say beside the scores.

    Args:
        configuration: ``2d``, ``3d_fullres``, …
        tolerance: of the normalised surface Dice, in mm.
        seeds: how many of every method.
        roles: of the rows.
        second_floor: the row of nnU-Net's own augmentation, where there is one.
    """

    configuration: str
    tolerance: float
    seeds: int
    roles: Roles
    second_floor: str | None = None

    def write(
        self,
        folder: Path,
        table: pd.DataFrame,
        scores: pd.DataFrame,
        modalities: Sequence[str],
        conditions: pd.DataFrame,
    ) -> None:
        """Print one table a modality and write ``table.md``, ``table.tex``, ``table.csv`` and ``scans.csv``.

        Args:
            folder: that they are written to.
            table: of :func:`~nnunet_crossmod.evaluation.comparison.compare`.
            scores: that it was made of, one row a scan, structure and model.
            modalities: in the order of the tables.
            conditions: one row a method, how it was trained.
        """
        markdown, latex = [], []
        for modality in modalities:
            text, heading = self._shown(table, modality), self._heading(table, modality)
            print(f"\n{heading}\n\n{text.to_string(index=False)}")
            markdown.append(f"## {heading}\n\n{to_markdown(text)}\n")
            latex.append(to_latex(text, heading))
        notes = self._notes(table)
        print("\n" + notes)
        print(f"\nTrained with\n\n{conditions.to_string(index=False)}")
        per_scan = dice_per_scan(scores)
        per_scan.to_csv(folder / "scans.csv", index=False)
        markdown += [notes, f"\n## Trained with\n\n{to_markdown(conditions)}\n"]
        markdown += [f"## Dice per scan, mean over structures and models\n\n{to_markdown(per_scan.round(3))}\n"]
        (folder / "table.md").write_text("\n".join(markdown), encoding="utf-8")
        (folder / "table.tex").write_text("\n\n".join(latex) + "\n", encoding="utf-8")
        table.to_csv(folder / "table.csv", index=False)
        print(f"\ntables: {folder / 'table.md'}, table.csv, table.tex; scans: scans.csv, scores.csv")

    def _shown(self, table: pd.DataFrame, modality: str) -> pd.DataFrame:
        """The table as text; where the second floor is among the rows, with every row's gain over it."""
        text = shown(table, modality)
        rows = table[table["modality"] == modality].set_index("method")["dice mean"]
        if self.second_floor in rows:
            text["over nnU-Net's augmentation"] = [f"{value - rows[self.second_floor]:+.3f}" for value in rows]
        return text

    def _heading(self, table: pd.DataFrame, modality: str) -> str:
        row = table[table["modality"] == modality].iloc[0]
        return f"{modality}, {self.configuration}: {row['cases']} test scans, {row['runs']} run(s) of each method"

    def _notes(self, table: pd.DataFrame) -> str:
        roles = self.roles
        notes = [
            f"Mean over test scans {SPREAD}; NSD at {self.tolerance:g} mm. A structure missed or invented counts with "
            "Dice and NSD 0 and the image's diagonal."
        ]
        if roles.floor and roles.ceiling:
            notes.append(f"Gap closed: share of the way in mean Dice from {roles.floor} to {roles.ceiling}.")
        else:
            missing = [row for row, role in ((FLOOR, roles.floor), (CEILING, roles.ceiling)) if role is None]
            notes.append(f"Add {' and '.join(missing)} to see the share of the gap closed.")
        if self.second_floor:
            notes.append(
                f"Two floors: {roles.floor or FLOOR}, and with nnU-Net's own augmentation {self.second_floor}."
            )
        if self.seeds < 3:
            notes.append("Fewer than three seeds: differences between rows may be differences between seeds.")
        fewest = int(table["paired"].min())
        notes.append(
            f"p: two-sided Wilcoxon signed-rank test against {roles.against}, mean Dice, paired by scan, not corrected "
            "for the number of rows"
            + (f"; with {fewest} scans it cannot fall below {2 ** (1 - fewest):.3g}." if fewest < 10 else ".")
        )
        return "\n".join(notes)


def dice_per_scan(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per scan, one column per method: mean Dice over structures, runs averaged."""
    per_scan = scores.groupby(["modality", "case", "method"], sort=False)["dice"].mean()
    return cast("pd.DataFrame", per_scan.unstack("method").reset_index())
