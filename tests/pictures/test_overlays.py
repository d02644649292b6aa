"""Pictures that show what they should."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.figure import Figure
from PIL import Image

from nnunet_crossmod.pictures import Row, prediction_grid
from nnunet_crossmod.pictures.overlays import colours_of, contours


def write(file: Path, values: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(values.astype(np.uint8)), str(file))


def test_the_grid_names_its_columns_and_shows_the_slice_with_most_labels(tmp_path: Path, saved: list[Figure]) -> None:
    labels = np.zeros((3, 6, 6))
    labels[2, 1:5, 1:5] = 1
    write(tmp_path / "image.nii.gz", np.random.default_rng(0).integers(0, 200, (3, 6, 6)))
    write(tmp_path / "label.nii.gz", labels)
    files = (tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")
    row = Row("case", *files, {"AICL": files[1], "floor": files[1]})
    prediction_grid([row, row], {"a": 1}, tmp_path / "grid.png")
    axes = saved[0].axes
    assert [a.get_title() for a in axes[:4]] == ["image", "reference", "AICL", "floor"]
    image, reference = (np.asarray(a.get_images()[0].get_array()) for a in axes[:2])
    changed = (image != reference).any(2)
    np.testing.assert_array_equal(changed, labels[2] == 1)


def test_structures_have_their_colours_at_their_places_in_the_file(tmp_path: Path) -> None:
    labels = np.zeros((1, 8, 8))
    labels[0, :, :4], labels[0, :, 4:] = 1, 2
    write(tmp_path / "image.nii.gz", np.indices((1, 8, 8))[1] * 30)
    write(tmp_path / "label.nii.gz", labels)
    files = (tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")
    names = {"a": 1, "b": 2}
    file = prediction_grid([Row("case", *files, {"AICL": files[1]})], names, tmp_path / "grid.png")
    pixels = np.asarray(Image.open(file).convert("RGB")) / 255
    height, width, _ = pixels.shape
    middle = pixels[height // 4 : height // 2]
    image, reference, prediction = (middle[:, i * width // 3 : (i + 1) * width // 3] for i in range(3))
    assert np.ptp(image, axis=2).max() < 0.02
    for panel in (reference, prediction):
        for value, half in ((1, panel[:, width // 12 : width // 7]), (2, panel[:, width // 5 : width // 4])):
            tint = half - half.min(2, keepdims=True)
            expected = np.asarray(colours_of(names)[value])
            expected = expected - expected.min()
            np.testing.assert_allclose(tint.mean((0, 1)), expected / 2, atol=0.02)


def test_colours_follow_the_values_and_never_repeat() -> None:
    assert colours_of({"a": 1, "b": 2}) == colours_of({"b": 2, "a": 1})
    many = {str(value): value for value in range(1, 21)}
    assert len(set(colours_of(many).values())) == 20


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
