"""The supervised loss uses annotated samples and classes only."""

from __future__ import annotations

import pytest
import torch

from nnunet_crossmod.data import Case, CrossModalBatch, CrossmodBlock
from nnunet_crossmod.training.supervision import (
    deep_supervision_weights,
    dice_ce,
    dice_focal,
    dice_weighted_ce,
    supervised_loss,
)

LABELS = {"a": 1, "b": 2, "c": 3}


def batch(visible: list[set[int]], size: tuple[int, ...] = (8, 8), levels: int = 2) -> CrossModalBatch:
    cases = tuple(Case(f"case{i}", "T1" if i % 2 == 0 else "T1c", frozenset(v), f"s{i}") for i, v in enumerate(visible))
    block = CrossmodBlock(("T1", "T1c"), ("T1",), ("T1c",), {c.name: c for c in cases}, LABELS)
    labels = tuple(torch.randint(0, 4, (len(cases), *[s // 2**i for s in size])) for i in range(levels))
    images = torch.randn(len(cases), 1, *size)
    return CrossModalBatch(images, labels, torch.tensor([i % 2 for i in range(len(cases))]), cases, block)


def logits_for(batch: CrossModalBatch) -> list[torch.Tensor]:
    return [torch.randn(len(level), 4, *level.shape[1:], requires_grad=True) for level in batch.labels]


@pytest.mark.parametrize(
    "criterion",
    [dice_ce(True, False, None), dice_focal(None), dice_weighted_ce(None)],
    ids=["dice_ce", "dice_focal", "dice_weighted_ce"],
)
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


@pytest.mark.parametrize("size", [(6, 6), (3, 4, 5)])
def test_weighted_cross_entropy_and_dice_equal_the_loop(size: tuple[int, ...]) -> None:
    fast = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    slow = fast.detach().clone().requires_grad_()
    labels = torch.randint(0, 3, (2, 1, *size))  # class 3 is absent
    labels.view(-1)[:4] = 9
    loss = dice_weighted_ce(9)(fast, labels)
    log_p = slow.log_softmax(1).movedim(1, -1).reshape(-1, 4)
    values = labels.flatten().tolist()
    seen = [value for value in values if value != 9]
    weights = [1 - seen.count(c) / len(seen) for c in range(4)]
    terms = [(weights[y], -log_p[i, y]) for i, y in enumerate(values) if y != 9]
    ce = sum(w * t for w, t in terms) / sum(w for w, _ in terms)
    dice = []
    for sample in range(2):
        p, y = slow[sample].softmax(0).flatten(1), labels[sample].flatten()
        for c in range(4):
            own = torch.where(y == 9, torch.tensor(float(c == 0), dtype=p.dtype), p[c])
            reference = (y == c) | ((y == 9) & (c == 0))
            dice.append(1 - 2 * own[reference].sum() / ((own**2).sum() + reference.sum() + 1e-5))
    expected = torch.stack(dice).mean() + ce
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(fast.grad, slow.grad)


def test_a_batch_of_one_class_has_no_weighted_cross_entropy_and_a_finite_gradient() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = dice_weighted_ce(None)(logits, torch.zeros(2, 1, 4, 4).long())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
