"""Curves over epochs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imread

from nnunet_crossmod.pictures.curves import Curve, curve_figure, draw_losses
from nnunet_crossmod.training.record import LossRecord


def test_curves_have_one_panel_per_term(tmp_path: Path, saved: list[Figure]) -> None:
    rows = [{"epoch": 0, "lr": 1, "s/sup": 1.0}, {"epoch": 1, "lr": 1, "s/sup": 0.5, "s/fpc": 2.0}]
    draw_losses(rows, tmp_path / "losses.png")
    assert [a.get_title() for a in saved[0].axes] == ["s/sup", "s/fpc"]
    assert saved[0].axes[0].xaxis.label.get_size() <= 12


def test_a_training_draws_its_curves_in_blue_and_its_phases_in_grey(tmp_path: Path) -> None:
    record = LossRecord(tmp_path, 0)
    record.draw()
    assert not (tmp_path / "losses.png").exists()
    for epoch in range(4):
        record.add(epoch, {"s/sup": 1 / (epoch + 1)}, phase=epoch // 2)
    record.draw()
    pixels = imread(tmp_path / "losses.png")[..., :3]
    blue = (pixels[..., 2] - pixels[..., 0]) > 0.4
    across = np.flatnonzero(blue.any(0))
    assert np.ptp(across) > 0.5 * pixels.shape[1]
    assert blue[:, across[0]].nonzero()[0].mean() < blue[:, across[-1]].nonzero()[0].mean()  # the loss falls
    record.rows = [{**row, "phase": 0} for row in record.rows]
    record.draw()
    changed = np.abs(imread(tmp_path / "losses.png")[..., :3] - pixels).max((0, 2)) > 0.1
    assert 0 < changed.sum() < 10  # one vertical line
    assert abs(np.flatnonzero(changed).mean() - across.mean()) < 10


def test_every_curve_has_its_colour() -> None:
    curves = [Curve([(0, 1.0), (1, 2.0)], "#d55e00"), Curve([(0, 2.0)], "#008060"), Curve([])]
    (axes,) = curve_figure({"term": curves}).axes
    assert [line.get_color() for line in axes.lines] == ["#d55e00", "#008060"]
