"""The strong base: what it does to which samples, and that it never reads a label that training may not see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from nnunet_crossmod.data import Case, CrossModalBatch, CrossmodBlock, IntensityAugmentation

EVERYTHING = frozenset({1, 2})
CASES = (
    Case("a", "MR", EVERYTHING, "a"),
    Case("b", "CT", frozenset(), "b"),
    Case("c", "MR", EVERYTHING, "c"),
    Case("d", "CT", frozenset(), "d"),
)
BLOCK = CrossmodBlock(("MR", "CT"), ("MR",), ("CT",), {case.name: case for case in CASES}, {"x": 1, "y": 2})
OFF: dict[str, Any] = {"curve_probability": 0.0, "gin": "off", "nnunet": False}


@pytest.fixture
def batch() -> CrossModalBatch:
    labels = torch.randint(0, 3, (4, 16, 16)) * torch.tensor([1, 0, 1, 0]).view(4, 1, 1)
    return CrossModalBatch(torch.randn(4, 1, 16, 16), (labels,), torch.tensor([0, 1, 0, 1]), CASES, BLOCK)


def changed(batch: CrossModalBatch, **settings: Any) -> list[bool]:
    augmented = IntensityAugmentation(**{**OFF, **settings})(batch)
    assert torch.equal(augmented.labels[0], batch.labels[0])
    return [not torch.equal(a, b) for a, b in zip(augmented.images, batch.images, strict=True)]


def test_each_part_changes_the_samples_that_it_is_for(batch: CrossModalBatch) -> None:
    assert changed(batch, curve_probability=1.0) == [True, False, True, False]
    assert changed(batch, gin="source") == [True, False, True, False]
    assert changed(batch, gin="all") == [True] * 4
    assert changed(batch, gin="all", gin_probability=0.0) == [False] * 4
    assert IntensityAugmentation(**OFF)(batch) is batch


def test_nnunets_own_changes_follow(batch: CrossModalBatch) -> None:
    assert any(any(changed(batch, nnunet=True)) for _ in range(8))


def test_a_batch_remembers_where_its_scans_were(batch: CrossModalBatch) -> None:
    images = batch.images.clone()
    images[:2, :, :3] = 0
    padded = replace(batch, images=images)
    augmented = IntensityAugmentation()(padded)
    assert torch.equal(augmented.inside, images != 0)
    assert torch.equal(augmented.common_frame, padded.common_frame)
    assert torch.equal(augmented.target.inside, padded.target.inside)


def test_maps_are_judged_where_both_sides_show_something(batch: CrossModalBatch) -> None:
    images = batch.images.clone()
    images[0, :, :4] = 0
    images[3, :, :, :8] = 0
    framed = replace(batch, images=images).framed(torch.ones(4, 2, 8, 8))
    expected = torch.ones(4, 1, 8, 8)
    expected[:2, :, :2] = 0  # samples in turn: MR, CT, MR, CT
    expected[2:, :, :, :4] = 0
    assert torch.equal(framed, expected.expand(-1, 2, -1, -1))


def test_annotated_targets_get_curves(batch: CrossModalBatch) -> None:
    cases = (*CASES[:3], replace(CASES[3], visible=EVERYTHING))
    assert changed(replace(batch, cases=cases), curve_probability=1.0) == [True, False, True, True]


def test_a_teacher_labels_the_classes_of_the_others(batch: CrossModalBatch) -> None:
    labels = torch.randint(0, 3, (2, 16, 16))
    taught = batch.with_pseudo_labels(labels, torch.zeros_like(labels, dtype=torch.bool))
    assert changed(taught, curve_probability=1.0) == [True] * 4
    assert changed(taught, curve_probability=1.0, curves_by_teacher=False) == [True, False, True, False]
    assert changed(taught, curve_probability=0.0) == [False] * 4


def test_annotated_targets_get_curves_by_their_own_labels(batch: CrossModalBatch) -> None:
    """What a teacher says of them plays no part."""
    annotated = replace(batch, cases=tuple(replace(case, visible=EVERYTHING) for case in CASES))
    outcomes = []
    for labels in (torch.zeros(2, 16, 16, dtype=torch.long), torch.ones(2, 16, 16, dtype=torch.long)):
        torch.manual_seed(0)
        taught = annotated.with_pseudo_labels(labels, labels.bool())
        outcomes.append(IntensityAugmentation(**{**OFF, "curve_probability": 1.0})(taught).images)
    assert torch.equal(*outcomes)
    assert (outcomes[0] != batch.images).flatten(1).any(1).all()


def test_half_of_the_annotated_samples_get_curves(batch: CrossModalBatch) -> None:
    augmentation = IntensityAugmentation(**{**OFF, "curve_probability": 0.5})
    torch.manual_seed(0)
    touched = torch.stack([(augmentation(batch).images != batch.images).flatten(1).any(1) for _ in range(60)])
    share = touched.float().mean(0)
    assert not share[[1, 3]].any()
    assert ((share[[0, 2]] > 0.3) & (share[[0, 2]] < 0.7)).all()


def test_hidden_labels_never_influence_it(batch: CrossModalBatch) -> None:
    scrambled = batch.labels[0].clone()
    scrambled[1::2] = torch.randint(0, 3, (2, 16, 16))
    outcomes = []
    for labels in (batch.labels[0], scrambled):
        torch.manual_seed(5)
        outcomes.append(IntensityAugmentation()(replace(batch, labels=(labels,))).images)
    assert torch.equal(*outcomes)
