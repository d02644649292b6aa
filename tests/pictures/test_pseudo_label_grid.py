"""Pictures of pseudo-labels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nnunet_crossmod.pictures.overlays import colours_of
from nnunet_crossmod.pictures.pseudo_label_grid import pseudo_label_grid


@pytest.mark.parametrize(("size", "coarse"), [((32, 32), (8, 8)), ((4, 32, 32), (4, 8, 8))])
def test_only_valid_labels_are_coloured_in_the_last_column(
    size: tuple[int, ...], coarse: tuple[int, ...], tmp_path: Path
) -> None:
    from matplotlib.image import imread

    labels = torch.zeros(2, *coarse, dtype=torch.long)
    labels[..., 2:6, 2:6] = 1
    names = {"heart": 1, "vessel": 2}
    counts = []
    for valid in (torch.ones_like(labels, dtype=torch.bool), torch.zeros_like(labels, dtype=torch.bool)):
        file = pseudo_label_grid(torch.rand(2, *size), labels, valid, names, tmp_path / f"{valid.any()}.png")
        picture = imread(file)[..., :3]
        grid = picture[: int(0.9 * len(picture))]
        red = (grid[..., 0] - grid[..., 2]) > 0.25 * colours_of(names)[1][0]
        quarter = red.shape[1] // 4
        counts.append([int(red[:, i * quarter : (i + 1) * quarter].sum()) for i in range(4)])
    (_, some, _, believed), (_, same, _, none) = counts
    assert some > 500
    assert same == some
    assert believed > 500
    assert none < 50
