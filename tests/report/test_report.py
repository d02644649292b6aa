"""``crossmod report``: one page that stands by itself and shows what was measured."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from test_compare import Commands, call, commands

from nnunet_crossmod.cli import main

__all__ = ["commands"]
VOID = {"meta", "img", "line", "circle", "polyline", "polygon", "br"}


class Elements(HTMLParser):
    """All elements, and whether every one is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def stands_alone(page: str) -> Elements:
    elements = Elements(page)
    assert elements.open == []
    for tag, attributes in elements.found:
        assert tag not in {"script", "link", "iframe"}
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
    assert not re.search(r"url\(|@import", page)
    return elements


@pytest.fixture
def compared(commands: Commands, nnunet: dict[str, Path], tmp_path: Path) -> Iterator[Path]:
    work = tmp_path / "work"
    assert call(work, rows=["SourceOnlyTrainer", "AICLTrainer fpc_weight=0.1", "TargetSupervisedTrainer"]) == 0
    for number, fold in enumerate(sorted(nnunet["nnUNet_results"].rglob("fold_0"))):
        rows = [{"epoch": e, "lr": 1, "segmenter/sup": 1 / (e + 1) + number, "segmenter/<b>": 2.0} for e in range(5)]
        (fold / "losses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        Image.new("RGB", (3000, 40)).save(fold / "progress.png")
        (fold / "translations").mkdir(exist_ok=True)
        for epoch in (9, 19):
            Image.new("RGB", (30, 40)).save(fold / "translations" / f"epoch_{epoch:04d}_to_lge.png")
    return work


def test_the_page_of_a_comparison(compared: Path, tmp_path: Path) -> None:
    assert main(["report", "-d", "901", "-i", str(compared), "-o", str(tmp_path / "r.html"), "--no-embeddings"]) == 0
    page = (tmp_path / "r.html").read_text()
    elements = stands_alone(page)
    assert "What to trust" not in page
    for words in ("AICLTrainer fpc_weight=0.1", "gap closed", "prefers-color-scheme: dark", "width=device-width"):
        assert words in page
    assert "segmenter/&lt;b&gt;" in page
    assert "translations/epoch_0019_to_lge.png" in page
    assert "translations/epoch_0009_to_lge.png" not in page
    assert "segmenter/<b>" not in page
    curves = [attributes for tag, attributes in elements.found if (attributes.get("id") or "").startswith("curve-")]
    assert len(curves) == 2 * 3
    assert "of the way to TargetSupervisedTrainer" in page
    images = [attributes for tag, attributes in elements.found if tag == "img"]
    assert len(images) == 3 + 6  # one target scan is worst, median and best at once; two pictures of each training
    assert sum("worst, median, best" in (image["alt"] or "") for image in images) == 3
    for image in images:
        content = base64.b64decode((image["src"] or "").split(",")[1])
        assert Image.open(io.BytesIO(content)).width <= 1400
        assert image["alt"]


def test_agreement_of_the_models_of_a_row(commands: Commands, tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert call(work, "--seeds", "0", "1", rows=["SourceOnlyTrainer"]) == 0
    assert main(["report", "-d", "901", "-i", str(work), "-o", str(tmp_path / "r.html"), "--no-embeddings"]) == 0
    page = (tmp_path / "r.html").read_text()
    stands_alone(page)
    assert "What to trust without labels" in page
    assert "rank correlation of agreement with Dice too few scans" in page


def test_folds_of_one_seed_are_no_spread(commands: Commands, tmp_path: Path) -> None:
    """As in the tables of ``crossmod compare``."""
    work = tmp_path / "work"
    assert call(work, "--seeds", "0", "-f", "0", "1", rows=["SourceOnlyTrainer"]) == 0
    assert main(["report", "-d", "901", "-i", str(work), "-o", str(tmp_path / "r.html"), "--no-embeddings"]) == 0
    for text in ((work / "table.md").read_text(), (tmp_path / "r.html").read_text()):
        assert "± standard deviation over seeds" in text
        assert not re.search(r"\d ± ", text)


def test_without_a_comparison_it_shows_the_trainings(compared: Path, tmp_path: Path) -> None:
    assert main(["report", "-d", "901", "-i", str(tmp_path), "-o", str(tmp_path / "r.html"), "--no-embeddings"]) == 0
    page = (tmp_path / "r.html").read_text()
    stands_alone(page)
    assert "AICLTrainer__nnUNetPlans_fpc_weight-0.1__2d" in page
    assert "gap closed" not in page


def test_errors_name_what_is_missing(
    dataset: Path, compared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["report", "-d", "901", "-o", str(tmp_path / "r.html"), "--no-embeddings", "-i"]
    next(compared.rglob("metrics.csv")).unlink()
    assert main([*command, str(compared)]) == 1
    assert "let crossmod compare finish" in capsys.readouterr().err
    record = json.loads((compared / "comparison.json").read_text())
    (compared / "comparison.json").write_text(json.dumps({**record, "dataset": "Dataset511_Other"}))
    assert main([*command, str(compared)]) == 1
    assert "compares Dataset511_Other" in capsys.readouterr().err
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "empty"))
    assert main([*command, str(tmp_path)]) == 1
    assert "run crossmod compare" in capsys.readouterr().err


def test_a_model_that_cannot_be_loaded_does_not_spoil_the_page(compared: Path, tmp_path: Path) -> None:
    assert main(["report", "-d", "901", "-i", str(compared), "-o", str(tmp_path / "r.html"), "-device", "cpu"]) == 0
    page = (tmp_path / "r.html").read_text()
    assert "Not shown: SourceOnlyTrainer" in page
    assert os.path.getsize(tmp_path / "r.html") < 2_000_000
