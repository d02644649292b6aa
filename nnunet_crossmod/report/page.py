"""A page of HTML that needs nothing but itself: no script, no font, no picture from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from nnunet_crossmod.report.charts import METHOD_COLOURS

__all__ = ["Entry", "Figure", "Group", "Key", "Section", "picture", "render"]

WIDEST = 1400  # pixels of an embedded picture


@dataclass(frozen=True)
class Entry:
    """One entry of a key: a sign (■, ●, …) in a colour of CSS, and what it stands for."""

    name: str
    colour: str = "var(--soft)"
    sign: str = "■"


@dataclass(frozen=True)
class Key:
    """What colours or shapes stand for."""

    title: str
    entries: Sequence[Entry]


@dataclass(frozen=True)
class Figure:
    """A picture or chart as HTML with its caption."""

    content: Markup
    caption: str = ""


@dataclass(frozen=True)
class Group:
    """Figures side by side, a table of text, or terms with their meaning, below a heading.

    ``folded`` shows the heading alone until it is clicked; ``wide`` gives every figure a row of its own.
    """

    heading: str = ""
    figures: Sequence[Figure] = ()
    table: pd.DataFrame | None = None
    terms: Mapping[str, str] = field(default_factory=dict)
    folded: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """A heading, keys, groups, and notes below them; a section without groups and notes is left out."""

    heading: str
    groups: Sequence[Group] = ()
    keys: Sequence[Key] = ()
    notes: Sequence[str] = ()


def render(title: str, conclusion: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole page.

    Args:
        title: of the page.
        conclusion: the sentence on top.
        lead: what the page is about, below it.
        sections: in their order.
    """
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    shown = [section for section in sections if section.groups or section.notes]
    return environment.get_template("page.html.jinja").render(
        title=title, conclusion=conclusion, lead=lead, sections=shown, method_colours=METHOD_COLOURS
    )


def picture(source: Path | bytes, description: str) -> Markup:
    """A PNG, written into the page; made narrower where it is very wide."""
    content = source if isinstance(source, bytes) else source.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        if image.width > WIDEST:
            image.thumbnail((WIDEST, 8 * WIDEST))
            narrower = io.BytesIO()
            image.save(narrower, "PNG", optimize=True)
            content = narrower.getvalue()
    encoded = base64.b64encode(content).decode()
    return Markup('<img alt="{}" loading="lazy" src="data:image/png;base64,{}">').format(description, encoded)
