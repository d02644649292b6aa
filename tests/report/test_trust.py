"""Agreement and Dice, side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk

from nnunet_crossmod.report.trust import agreement_of_predictions, trust


def test_the_least_agreed_scan_is_on_top_beside_its_dice(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        for case, size in {"x": 2, "y": 6, "z": 4}.items():
            label_map = np.zeros((2, 8, 8), dtype=np.uint8)
            label_map[:, :8, : 8 - size * number] = 1
            sitk.WriteImage(sitk.GetImageFromArray(label_map), str(folder / f"{case}.nii.gz"))
    table = agreement_of_predictions(folders, ["x", "y", "z"], ".nii.gz", {"heart": 1, "vessel": 2})
    scores = pd.DataFrame({"case": ["x", "y", "z"], "dice": [0.9, 0.2, 0.5], "method": "A"})
    section = trust({"A": table}, scores, ["heart", "vessel"], tmp_path)
    (group,) = section.groups
    assert group.heading == "A, test scans: rank correlation of agreement with Dice 1.00"
    assert group.table is not None
    assert group.table["scan"].tolist() == ["y", "z", "x"]
    assert group.table["Dice"].tolist() == ["0.200", "0.500", "0.900"]
    assert group.table["heart"].tolist() == ["0.400", "0.667", "0.857"]
    assert set(group.table["vessel"]) == {"–"}


def test_without_agreement_there_is_no_section(tmp_path: Path) -> None:
    section = trust({}, None, ["heart"], tmp_path)
    assert not section.groups
    assert not section.notes
