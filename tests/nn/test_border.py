"""A scan with an empty border, which nnU-Net would have cropped."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import architecture

from nnunet_crossmod.nn import build_unet, has_empty_border
from nnunet_crossmod.training.borders import all_fill_their_box


@pytest.mark.parametrize("shape", [(12, 16), (6, 12, 16)])
def test_an_empty_plane_on_any_side_is_seen(shape: tuple[int, ...]) -> None:
    images = torch.rand(2, 2, *shape)
    channel = torch.full((2, *shape), 2.0)
    assert not has_empty_border(images, channel)
    for axis in range(len(shape)):
        for position in (0, -1):
            emptied = images.clone()
            emptied.select(axis + 2, position)[:] = -0.7
            assert has_empty_border(emptied, channel)
            padded = channel.clone()
            padded.select(axis + 1, position)[:] = 0  # nnU-Net's padding
            assert not has_empty_border(emptied, padded)
            emptied[:, 1] = torch.rand(2, *shape)  # the other channel shows something there
            assert not has_empty_border(emptied, channel)


def test_the_network_warns_once_a_scan_where_training_scans_were_cropped() -> None:
    planned = architecture("PlainConvUNet", 2, [4, 6], [[1, 1], [2, 2]], [1, 1])
    network: Any = build_unet(planned, 2, 3, ["A", "B"], deep_supervision=False)
    scan = torch.rand(1, 2, 8, 8)
    scan[:, 0, :, 0] = 0
    scan[:, 1] = 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network.eval()(scan)  # training scans have empty borders, too
        network.expects_crop = True
        network(scan)  # within a scan
        network.train()(scan)
        network.eval()(torch.cat((torch.rand(1, 1, 8, 8), scan[:, 1:]), 1))
    network.eval()
    with pytest.warns(UserWarning, match="constant over the whole array"):
        network(scan)


def test_a_training_records_whether_its_scans_are_cropped(make_trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer("JointTrainer")
    trainer.on_train_start()
    recorded = json.loads((Path(trainer.output_folder_base) / "plans.json").read_text())["crossmod"]
    assert recorded["expects_crop"] is True
    network = trainer.build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 2, 4, False)
    assert network.expects_crop
    assert not trainer.network.expects_crop  # random crops of training need no warning
    scans = trainer.dataset_class(trainer.preprocessed_dataset_folder)
    name = scans.identifiers[0]
    data, *others = scans.load_case(name)
    emptied = np.array(data[:])
    emptied[0, :, 0] = -1
    monkeypatch.setattr(scans, "load_case", lambda _: (emptied, *others))
    assert not all_fill_their_box(scans, [name], trainer.configuration_manager.patch_size)
