"""Boxes of unlabelled scans in each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nnunet_crossmod.data import Case, CrossModalBatch, CrossmodBlock, with_cut_mix
from nnunet_crossmod.data.cut_mix import LARGEST, SMALLEST, cut_mix, random_boxes


@pytest.mark.parametrize("size", [(32, 48), (8, 32, 48)])
def test_boxes_are_solid_and_of_the_extents_that_are_drawn(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    boxes = random_boxes(50, size, 1.0, torch.device("cpu"))
    assert boxes.shape == (50, *size)
    for box in boxes:
        extents = [int(box.any(dim=tuple(a for a in range(len(size)) if a != axis)).sum()) for axis in range(len(size))]
        assert int(box.sum()) == torch.tensor(extents).prod()
        for extent, length in zip(extents, size, strict=True):
            assert SMALLEST * length - 1 <= extent <= LARGEST * length + 1


def test_the_share_is_that_of_the_samples() -> None:
    torch.manual_seed(0)
    boxes = random_boxes(400, (8, 8), 0.25, torch.device("cpu"))
    assert boxes.flatten(1).any(1).float().mean() == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize("axes", [2, 3])
def test_image_labels_and_trust_come_from_the_same_sample(axes: int) -> None:
    of = torch.arange(3).view(3, *[1] * axes).expand(3, *[16] * axes)
    torch.manual_seed(0)
    mixed = cut_mix(of[:, None].float(), of, of == 1, 1.0)
    assert torch.equal(mixed.images[:, 0].long(), mixed.labels)
    assert torch.equal(mixed.trusted, mixed.labels == 1)
    for sample in range(3):
        assert set(mixed.labels[sample].unique().tolist()) == {sample, (sample - 1) % 3}


def a_batch(*, registered: bool = False) -> CrossModalBatch:
    """Samples a … h, every voxel of which holds the number of the sample."""
    everything = frozenset({1})
    cases = [
        Case("a", "MR", everything, "a"),
        Case("b", "CT", everything, "b"),
        Case("c", "CT", frozenset(), "c"),
        Case("d", "MR", frozenset(), "d"),
        Case("e", "US", frozenset(), "e"),
        Case("f", "CT", frozenset(), "f"),
        Case("g", "US", frozenset(), "g"),
        Case("h", "PET", frozenset(), "h"),
    ]
    targets = ("CT", "US", "PET")
    block = CrossmodBlock(("MR", *targets), ("MR",), targets, {c.name: c for c in cases}, {"x": 1})
    number = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 16, 16)
    modality = torch.tensor([block.modalities.index(case.modality) for case in cases])
    batch = CrossModalBatch(number, (torch.zeros(8, 16, 16),), modality, tuple(cases), block, registered)
    labels = number[batch.target_rows][:, 0].long()
    return batch.with_pseudo_labels(labels, torch.ones_like(labels, dtype=torch.bool))


def test_only_unannotated_targets_of_one_modality_are_mixed() -> None:
    batch = a_batch()
    torch.manual_seed(0)
    mixed = with_cut_mix(batch, 1.0)
    values = {case.name: set(sample.unique().tolist()) for case, sample in zip(batch.cases, mixed.images, strict=True)}
    assert values == {"a": {0}, "b": {1}, "c": {2, 5}, "d": {3}, "e": {4, 6}, "f": {2, 5}, "g": {4, 6}, "h": {7}}
    assert mixed.pseudo_labels is not None
    assert torch.equal(mixed.pseudo_labels, mixed.images[batch.target_rows][:, 0].long())
    assert torch.equal(with_cut_mix(batch, 0.0).images, batch.images)


def test_annotated_targets_stay_as_they_are() -> None:
    batch = a_batch()
    annotated = replace(batch, cases=tuple(replace(case, visible=frozenset({1})) for case in batch.cases))
    assert torch.equal(with_cut_mix(annotated, 1.0).images, batch.images)


def test_registered_scans_keep_their_place() -> None:
    batch = a_batch(registered=True)
    assert with_cut_mix(batch, 1.0) is batch
