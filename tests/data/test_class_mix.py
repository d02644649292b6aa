"""Structures of labelled scans in unlabelled ones."""

from __future__ import annotations

import pytest
import torch

from nnunet_crossmod.data import Case, CrossModalBatch, CrossmodBlock, with_class_mix
from nnunet_crossmod.data.class_mix import MARGIN, class_mix


@pytest.mark.parametrize("axes", [2, 3])
def test_structures_come_with_their_labels_and_a_margin(axes: int) -> None:
    size = [16] * axes
    image, source = torch.zeros(1, 1, *size), torch.ones(1, 1, *size)
    labels, trusted = torch.full((1, *size), 2), torch.zeros(1, *size, dtype=torch.bool)
    source_labels = torch.zeros(1, *size, dtype=torch.int16)
    middle = (0, *[8] * axes)
    source_labels[middle] = 1
    source_labels[(0, *[9] * axes)] = 3  # ignored
    mixed = class_mix(image, labels, trusted, source, source_labels, 3)
    pasted = mixed.images[:, 0] == 1
    assert pasted.sum() == (2 * MARGIN + 1) ** axes - 1
    assert not pasted[(0, *[9] * axes)]
    assert torch.equal(mixed.trusted, pasted)
    assert (mixed.labels[~pasted] == 2).all()
    assert mixed.labels[middle] == 1
    assert (mixed.labels == 1).sum() == 1


def test_annotated_targets_and_unannotated_sources_take_no_part() -> None:
    everything = frozenset({1, 2})
    cases = [
        Case("a", "MR", everything, "a"),
        Case("b", "CT", everything, "b"),
        Case("c", "MR", frozenset(), "c"),
        Case("d", "CT", frozenset(), "d"),
        Case("e", "CT", frozenset(), "e"),
    ]
    block = CrossmodBlock(("MR", "CT"), ("MR",), ("CT",), {c.name: c for c in cases}, {"x": 1, "y": 2})
    images, labels = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 1, 8, 8), torch.ones(5, 8, 8, dtype=torch.long)
    batch = CrossModalBatch(images, (labels,), torch.tensor([0, 1, 0, 1, 1]), tuple(cases), block)
    nothing = torch.zeros(3, 8, 8, dtype=torch.long)
    batch = batch.with_pseudo_labels(nothing, nothing.bool())
    torch.manual_seed(0)
    found = set()
    for _ in range(20):
        mixed = with_class_mix(batch, 1.0)
        assert mixed.pseudo_labels is not None
        found.add((*mixed.images[:, 0, 0, 0].tolist(), *mixed.pseudo_labels[:, 0, 0].tolist()))
    assert found == {(0, 1, 2, 0, 4, 0, 1, 0), (0, 1, 2, 3, 0, 0, 0, 1)}  # whichever of the two: "a" is all there is
    assert torch.equal(with_class_mix(batch, 0.0).images, batch.images)


def test_the_share_is_that_of_many_steps() -> None:
    """However few samples a step has."""
    cases = [Case("a", "MR", frozenset({1}), "a"), Case("b", "CT", frozenset(), "b")]
    block = CrossmodBlock(("MR", "CT"), ("MR",), ("CT",), {c.name: c for c in cases}, {"x": 1})
    images, labels = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, 8, 8), torch.ones(2, 8, 8, dtype=torch.long)
    batch = CrossModalBatch(images, (labels,), torch.tensor([0, 1]), tuple(cases), block)
    batch = batch.with_pseudo_labels(torch.zeros(1, 8, 8, dtype=torch.long), torch.zeros(1, 8, 8, dtype=torch.bool))
    torch.manual_seed(0)
    mixed = [float(with_class_mix(batch, 0.5).images[1, 0, 0, 0]) == 0 for _ in range(200)]
    assert sum(mixed) / len(mixed) == pytest.approx(0.5, abs=0.1)
