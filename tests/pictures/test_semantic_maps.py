"""Pictures of external attention: one panel per modality and class, of images and of volumes."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from nnunet_crossmod.pictures.semantic_maps import draw_correlations, draw_semantic_maps

CLASSES = ["background", "Myo", "LV"]


@pytest.mark.parametrize("size", [(24, 30), (6, 24, 30)])
def test_a_class_lights_up_where_it_looks(size: tuple[int, ...], tmp_path: Path) -> None:
    image = np.linspace(0, 1, np.prod(size)).reshape(size)
    maps = np.zeros((3, *[s // 2 for s in size]))
    dark = imread(draw_semantic_maps({"LGE": image}, {"LGE": maps}, CLASSES, tmp_path / "dark.png"))
    maps[(2, *[s // 4 for s in size])] = 5
    lit = imread(draw_semantic_maps({"LGE": image}, {"LGE": maps}, CLASSES, tmp_path / "lit.png"))
    changed = np.nonzero(np.abs(lit - dark).max(2).max(0) > 0.3)[0]
    assert len(changed)
    assert changed.min() > 0.75 * lit.shape[1]


def test_matrices_of_both_modalities_stand_side_by_side(tmp_path: Path) -> None:
    even = np.full((3, 3), 1 / 3)
    one = imread(draw_correlations({"bSSFP": [even] * 2, "LGE": [even] * 2}, CLASSES, tmp_path / "even.png"))
    other = imread(draw_correlations({"bSSFP": [even] * 2, "LGE": [np.eye(3)] * 2}, CLASSES, tmp_path / "eye.png"))
    assert one.shape == other.shape
    assert np.abs(one - other).max() > 0.3
