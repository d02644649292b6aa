"""Charts of the report."""

from __future__ import annotations

import re

import numpy as np
import pytest

from nnunet_crossmod.pictures.curves import Curve
from nnunet_crossmod.report.charts import line_chart, method_line, scatter_chart


@pytest.mark.parametrize("points", [[(0, 1.0)], [(0, 1.0), (1, 1.0)], [(0, float("nan")), (1, 2.0), (2, -3.0)]])
def test_line_charts_stay_in_their_frame(points: list[tuple[float, float]]) -> None:
    chart = line_chart("term", [Curve(points, *method_line(0)), Curve([], *method_line(9))])
    width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', chart)[0])
    curve = re.findall(r'<g id="curve-0-0">(.*?)</g>\s*</g>', chart, flags=re.S)[0]
    places = [(float(x), float(y)) for x, y in re.findall(r'<use [^>]*x="([\d.-]+)" y="([\d.-]+)"', curve)]
    assert len(places) == sum(np.isfinite(y) for _, y in points)
    assert all(0 <= x <= width and 0 <= y <= height for x, y in places)


def test_a_chart_of_nothing_is_nothing() -> None:
    assert line_chart("term", [Curve([]), Curve([(0, float("nan"))])]) == ""


def test_methods_take_the_colours_of_the_page() -> None:
    chart = line_chart("term", [Curve([(0, 1.0), (1, 2.0)], *method_line(i)) for i in range(3)])
    assert all(f"var(--method-{i})" in chart for i in range(3))
    assert "#0072b2" not in chart
    assert "#000000" not in chart
    assert len({method_line(i) for i in range(24)}) == 24


def test_points_have_the_colours_of_their_structures() -> None:
    chart = scatter_chart(
        "t-SNE", np.random.default_rng(0).random((6, 2)), ["#e6550d"] * 4 + ["#3182bd"] * 2, [0, 1] * 3
    )
    assert (chart.count("fill: #e6550d"), chart.count("fill: #3182bd")) == (4, 2)
