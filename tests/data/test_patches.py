"""The walk over preprocessed cases."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_crossmod.data import representative_patches
from nnunet_crossmod.raw.block import Case


def scans(cases: int, shape: tuple[int, ...] = (6, 10, 12), visible: frozenset[int] = frozenset({1, 2})) -> Any:
    """Cases whose voxel values name the voxel; class 1 in one corner, class 2 in the other."""

    def load(name: str) -> Any:
        data = np.arange(np.prod(shape), dtype=np.float32).reshape(1, *shape) + 1
        seg = np.zeros((1, *shape), dtype=np.int16)
        seg[0, 0, :2, :2], seg[0, -1, -2:, -2:] = 1, 2
        locations = {value: np.argwhere(seg == value) if value in visible else [] for value in (1, 2)}
        return data, seg, None, {"class_locations": locations}

    named = {f"case{i}": Case(f"case{i}", "a", visible, f"case{i}") for i in range(cases)}
    return SimpleNamespace(cases=named, load_case=load)


@pytest.mark.parametrize(("cases", "limit", "expected"), [(2, 8, 8), (3, 7, 6), (5, 2, 2), (1, 1, 1)])
def test_all_cases_give_equally_many_and_never_more_than_the_limit(cases: int, limit: int, expected: int) -> None:
    batches = list(representative_patches(scans(cases), (4, 4), 3, limit))
    names = [name for batch in batches for name in batch["keys"]]
    assert len(names) == expected
    assert len({names.count(name) for name in set(names)}) == 1
    assert all(len(batch["keys"]) <= 3 for batch in batches)
    assert [len(batch["keys"]) for batch in batches[:-1]] == [3] * (len(batches) - 1)


@pytest.mark.parametrize("patch_size", [(4, 4), (2, 4, 4), (8, 16, 16)])
def test_patches_go_around_every_class_and_stay_on_the_image_where_they_can(patch_size: tuple[int, ...]) -> None:
    (batch,) = representative_patches(scans(1), patch_size, 4, 4)
    assert batch["data"].shape == (4, 1, *patch_size)
    assert batch["target"].shape == (4, 1, *patch_size)
    for position, labels in enumerate(batch["target"]):
        assert 1 + position % 2 in labels
    padded = any(size > whole for size, whole in zip(patch_size[::-1], (12, 10, 6), strict=False))
    assert (batch["target"] == -1).any() == padded
    assert torch.equal(batch["target"] == -1, batch["data"] == 0)


def test_a_case_without_visible_labels_gives_its_centre() -> None:
    (batch,) = representative_patches(scans(1, visible=frozenset()), (2, 2, 2), 4, 4)
    whole = scans(1).load_case("case0")[0]
    assert torch.equal(batch["data"][0], torch.from_numpy(whole[:, 2:4, 4:6, 5:7]))


def test_no_case_gives_nothing() -> None:
    assert list(representative_patches(scans(0), (4, 4), 4, 4)) == []
