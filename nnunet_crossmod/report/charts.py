"""Charts as SVG within the page: their text and lines take the page's colours, in light and in dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from nnunet_crossmod.pictures.curves import Curve, curve_figure

__all__ = ["METHOD_COLOURS", "SHAPES", "line_chart", "method_line", "scatter_chart"]

# on white → on near-black; told apart on either, also by readers who see no red or no green (after Okabe and Ito)
METHOD_COLOURS = {
    "#0072b2": "#56b4e9",
    "#d55e00": "#ff8a3d",
    "#008060": "#2fc79b",
    "#a8478a": "#e796cd",
    "#8a6d00": "#f0d048",
    "#3a9bd4": "#9fd3f5",
    "#5c5c5c": "#bdbdbd",
    "#7a4fd0": "#b59bff",
}
SHAPES = {"o": "●", "s": "■", "^": "▲", "D": "◆"}  # matplotlib's marker → the character in the key
_VARIABLES = {colour: f"var(--method-{i})" for i, colour in enumerate(METHOD_COLOURS)}


def method_line(position: int) -> tuple[str, str]:
    """Colour and line style of a method; dashed from the ninth method on."""
    colours = list(METHOD_COLOURS)
    return colours[position % len(colours)], ("-", "--", ":")[position // len(colours) % 3]


def line_chart(title: str, curves: Sequence[Curve]) -> Markup:
    """Curves over epochs; nothing where no value is finite.

    Args:
        title: above the chart, and for readers who do not see it.
        curves: of the methods; points that are not finite are left out.
    """
    finite = [curve._replace(points=[(x, y) for x, y in curve.points if np.isfinite(y)]) for curve in curves]
    if not any(curve.points for curve in finite):
        return Markup()
    return _svg(curve_figure({title: finite}, size=(3.3, 2.3)), f"{title} over epochs", _VARIABLES)


def scatter_chart(title: str, points: np.ndarray, colours: Sequence[str], shapes: Sequence[int]) -> Markup:
    """Points in a plane.

    Args:
        title: what the chart shows, for readers who do not see it.
        points: (n, 2), any scale; the axes have no meaning of their own and are not drawn.
        colours: colour of every point.
        shapes: shape of every point, 0 … (in the order of ``SHAPES``).
    """
    figure = Figure(figsize=(3.3, 3.3))
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
    axes.set_axis_off()
    axes.set_aspect("equal")
    kinds, drawn_shapes = list(SHAPES), np.asarray(shapes) % len(SHAPES)
    for shape in np.unique(drawn_shapes):
        chosen = drawn_shapes == shape
        chosen_colours = [colour for colour, here in zip(colours, chosen, strict=True) if here]
        axes.scatter(
            points[chosen, 0], points[chosen, 1], c=chosen_colours, marker=kinds[shape], s=16, alpha=0.85, linewidths=0
        )
    return _svg(figure, title, {})


def _svg(figure: Figure, description: str, variables: Mapping[str, str]) -> Markup:
    for artist in figure.findobj():
        artist.set_clip_on(False)  # a clip path is a reference, and would have to be unique on the page
    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": description}):
        figure.savefig(
            text, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    svg = text.getvalue()
    svg = re.sub(r"<style.*?</style>", "", svg[svg.index("<svg") :], flags=re.S)
    for colour, variable in {"#000000": "var(--soft)", "#666666": "var(--soft)", **variables}.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r'^<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg class="chart" viewBox="\1">', svg)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1))
