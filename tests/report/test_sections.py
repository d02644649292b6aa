"""The sentence on top of the report, and the colours of its sections."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup
from matplotlib.colors import to_hex

from nnunet_crossmod.evaluation.comparison import Roles
from nnunet_crossmod.pictures.overlays import colours_of
from nnunet_crossmod.report.charts import scatter_chart
from nnunet_crossmod.report.page import Entry, Figure, Group, Key, Section, render
from nnunet_crossmod.report.sections import conclude
from nnunet_crossmod.report.terms import meaning_of_loss

ROLES = Roles("floor", "ceiling", "floor")


def compared(**dice: float) -> pd.DataFrame:
    gap = {name: (value - 0.4) / 0.4 for name, value in dice.items()}
    return pd.DataFrame(
        [
            {"modality": "LGE", "method": m, "cases": 8, "dice mean": d, "gap closed": gap[m], "p": np.nan}
            for m, d in dice.items()
        ]
    )


def test_the_conclusion_is_about_the_best_method_between_floor_and_ceiling() -> None:
    table = compared(floor=0.4, one=0.5, two=0.7, ceiling=0.8)
    table.loc[table["method"] == "two", "p"] = 0.0078
    assert conclude(table, ["LGE"], ROLES) == (
        "On LGE, two reaches a mean Dice of 0.700 over 8 test scans, 0.300 above floor, which is 75 % of the way to "
        "ceiling; the difference from floor is unlikely to be chance (p = 0.0078)."
    )


def test_the_conclusion_hides_no_failure() -> None:
    table = compared(floor=0.4, one=0.3, ceiling=0.8)
    table["p"] = 0.5
    sentence = conclude(table, ["LGE"], ROLES)
    assert "one reaches a mean Dice of 0.300" in sentence
    assert "0.100 below floor" in sentence
    assert "may be chance (p = 0.5)" in sentence


def test_the_conclusion_of_bounds_alone_and_of_nothing() -> None:
    assert conclude(compared(floor=0.4), ["LGE"], Roles("floor")) == (
        "On LGE, floor reaches a mean Dice of 0.400 over 8 test scans."
    )
    assert conclude(compared(floor=0.4), ["T2"], Roles("floor")) == "No scan of the target has a score."


def test_a_page_escapes_names_and_keeps_colours() -> None:
    labels = {"<Myo>": 2, "LV": 1}
    colours = {value: to_hex(colour) for value, colour in colours_of(labels).items()}
    key = Key("Structures", [Entry(name, colours[value]) for name, value in labels.items()])
    chart = scatter_chart("t-SNE", np.eye(2), [colours[2], colours[1]], [0, 0])
    table = pd.DataFrame({"method": ["a & b"], "Dice <mean>": ["0.5"]})
    sections = [Section("One", [Group(table=table), Group(figures=[Figure(chart, "<caption>")])], [key])]
    page = render("T", "It works.", "lead", [*sections, Section("Empty", keys=[key])])
    assert re.search(rf'color:{colours[2]}">■</i>&lt;Myo&gt;', page)
    assert f"fill: {colours[2]}" in page
    assert 'data-label="Dice &lt;mean&gt;">0.5</td>' in page
    assert "a &amp; b" in page
    assert "&lt;caption&gt;" in page
    assert "Empty" not in page
    assert page.index("It works.") < page.index("<nav>")
    assert isinstance(chart, Markup)


@pytest.mark.parametrize(
    ("term", "words"),
    [
        ("segmenter/sup", "supervised"),
        ("discriminator/accuracy_main", "judges correctly"),
        ("segmenter/fool_main", "passing for source"),
        ("own/x", "loss term of own"),
    ],
)
def test_loss_terms_in_words(term: str, words: str) -> None:
    assert words in meaning_of_loss(term)
