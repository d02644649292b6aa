"""Dice against its definition, and pictures that show what they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.figure import Figure

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.evaluation import Row, dice_per_structure, evaluate_folder, prediction_grid, summarise
from nnunet_crossmod.training.record import draw_curves

LABELS = {"a": 1, "b": 2, "c": 3, "d": 4}


def test_dice_equals_its_definition_and_says_missed_invented_absent() -> None:
    generator = np.random.default_rng(0)
    prediction, reference = (generator.integers(0, 3, (4, 8, 8)) for _ in range(2))
    prediction[0, 0, 0] = 3  # invented
    dice = dice_per_structure(prediction, reference, LABELS)
    for name in ("a", "b"):
        p, r = prediction == LABELS[name], reference == LABELS[name]
        assert dice[name] == pytest.approx(2 * (p & r).sum() / (p.sum() + r.sum()))
    assert dice["c"] == 0
    assert np.isnan(dice["d"])
    assert dice_per_structure(reference, prediction, LABELS)["c"] == 0


def test_ignored_voxels_do_not_count() -> None:
    reference = np.array([[1, 1, 9, 9]])
    assert dice_per_structure(np.array([[1, 1, 1, 2]]), reference, LABELS, ignore=9)["a"] == 1
    nothing = dice_per_structure(np.array([[1, 1]]), np.array([[9, 9]]), LABELS, ignore=9)
    assert all(np.isnan(value) for value in nothing.values())


def write(file: Path, values: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(values.astype(np.uint8)), str(file))


def test_folders_are_compared_case_by_case(tmp_path: Path) -> None:
    one = np.zeros((2, 4, 4))
    one[0, :2] = 1
    half = np.zeros((2, 4, 4))
    half[0, :1] = 1
    for case, prediction in (("x", one), ("y", half)):
        write(tmp_path / "p" / f"{case}.nii.gz", prediction)
        write(tmp_path / "g" / f"{case}.nii.gz", one)
    write(tmp_path / "p" / "extra.nii.gz", one)
    scores = evaluate_folder(tmp_path / "p", tmp_path / "g", {"a": 1}, {"x": "MR", "y": "CT"})
    table = summarise(scores)
    assert table.loc["MR", "a"] == 1
    assert table.loc["CT", "mean"] == pytest.approx(2 / 3)
    assert table["cases"].tolist() == [1, 1]


def test_what_cannot_be_compared_is_told(tmp_path: Path) -> None:
    write(tmp_path / "p" / "x.nii.gz", np.zeros((2, 4, 4)))
    write(tmp_path / "g" / "x.nii.gz", np.zeros((2, 4, 5)))
    with pytest.raises(CrossmodError, match="predict the same scan"):
        evaluate_folder(tmp_path / "p", tmp_path / "g", {"a": 1}, {})
    write(tmp_path / "g" / "y.nii.gz", np.zeros((2, 4, 4)))
    with pytest.raises(CrossmodError, match=r"y\.nii\.gz has no prediction"):
        evaluate_folder(tmp_path / "p", tmp_path / "g", {"a": 1}, {})
    with pytest.raises(CrossmodError, match="no case in common"):
        evaluate_folder(tmp_path / "nowhere", tmp_path / "g", {"a": 1}, {})


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
