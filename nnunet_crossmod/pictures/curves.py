"""Curves over the epochs of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.figure import Figure

__all__ = ["Curve", "curve_figure", "draw_losses"]


class Curve(NamedTuple):
    """Points (epoch, value) of one training; ``colour`` and ``line`` are matplotlib's colour and line style."""

    points: Sequence[tuple[float, float]]
    colour: str = "C0"
    line: str = "-"


def curve_figure(
    panels: Mapping[str, Sequence[Curve]],
    *,
    size: tuple[float, float] = (4.2, 2.8),
    columns: int = 3,
    new_phases: Sequence[float] = (),
) -> Figure:
    """Draw one panel per entry, all over the same range of epochs.

    It is drawn in matplotlib's own style: nnU-Net's plots leave seaborn's poster-sized fonts behind.

    Args:
        panels: title → curves; at least one of them has a point.
        size: width and height of a panel in inches.
        columns: most panels side by side.
        new_phases: epochs at which a dotted line marks a new phase of the training.

    Returns:
        the figure, not yet saved. Curve j of panel i has the id ``curve-i-j``.
    """
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    epochs = [epoch for curves in panels.values() for curve in curves for epoch, _ in curve.points]
    with style.context("default"):
        figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
        for i, (title, curves) in enumerate(panels.items()):
            axes = figure.add_subplot(rows, columns, i + 1)
            for j, curve in enumerate(curves):
                if not curve.points:
                    continue
                x, y = zip(*curve.points, strict=True)
                few = "." if len(x) < 30 else ""
                axes.plot(x, y, color=curve.colour, linestyle=curve.line, marker=few, gid=f"curve-{i}-{j}")
            axes.set_title(title, fontsize=10, parse_math=False)
            axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
            axes.grid(alpha=0.3)
            for epoch in new_phases:
                axes.axvline(epoch - 0.5, color="0.4", linestyle=":", linewidth=1)
            if i + columns >= len(panels):
                axes.set_xlabel("epoch")
    return figure


def draw_losses(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw one panel per loss term, with a dotted line where a new phase begins; nothing where there is no term.

    Args:
        rows: the epochs of a ``losses.jsonl``; terms are the columns named ``player/term``.
        file: the picture to write.
    """
    terms = list(dict.fromkeys(name for row in rows for name in row if "/" in name))
    if not terms:
        return
    panels = {term: [Curve([(row["epoch"], row[term]) for row in rows if term in row])] for term in terms}
    new_phases = [after["epoch"] for before, after in pairwise(rows) if before.get("phase") != after.get("phase")]
    with style.context("default"):
        curve_figure(panels, new_phases=new_phases).savefig(file, dpi=100)
