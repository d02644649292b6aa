"""A page of HTML that needs nothing but itself: no script, no font, no picture from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import pandas as pd
from PIL import Image

from nnunet_crossmod.evaluation.charts import COLOURS, STYLE, marker

__all__ = ["Section", "cards", "details", "figure", "key", "page", "picture", "table"]

WIDEST = 1400  # pixels of an embedded picture
_CSS = """
:root { color-scheme: light dark; --fg: #1c1f23; --bg: #ffffff; --soft: #5b636d; --line: #d9dde2; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --fg: #e6e8eb; --bg: #14171a; --soft: #9aa4af; --line: #333a41; --card: #1d2126; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1320px; padding: 1.2rem; background: var(--bg); color: var(--fg);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.4rem; } h3 { font-size: 1rem; margin-bottom: .4rem; }
nav a { margin-right: 1rem; } a { color: inherit; }
p.note, figcaption, .key { color: var(--soft); font-size: .88rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .35rem .45rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--bg); }
thead th { border-bottom: 2px solid var(--soft); }
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr)); }
figure { margin: 0; padding: .7rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
figure img, figure svg { display: block; width: 100%; height: auto; border-radius: 4px; }
figure.whole { max-width: 900px; margin-top: .8rem; } figure.whole img { background: #fff; }
svg text { fill: var(--soft); font-size: 11px; } svg .grid { stroke: var(--line); stroke-width: 1; }
svg .line { fill: none; stroke: var(--c); stroke-width: 1.6; stroke-linejoin: round; }
svg .dot { fill: var(--c); fill-opacity: .85; }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .4rem 0 .8rem; }
.key svg { width: 14px; height: 14px; vertical-align: -2px; margin-right: .35rem; }
.key b { display: inline-block; width: 12px; height: 12px; border-radius: 2px; margin-right: .35rem; }
summary { cursor: pointer; }
"""


class Section(tuple[str, str]):
    """A heading and the HTML below it."""

    __slots__ = ()

    def __new__(cls, heading: str, *parts: str) -> Section:
        return super().__new__(cls, (heading, "\n".join(parts)))


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole page; sections without content are left out."""
    shown = [(f"s{i}", heading, body) for i, (heading, body) in enumerate(sections) if body.strip()]
    links = "".join(f'<a href="#{anchor}">{escape(heading)}</a> ' for anchor, heading, _ in shown)
    body = "\n".join(f'<section id="{anchor}"><h2>{escape(h)}</h2>\n{b}\n</section>' for anchor, h, b in shown)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}\n{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n<p>{escape(lead)}</p>\n<nav>{links}</nav>\n{body}\n</body>\n</html>\n"
    )


def table(rows: pd.DataFrame) -> str:
    """A table of text; it scrolls by itself where it is too wide."""
    head = "".join(f'<th scope="col">{escape(str(name))}</th>' for name in rows.columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in line) + "</tr>" for line in rows.to_numpy()
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def figure(content: str, caption: str, kind: str = "") -> str:
    """Content with its caption."""
    return f'<figure class="{kind}">{content}<figcaption>{escape(caption)}</figcaption></figure>'


def cards(figures: Sequence[str]) -> str:
    """Figures side by side, as many as fit."""
    return f'<div class="cards">{"".join(figures)}</div>' if figures else ""


def details(summary: str, content: str) -> str:
    """Content to be opened."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>" if content else ""


def key(names: Sequence[str], *, colours: Sequence[str] | None = None, shapes: bool = False) -> str:
    """What the colours mean (those of the charts unless given), or the shapes."""
    entries = []
    for i, name in enumerate(names):
        if colours is not None:
            sign = f'<b style="background:{colours[i % len(colours)]}"></b>'
        elif shapes:
            sign = f'<svg viewBox="0 0 14 14">{marker(7, 7, i, COLOURS - 2, 5)}</svg>'
        else:
            sign = f'<svg viewBox="0 0 14 14">{marker(7, 7, 0, i, 6)}</svg>'
        entries.append(f"<span>{sign}{escape(name)}</span>")
    return f'<div class="key">{"".join(entries)}</div>'


def picture(source: Path | bytes, description: str) -> str:
    """A PNG, written into the page; made narrower where it is very wide."""
    content = source if isinstance(source, bytes) else source.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        if image.width > WIDEST:
            image.thumbnail((WIDEST, 8 * WIDEST))
            small = io.BytesIO()
            image.save(small, "PNG", optimize=True)
            content = small.getvalue()
    encoded = base64.b64encode(content).decode()
    return f'<img alt="{escape(description)}" loading="lazy" src="data:image/png;base64,{encoded}">'
