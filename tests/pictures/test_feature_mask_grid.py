"""Pictures of the local feature mask."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from nnunet_crossmod.pictures.feature_mask_grid import feature_mask_grid
from nnunet_crossmod.pictures.overlays import colours_of


@pytest.mark.parametrize("size", [(32, 24), (5, 32, 24)])
def test_one_row_per_sample_at_any_resolution_of_the_mask(size: tuple[int, ...], tmp_path: Path) -> None:
    images, labels = torch.randn(3, *size), torch.randint(0, 4, (3, *size))
    mask = torch.rand(3, *[max(1, length // 8) for length in size])
    drawn = imread(feature_mask_grid(images, mask, labels, tmp_path / "masks" / "all.png"))
    fewer = imread(feature_mask_grid(images, mask, labels, tmp_path / "masks" / "one.png", most=1))
    assert drawn.shape[0] > 1.8 * fewer.shape[0]
    assert drawn.std() > 0.1


def test_a_mask_that_is_nothing_anywhere_can_be_drawn(tmp_path: Path) -> None:
    file = feature_mask_grid(torch.zeros(1, 8, 8), torch.zeros(1, 2, 2), torch.zeros(1, 8, 8), tmp_path / "none.png")
    assert imread(file).std() > 0.1


def test_where_the_mask_is_strong_shows(tmp_path: Path) -> None:
    """Same scan and prediction, mask on the left or on the right: the middle column differs, the outer ones do not."""
    left = torch.zeros(1, 1, 2)
    left[..., 0] = 1
    one, two = (
        imread(feature_mask_grid(torch.zeros(1, 8, 8), mask, torch.zeros(1, 8, 8), tmp_path / f"{i}.png"))
        for i, mask in enumerate((left, left.flip(2)))
    )
    changed = abs(one - two).sum((0, 2)) > 0
    width = len(changed)
    assert changed[width // 3 : 2 * width // 3].any()
    assert not changed[: width // 4].any()
    assert not changed[-width // 4 :].any()


def test_the_prediction_has_the_colours_of_the_structures(tmp_path: Path) -> None:
    labels = torch.ones(1, 8, 8, dtype=torch.long)
    labels[..., 4:] = 2
    pixels = imread(feature_mask_grid(torch.zeros(1, 8, 8), torch.zeros(1, 2, 2), labels, tmp_path / "p.png"))[..., :3]
    third = pixels[:, 2 * pixels.shape[1] // 3 :].reshape(-1, 3)
    for colour in colours_of({"a": 1, "b": 2}).values():
        tint = 0.6 * np.asarray(colour)
        assert (np.abs(third - tint).max(1) < 0.02).sum() > 0.15 * len(third)
