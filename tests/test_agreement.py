"""Agreement of label maps, on maps made by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from nnunet_crossmod.agreement import (
    agreement,
    dice,
    kept_share,
    kept_voxels,
    largest_component,
    least_agreed,
    look_at_first,
    majority,
    rank_correlation,
    read_label_map,
)
from nnunet_crossmod.errors import CrossmodError

A = np.array([[1, 1, 0, 2], [1, 1, 0, 0]])
B = np.array([[1, 1, 0, 0], [1, 0, 0, 2]])
C = np.array([[1, 0, 0, 0], [1, 1, 0, 0]])


def test_dice_is_nan_for_what_is_in_neither() -> None:
    assert dice(A, B, 1) == pytest.approx(2 * 3 / 7)
    assert dice(A, B, 2) == 0
    assert math.isnan(dice(A, B, 3))


def test_agreement_is_the_mean_over_pairs_that_know_the_structure() -> None:
    told = agreement([A, B, C], {"heart": 1, "vessel": 2, "nothing": 3})
    assert told["heart"] == pytest.approx(np.mean([2 * 3 / 7, 2 * 3 / 7, 2 * 2 / 6]))
    assert told["vessel"] == 0
    assert math.isnan(told["nothing"])
    assert agreement([A, A, A], {"heart": 1}) == {"heart": 1.0}
    with pytest.raises(ValueError, match="two label maps"):
        agreement([A], {"heart": 1})


def test_the_majority_decides_and_the_smaller_label_where_it_is_split() -> None:
    np.testing.assert_array_equal(majority([A, B, C]), [[1, 1, 0, 0], [1, 1, 0, 0]])
    np.testing.assert_array_equal(majority([np.array([2, 3]), np.array([1, 3])]), [1, 3])
    order = [majority([C, A, B]), majority([B, C, A])]
    np.testing.assert_array_equal(order[0], order[1])


def test_only_what_all_agree_on_is_kept() -> None:
    labels, kept = kept_voxels([A, B, C], [])
    np.testing.assert_array_equal(labels, majority([A, B, C]))
    np.testing.assert_array_equal(kept, (A == B) & (B == C))
    assert kept_share(labels, kept, 1) == 0.5
    assert math.isnan(kept_share(labels, kept, 2))


def test_the_largest_piece_alone_is_kept_of_structures_in_one_piece() -> None:
    volume = np.zeros((2, 3, 6), dtype=np.uint8)
    volume[:, :, :2] = 1
    volume[0, 0, 4] = 1  # apart
    volume[1, 1, 2] = 1  # hangs on by a face
    volume[0, 0, 5] = 2
    volume[1, 2, 5] = 2  # two pieces of another structure, as large as one another
    _, kept = kept_voxels([volume, volume], [1])
    assert np.argwhere(~kept).tolist() == [[0, 0, 4]]
    _, kept = kept_voxels([volume, volume], [1, 2])
    assert np.argwhere(~kept).tolist() == [[0, 0, 4], [1, 2, 5]]
    assert kept_voxels([volume, volume], [])[1].all()
    assert not largest_component(np.zeros((2, 2), dtype=bool)).any()


def test_the_least_agreed_come_first() -> None:
    rows = [("a", 0.9), ("a", 0.7), ("b", 0.2), ("b", np.nan), ("c", np.nan)]
    table = pd.DataFrame(rows, columns=["case", "agreement"])
    least = least_agreed(table)
    assert list(least.index) == ["c", "b", "a"]
    assert least["a"] == pytest.approx(0.8)
    assert look_at_first(table, most=2) == "c nothing found, b 0.200"


def test_rank_correlation_over_the_cases_in_common() -> None:
    one = pd.Series({"a": 0.1, "b": 0.2, "c": 0.9, "d": np.nan})
    other = pd.Series({"c": 30.0, "a": 1.0, "b": 2.0, "d": 0.0, "e": 7.0})
    assert rank_correlation(one, other) == pytest.approx(1)
    assert rank_correlation(one, -other) == pytest.approx(-1)
    assert math.isnan(rank_correlation(one[:2], other))


def test_a_damaged_prediction_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 4, (4, 30, 30), np.uint8)), str(file))
    assert read_label_map(file).shape == (4, 30, 30)
    file.write_bytes(file.read_bytes()[:-200])  # of a process that was killed
    with pytest.raises(CrossmodError, match=r"a\.nii\.gz is missing or damaged: remove it"):
        read_label_map(file)
