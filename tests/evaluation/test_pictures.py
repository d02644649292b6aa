"""Pictures that show what they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.figure import Figure

from nnunet_crossmod.evaluation import Row, prediction_grid
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
