"""Pictures that show what they should."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.figure import Figure
from PIL import Image

from nnunet_crossmod.evaluation import Row, prediction_grid
from nnunet_crossmod.evaluation.charts import line_chart
from nnunet_crossmod.evaluation.pictures import contours
from nnunet_crossmod.training.record import draw_curves


def write(file: Path, values: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(values.astype(np.uint8)), str(file))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    figures: list[Figure] = []
    save = Figure.savefig

    def spy(self: Figure, *args: object, **kwargs: object) -> None:
        figures.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", spy)
    return figures


def test_the_grid_names_its_columns_and_shows_the_slice_with_most_labels(tmp_path: Path, drawn: list[Figure]) -> None:
    labels = np.zeros((3, 6, 6))
    labels[2, 1:5, 1:5] = 1
    write(tmp_path / "image.nii.gz", np.random.default_rng(0).integers(0, 200, (3, 6, 6)))
    write(tmp_path / "label.nii.gz", labels)
    files = (tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")
    row = Row("case", *files, {"AICL": files[1], "floor": files[1]})
    prediction_grid([row, row], {"a": 1}, tmp_path / "grid.png")
    axes = drawn[0].axes
    assert [a.get_title() for a in axes[:4]] == ["image", "reference", "AICL", "floor"]
    image, reference = (np.asarray(a.get_images()[0].get_array()) for a in axes[:2])
    changed = (image != reference).any(2)
    np.testing.assert_array_equal(changed, labels[2] == 1)


def test_curves_have_one_panel_a_term(tmp_path: Path, drawn: list[Figure]) -> None:
    rows = [{"epoch": 0, "lr": 1, "s/sup": 1.0}, {"epoch": 1, "lr": 1, "s/sup": 0.5, "s/fpc": 2.0}]
    draw_curves(rows, tmp_path / "losses.png")
    assert [a.get_title() for a in drawn[0].axes] == ["s/sup", "s/fpc"]
    assert drawn[0].axes[0].xaxis.label.get_size() <= 12


def test_contours_show_the_labelled_slice_in_the_scans_proportions(tmp_path: Path) -> None:
    labels = np.zeros((3, 20, 20))
    labels[1, 8:12, 6:14] = 1
    write(tmp_path / "label.nii.gz", labels)
    write(tmp_path / "empty.nii.gz", labels * 0)
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 200, (3, 20, 20)).astype(np.int16))
    image.SetSpacing((1, 3, 8))
    sitk.WriteImage(image, str(tmp_path / "image.nii.gz"))
    files = [tmp_path / f"{name}.nii.gz" for name in ("image", "label", "empty")]
    sizes, coloured = [], []
    for prediction in files[1:]:
        with Image.open(io.BytesIO(contours(files[0], files[1], prediction, {"a": 1}))) as picture:
            sizes.append(picture.width / picture.height)
            pixels = np.asarray(picture.convert("RGB")).astype(int)
            coloured.append(int((np.ptp(pixels, axis=2) > 60).sum()))
    rows, columns = 4 + 2 * (4 // 3 + 4), 8 + 2 * (8 // 3 + 4)
    assert sizes[0] == pytest.approx(min(columns, 20) / (3 * min(rows, 20)), rel=0.1)
    assert coloured[0] > coloured[1] > 0  # the reference alone is drawn where nothing was predicted


@pytest.mark.parametrize("points", [[(0, 1.0)], [(0, 1.0), (1, 1.0)], [(0, float("nan")), (1, 2.0), (2, -3.0)]])
def test_line_charts_stay_in_their_frame(points: list[tuple[float, float]]) -> None:
    chart = line_chart("term", [(0, points), (9, [])])
    places = [tuple(map(float, place.split(","))) for place in re.findall(r"[\d.-]+,[\d.-]+", chart)]
    places += [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.-]+)" cy="([\d.-]+)"', chart)]
    assert len(places) == sum(np.isfinite(y) for _, y in points)
    assert all(0 <= x <= 320 and 0 <= y <= 200 for x, y in places)


def test_a_chart_of_nothing_is_nothing() -> None:
    assert line_chart("term", [(0, []), (1, [(0, float("nan"))])]) == ""
