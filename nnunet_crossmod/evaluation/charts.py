"""Charts as SVG that take their colours from the page, so that they are readable in light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from matplotlib.ticker import MaxNLocator

__all__ = ["COLOURS", "MARKERS", "STYLE", "line_chart", "marker", "scatter_chart"]

COLOURS = 8
MARKERS = 4
MOST_POINTS = 400
WIDTH, HEIGHT = 320, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 8, 24

# told apart on white and on near-black, also by readers who see no red or no green (after Okabe and Ito)
_LIGHT = ("#0072b2", "#d55e00", "#008060", "#a8478a", "#8a6d00", "#3a9bd4", "#5c5c5c", "#7a4fd0")
_DARK = ("#56b4e9", "#ff8a3d", "#2fc79b", "#e796cd", "#f0d048", "#9fd3f5", "#bdbdbd", "#b59bff")
STYLE = "\n".join(
    f".c{i} {{ --c: {light}; }} @media (prefers-color-scheme: dark) {{ .c{i} {{ --c: {dark}; }} }}"
    for i, (light, dark) in enumerate(zip(_LIGHT, _DARK, strict=True))
)


def line_chart(name: str, lines: Sequence[tuple[int, Sequence[tuple[float, float]]]]) -> str:
    """Lines over epochs.

    Args:
        name: what the chart shows, for readers who do not see it.
        lines: colour 0 … and points (x, y) of every line; points that are not finite are left out.
    """
    finite = [(colour, [(x, y) for x, y in points if np.isfinite(y)]) for colour, points in lines]
    everything = [point for _, points in finite for point in points]
    if not everything:
        return ""
    (left, right), (low, high) = ((min(axis), max(axis)) for axis in zip(*everything, strict=True))
    ticks = [float(tick) for tick in MaxNLocator(4).tick_values(low, high if high > low else low + 1e-6)]
    low, high = ticks[0], ticks[-1]

    def place(x: float, y: float) -> str:
        across = LEFT + (x - left) / max(right - left, 1e-9) * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return f"{across:.1f},{down:.1f}"

    parts = []
    for tick in ticks:
        down = place(left, tick).split(",")[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down}" y2="{down}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{float(down) + 3.5:.1f}" text-anchor="end">{tick:.4g}</text>')
    for x, anchor in ((left, "start"), (right, "end")):
        across = place(x, low).split(",")[0]
        parts.append(f'<text x="{across}" y="{HEIGHT - 8}" text-anchor="{anchor}">{x:g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">epoch</text>')
    for colour, points in finite:
        kept = points[:: -(-len(points) // MOST_POINTS)] if points else []
        shape = " ".join(place(x, y) for x, y in kept)
        if len(kept) == 1:
            across, down = shape.split(",")
            parts.append(f'<circle class="c{colour % COLOURS} dot" cx="{across}" cy="{down}" r="3"/>')
        else:
            parts.append(f'<polyline class="c{colour % COLOURS} line" points="{shape}"/>')
    return _svg(name, WIDTH, HEIGHT, parts)


def scatter_chart(name: str, points: np.ndarray, colours: Sequence[int], markers: Sequence[int]) -> str:
    """Points in a plane.

    Args:
        name: what the chart shows, for readers who do not see it.
        points: (n, 2), any scale; the axes have no meaning of their own and are not drawn.
        colours: colour of every point, 0 ….
        markers: shape of every point, 0 … (circle, square, triangle, diamond).
    """
    size, margin = 300, 10
    spread = np.ptp(points, axis=0).max() or 1.0
    placed = (points - points.min(0) - np.ptp(points, axis=0) / 2) / spread * (size - 2 * margin) + size / 2
    parts = [marker(x, y, m, c) for (x, y), m, c in zip(placed.tolist(), markers, colours, strict=True)]
    return _svg(name, size, size, parts)


def marker(x: float, y: float, shape: int, colour: int, r: float = 3.4) -> str:
    """One marker as SVG."""
    corners: Mapping[int, Sequence[tuple[float, float]]] = {
        1: ((-r, -r), (r, -r), (r, r), (-r, r)),
        2: ((0, -1.25 * r), (1.15 * r, r), (-1.15 * r, r)),
        3: ((0, -1.4 * r), (1.4 * r, 0), (0, 1.4 * r), (-1.4 * r, 0)),
    }
    shape %= MARKERS
    if shape == 0:
        return f'<circle class="c{colour % COLOURS} dot" cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'
    path = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners[shape])
    return f'<polygon class="c{colour % COLOURS} dot" points="{path}"/>'


def _svg(name: str, width: int, height: int, parts: Sequence[str]) -> str:
    return f'<svg role="img" aria-label="{escape(name)}" viewBox="0 0 {width} {height}">{"".join(parts)}</svg>'
