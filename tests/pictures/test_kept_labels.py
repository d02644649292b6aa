"""Pictures of what is kept of pseudo-labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from nnunet_crossmod.pictures.kept_labels import kept_label_grid, most_telling_slice


def test_the_slice_that_drops_most_among_those_that_show_a_structure() -> None:
    labels = np.zeros((4, 8, 8), dtype=np.uint8)
    kept = np.ones(labels.shape, dtype=bool)
    labels[1:3, 2:6, 2:6] = 1
    kept[0] = False
    kept[2, 2] = False
    row = most_telling_slice("a", np.arange(256).reshape(4, 8, 8), labels, kept)
    assert row.image[0, 0] == 2 * 64
    assert row.kept.sum() == 56
    flat = most_telling_slice("a", labels[1], labels[1], kept[1])
    assert flat.labels.shape == (8, 8)


def test_scans_of_any_size_and_a_white_mask_of_what_is_dropped(tmp_path: Path) -> None:
    rows = []
    for size in (20, 30):
        labels = np.zeros((size, size), dtype=np.uint8)
        labels[5:15, 5:15] = 1
        rows.append(most_telling_slice(str(size), np.random.default_rng(0).random((size, size)), labels, labels == 0))
    file = kept_label_grid(rows, {"heart": 1}, tmp_path / "sub" / "kept.png")
    picture = np.asarray(Image.open(file).convert("RGB"))[100:-60].astype(int)
    width = picture.shape[1] // 4
    coloured = [(np.ptp(picture[:, i * width : (i + 1) * width], axis=2) > 40).sum() for i in range(4)]
    assert coloured[1] > 1000
    assert max(coloured[0], coloured[2], coloured[3]) < 50
