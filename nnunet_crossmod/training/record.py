"""The record of a training: ``losses.jsonl`` (one row an epoch) and ``losses.png`` (one panel a term)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

__all__ = ["LossRecord", "draw_curves", "read_rows"]


class LossRecord:
    """Appends epochs to ``losses.jsonl`` and redraws ``losses.png``.

    Args:
        folder: the fold's results folder.
        first_epoch: rows of this epoch and later are dropped: a training that continues from a checkpoint writes them
            again.
    """

    def __init__(self, folder: Path, first_epoch: int) -> None:
        self.file = folder / "losses.jsonl"
        self.picture = folder / "losses.png"
        rows = read_rows(self.file) if first_epoch > 0 else []
        self.rows = [row for row in rows if row["epoch"] < first_epoch]
        self.file.write_text("".join(json.dumps(row) + "\n" for row in self.rows))

    def add(self, epoch: int, terms: Mapping[str, float], **more: Any) -> None:
        """Write one epoch: its mean terms and whatever else is worth a column (phase, learning rate, …)."""
        row = {"epoch": epoch, **more, **terms}
        self.rows.append(row)
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def draw(self) -> None:
        """Redraw the picture."""
        draw_curves(self.rows, self.picture)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The epochs of a ``losses.jsonl``; none where there is no file."""
    if not file.exists():
        return []
    rows = []
    for line in file.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:  # the last line of a training that was killed while writing
            break
    return rows


def draw_curves(rows: list[dict[str, Any]], picture: Path) -> None:
    """One panel a loss term (columns named ``player/term``), epochs along the x axis, a dotted line at a new phase."""
    from matplotlib import style
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for row in rows for name in row if "/" in name))
    if not names:
        return
    # nnU-Net's own plots leave seaborn's poster-sized fonts behind
    with style.context("default"):
        columns = min(3, len(names))
        lines = -(-len(names) // columns)
        figure = Figure(figsize=(4.2 * columns, 2.8 * lines), layout="constrained")
        for position, name in enumerate(names, start=1):
            axes = figure.add_subplot(lines, columns, position)
            points = [(row["epoch"], row[name]) for row in rows if name in row]
            axes.plot(
                [x for x, _ in points], [y for _, y in points], marker="." if len(points) < 30 else "", color="C0"
            )
            axes.set_title(name, fontsize=10)
            axes.set_xlim(-0.5, max(row["epoch"] for row in rows) + 0.5)
            axes.grid(alpha=0.3)
            for before, after in pairwise(rows):
                if before.get("phase") != after.get("phase"):
                    axes.axvline(after["epoch"] - 0.5, color="0.4", linestyle=":", linewidth=1)
            if position > len(names) - columns:
                axes.set_xlabel("epoch")
        figure.savefig(picture, dpi=100)
