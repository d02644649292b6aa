"""The supervised loss uses annotated samples and classes only."""

from __future__ import annotations

import pytest
import torch

from nnunet_crossmod.data import Case, CrossModalBatch, CrossmodBlock
from nnunet_crossmod.training.supervision import deep_supervision_weights, dice_ce, dice_focal, supervised_loss

LABELS = {"a": 1, "b": 2, "c": 3}


def batch(visible: list[set[int]], size: tuple[int, ...] = (8, 8), levels: int = 2) -> CrossModalBatch:
    cases = tuple(Case(f"case{i}", "T1" if i % 2 == 0 else "T1c", frozenset(v), f"s{i}") for i, v in enumerate(visible))
    block = CrossmodBlock(("T1", "T1c"), ("T1",), ("T1c",), {c.name: c for c in cases}, LABELS)
    labels = tuple(torch.randint(0, 4, (len(cases), *[s // 2**i for s in size])) for i in range(levels))
    images = torch.randn(len(cases), 1, *size)
    return CrossModalBatch(images, labels, torch.tensor([i % 2 for i in range(len(cases))]), cases, block)


def logits_for(batch: CrossModalBatch) -> list[torch.Tensor]:
    return [torch.randn(len(level), 4, *level.shape[1:], requires_grad=True) for level in batch.labels]


@pytest.mark.parametrize("criterion", [dice_ce(True, False, None), dice_focal(None)], ids=["dice_ce", "dice_focal"])
def test_samples_without_annotation_get_no_gradient_and_change_nothing(criterion: object) -> None:
    mixed = batch([{1, 2, 3}, set(), {1, 2, 3}, set()])
    logits = logits_for(mixed)
    loss = supervised_loss(criterion, logits, mixed)
    loss.backward()
    for level in logits:
        assert level.grad[0::2].any()
        assert not level.grad[1::2].any()
    alone = supervised_loss(criterion, [level.detach()[0::2] for level in logits], mixed.source)
    torch.testing.assert_close(loss, alone)


def test_nothing_annotated_is_zero_with_a_gradient_path() -> None:
    unlabelled = batch([set(), set()])
    logits = logits_for(unlabelled)
    loss = supervised_loss(dice_ce(True, False, None), logits, unlabelled)
    loss.backward()
    assert loss.item() == 0
    assert not logits[0].grad.any()


@pytest.mark.parametrize("size", [(8, 8), (4, 8, 8)])
def test_partial_annotation_leaves_the_share_of_unannotated_classes_to_the_network(size: tuple[int, ...]) -> None:
    """Moving probability between background and an un-annotated class costs nothing."""
    partial = batch([{1}, {1}], size, levels=1)
    logits = torch.randn(2, 4, *size)
    moved = logits.exp()
    moved = torch.cat((moved[:, :1] * 0.5, moved[:, 1:2], moved[:, 2:3] + moved[:, :1] * 0.5, moved[:, 3:]), 1).log()
    criterion = dice_focal(None)
    torch.testing.assert_close(
        supervised_loss(criterion, [logits], partial), supervised_loss(criterion, [moved], partial)
    )


def test_groups_are_weighted_by_their_samples() -> None:
    mixed = batch([{1}, {2, 3}, {1}, set()], levels=1)
    logits = [level.detach() for level in logits_for(mixed)]
    criterion = dice_focal(None)
    parts = [supervised_loss(criterion, [logits[0][rows]], mixed.select(rows)) for _, rows in mixed.annotations]
    assert [classes for classes, _ in mixed.annotations] == [(1,), (2, 3)]
    torch.testing.assert_close(supervised_loss(criterion, logits, mixed), (2 * parts[0] + parts[1]) / 3)


def test_dice_focal_is_softmax_dice_and_sigmoid_focal() -> None:
    logits, labels = torch.randn(2, 4, 6, 6), torch.randint(0, 4, (2, 1, 6, 6))
    onehot = torch.nn.functional.one_hot(labels[:, 0], 4).movedim(-1, 1).float()
    p = logits.softmax(1)
    dice = 1 - 2 * (p * onehot).sum((2, 3)) / ((p**2).sum((2, 3)) + (onehot**2).sum((2, 3)) + 1e-6)
    q = logits.sigmoid()
    right = torch.where(onehot == 1, q, 1 - q)
    focal = -((1 - right) ** 2) * right.log()
    torch.testing.assert_close(dice_focal(None)(logits, labels), dice.mean() + focal.mean())


@pytest.mark.parametrize(
    "kind", [lambda: dice_ce(True, False, 4), lambda: dice_focal(4)], ids=["dice_ce", "dice_focal"]
)
def test_ignored_voxels_carry_no_gradient(kind: object) -> None:
    logits = torch.randn(2, 4, 6, 6, requires_grad=True)
    labels = torch.randint(0, 4, (2, 1, 6, 6))
    labels[:, :, :3] = 4
    kind()(logits, labels).backward()
    assert not logits.grad[:, :, :3].any()
    assert logits.grad[:, :, 3:].any()


def test_deep_supervision_weights_halve_and_sum_to_one() -> None:
    weights = deep_supervision_weights(4)
    assert weights[1] == pytest.approx(weights[0] / 2)
    assert 0 < weights[-1] < 1e-5
    assert sum(weights) == pytest.approx(1)
    assert deep_supervision_weights(1) == [1]


def test_rows_of_an_interleaved_batch_are_views() -> None:
    mixed = batch([{1}, set(), {1}, set()])
    assert mixed.source_rows == slice(0, 3, 2)
    assert mixed.target_rows == slice(1, 4, 2)
    assert mixed.of("T1c").cases == mixed.target.cases
    assert len(mixed.annotated.images) == 2
    uneven = batch([{1}, set(), set(), {1}])
    assert [case.name for case in uneven.annotated.cases] == ["case0", "case3"]
