"""``crossmod report``: one page that stands by itself and shows what was measured."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import started
from test_compare import Commands, call, commands

from nnunet_crossmod.cli import main
from nnunet_crossmod.embeddings import Embeddings, clusters, organ_embeddings
from nnunet_crossmod.errors import CrossmodError

__all__ = ["commands"]
MakeTrainer = Callable[..., Any]
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
    for said in ("AICLTrainer fpc_weight=0.1", "gap closed", "prefers-color-scheme: dark", "width=device-width"):
        assert said in page
    assert "segmenter/&lt;b&gt;" in page
    assert "translations/epoch_0019_to_lge.png" in page
    assert "translations/epoch_0009_to_lge.png" not in page
    assert "segmenter/<b>" not in page
    lines = [attributes for tag, attributes in elements.found if tag == "polyline"]
    assert len(lines) == 2 * 3
    images = [attributes for tag, attributes in elements.found if tag == "img"]
    assert len(images) == 3 + 6  # one target scan is worst, median and best at once; two pictures of each training
    assert sum("worst, median, best" in (image["alt"] or "") for image in images) == 3
    for image in images:
        content = base64.b64decode((image["src"] or "").split(",")[1])
        assert Image.open(io.BytesIO(content)).width <= 1400
        assert image["alt"]


def test_without_a_comparison_it_shows_the_trainings(compared: Path, tmp_path: Path) -> None:
    assert main(["report", "-d", "901", "-i", str(tmp_path), "-o", str(tmp_path / "r.html"), "--no-embeddings"]) == 0
    page = (tmp_path / "r.html").read_text()
    stands_alone(page)
    assert "AICLTrainer__nnUNetPlans_fpc_weight-0.1__2d" in page
    assert "gap closed" not in page


def test_what_is_missing_is_told(
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


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_embeddings_of_a_model(configuration: str, make_trainer: MakeTrainer, dataset: Path) -> None:
    trainer = started(make_trainer("AICLTrainer", configuration))
    with torch.no_grad():  # as many organs as there are, from an untrained network
        trainer.network.decoder.seg_layers[-1].weight.mul_(50)
    trainer.inference_allowed_mirroring_axes = (0, 1)
    fold = Path(trainer.output_folder)
    trainer.save_checkpoint(str(fold / "checkpoint_final.pth"))
    before = np.random.get_state()[1].tolist()
    one, two = (organ_embeddings(fold, "checkpoint_final.pth", "cpu", batches=6) for _ in range(2))
    assert np.random.get_state()[1].tolist() == before
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert one.patches.shape[1] == trainer.bare_network.encoder.output_channels[-1]
    np.testing.assert_allclose(np.linalg.norm(one.patches, axis=1), 1, rtol=1e-5)
    assert set(one.modality) == {0, 1}
    assert set(one.organs) <= {1, 2, 3}


def test_clusters_are_told_apart_and_placed_apart() -> None:
    generator = np.random.default_rng(0)
    organs, modality = np.repeat([1, 2], 30), np.tile([0, 1], 30)
    centres = np.eye(6)[organs]
    patches = centres + 0.05 * generator.normal(size=(60, 6))
    _, places, told = clusters(Embeddings(patches, organs, modality))
    assert told["organ"] > 0.9
    assert abs(told["modality"]) < 0.1
    within = max(np.ptp(places[organs == organ], axis=0).max() for organ in (1, 2))
    between = np.linalg.norm(places[organs == 1].mean(0) - places[organs == 2].mean(0))
    assert between > within / 2
    assert len(clusters(Embeddings(patches, organs, modality), most=20)[0].patches) == 20
    with pytest.raises(CrossmodError, match="too few"):
        clusters(Embeddings(patches[:5], organs[:5], modality[:5]))


def test_a_model_that_cannot_be_loaded_does_not_spoil_the_page(compared: Path, tmp_path: Path) -> None:
    assert main(["report", "-d", "901", "-i", str(compared), "-o", str(tmp_path / "r.html"), "-device", "cpu"]) == 0
    page = (tmp_path / "r.html").read_text()
    assert "Not shown: SourceOnlyTrainer" in page
    assert os.path.getsize(tmp_path / "r.html") < 2_000_000
