"""Several models together: the mean of their probabilities, and how far they agree."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch

from nnunet_crossmod import ensemble
from nnunet_crossmod.agreement import dice
from nnunet_crossmod.ensemble import Member, predict_by_all
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.inference import Predictor

MakeModel = Callable[..., Path]


def voxels(file: Path) -> Any:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def test_the_mean_of_the_probabilities_decides(
    make_model: MakeModel, dataset: Path, nnunet: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    folder = make_model(folds=(0,))
    assert make_model(folds=(1,), seed=1) == folder
    scan = next((nnunet["nnUNet_raw"] / dataset.name / "imagesTs").glob("*lge_0000.nii.gz"))
    members = [Member(folder, fold, "checkpoint_final.pth") for fold in (0, 1)]
    told = predict_by_all(members, {"new": [scan]}, {"new": "lge"}, tmp_path / "out", device="cpu", mirroring=False)

    image = sitk.ReadImage(str(scan))
    labels, probabilities = zip(
        *(
            Predictor(folder, [fold], device="cpu", mirroring=False).predict_probabilities(
                sitk.GetArrayFromImage(image), image.GetSpacing()[::-1], "lge"
            )
            for fold in (0, 1)
        ),
        strict=True,
    )
    predicted = voxels(tmp_path / "out" / "new.nii.gz")
    expected = np.mean(probabilities, axis=0).argmax(0)
    assert (predicted == expected).mean() > 0.999  # they pass a file in half precision
    assert not (labels[0] == labels[1]).all()
    for row in told.itertuples():
        value = dice(labels[0], labels[1], {"Myo": 1, "LV": 2, "RV": 3}[str(row.structure)])
        assert (math.isnan(value) and math.isnan(row.agreement)) or row.agreement == pytest.approx(value)
    written = pd.read_csv(tmp_path / "out" / "agreement.csv")
    assert written["case"].tolist() == ["new"] * 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["agreement.csv", "new.nii.gz"]


def test_a_scan_that_cannot_be_used_costs_no_other_its_prediction(
    make_model: MakeModel, dataset: Path, nnunet: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(ensemble, "AT_A_TIME", 1)
    folder = make_model(folds=(0,))
    make_model(folds=(1,), seed=1)
    scan = next((nnunet["nnUNet_raw"] / dataset.name / "imagesTs").glob("*lge_0000.nii.gz"))
    broken = tmp_path / "broken_0000.nii.gz"
    broken.write_bytes(b"no image")
    members = [Member(folder, fold, "checkpoint_final.pth") for fold in (0, 1)]
    cases = {"a": [broken], "b": [scan]}
    with pytest.raises(CrossmodError, match="broken"):
        predict_by_all(members, cases, dict.fromkeys(cases, "lge"), tmp_path / "out", device="cpu", mirroring=False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["agreement.csv", "b.nii.gz"]
    assert set(pd.read_csv(tmp_path / "out" / "agreement.csv")["case"]) == {"b"}
