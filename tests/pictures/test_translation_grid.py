"""Pictures of translations: source, translation and target side by side on one grey scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from nnunet_crossmod.pictures.translation_grid import translation_grid


@pytest.mark.parametrize("size", [(8, 8), (3, 8, 8)])
def test_three_panels_on_one_grey_scale(size: tuple[int, ...], tmp_path: Path) -> None:
    dark, middle, bright = (torch.full((2, 1, *size), value) for value in (0.0, 1.0, 2.0))
    pixels = imread(translation_grid(dark, middle, bright, tmp_path / "new" / "grid.png", "epoch 9"))[..., :3]
    assert np.ptp(pixels, axis=2).max() < 0.01
    row = pixels[pixels.shape[0] // 3, :, 0]
    panels = [row[(2 * i + 1) * len(row) // 6] for i in range(3)]
    np.testing.assert_allclose(panels, [0, 0.5, 1], atol=0.02)


def test_one_row_per_sample_and_at_most_four(tmp_path: Path) -> None:
    images = torch.rand(6, 1, 8, 8)
    heights = [
        imread(translation_grid(images[:n], images[:n], images, tmp_path / f"{n}.png")).shape[0] for n in (1, 4, 6)
    ]
    assert heights[0] < heights[1] / 2
    assert heights[1] == heights[2]
