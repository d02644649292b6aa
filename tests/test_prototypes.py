"""Prototypes against loops over pixels."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from nnunet_crossmod.prototypes import PrototypeBank, class_sums


def means_by_loop(features: Tensor, labels: Tensor, classes: int) -> dict[int, Tensor]:
    pixels: dict[int, list[Tensor]] = {}
    for where in itertools.product(*map(range, labels.shape)):
        value = int(labels[where])
        if 0 <= value < classes:
            pixels.setdefault(value, []).append(features[(where[0], slice(None), *where[1:])])
    return {value: torch.stack(found).mean(0) for value, found in pixels.items()}


@pytest.mark.parametrize("size", [(4, 5), (2, 3, 4)])
def test_the_old_value_weighs_a_fifth_and_absent_classes_stay(size: tuple[int, ...]) -> None:
    bank = PrototypeBank(5, 3, momentum=0.2)
    old = torch.randn(5, 3)
    bank.centers.copy_(old)
    features = torch.randn(2, 3, *size, requires_grad=True)
    labels = torch.randint(-1, 4, (2, *size))  # −1 is padding, class 4 absent
    labels.view(-1)[:3] = torch.tensor([5, 0, 1])  # 5 is the ignore label
    bank.update(features, labels)
    means = means_by_loop(features.detach(), labels, 5)
    assert set(means) == {0, 1, 2, 3}
    for value, mean in means.items():
        torch.testing.assert_close(bank.centers[value], 0.2 * old[value] + 0.8 * mean)
    assert torch.equal(bank.centers[4], old[4])
    assert not bank.centers.requires_grad


def test_padding_and_ignore_alone_change_nothing() -> None:
    bank = PrototypeBank(3, 2)
    bank.centers.copy_(torch.ones(3, 2))
    bank.update(torch.randn(1, 2, 2, 2), torch.tensor([[[-1, 3], [3, -1]]]))
    assert torch.equal(bank.centers, torch.ones(3, 2))


def test_labels_are_brought_to_the_features_by_nearest_neighbour() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.int16)
    labels[:, :2, 2:], labels[:, 2:, :2] = 1, -1
    sums, counts = class_sums(torch.tensor([[[[1.0, 2], [3, 4]]]]), labels, 2)
    assert counts.tolist() == [2, 1]
    assert sums.tolist() == [[5], [2]]


def test_initialising_takes_the_means_over_everything_at_once() -> None:
    features, labels = torch.randn(6, 3, 4, 4), torch.randint(0, 3, (6, 4, 4))
    bank = PrototypeBank(4, 3)
    assert not bank.initialised
    parts = [class_sums(features[i : i + 2], labels[i : i + 2], 4) for i in (0, 2, 4)]
    bank.initialise(sum(p[0] for p in parts), sum(p[1] for p in parts))
    assert bank.initialised
    for value, mean in means_by_loop(features, labels, 4).items():
        torch.testing.assert_close(bank.centers[value], mean)
    assert not bank.centers[3].any()


def test_order_of_pixels_does_not_matter_and_half_precision_is_close() -> None:
    features, labels = torch.randn(2, 3, 30), torch.randint(0, 3, (2, 30))
    order = torch.randperm(30)
    banks = [PrototypeBank(3, 3) for _ in range(3)]
    banks[0].update(features, labels)
    banks[1].update(features[..., order], labels[..., order])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        banks[2].update(features.half(), labels)
    torch.testing.assert_close(banks[0].centers, banks[1].centers)
    torch.testing.assert_close(banks[0].centers, banks[2].centers, atol=2e-3, rtol=2e-3)
    assert banks[2].centers.dtype == torch.float32


def test_features_that_overflowed_change_no_prototype() -> None:
    bank = PrototypeBank(2, 3)
    bank.centers.copy_(torch.ones(2, 3))
    features = torch.randn(1, 3, 2)
    features[0, 1, 0] = torch.inf
    bank.update(features, torch.tensor([[0, 1]]))
    assert torch.equal(bank.centers, torch.ones(2, 3))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="labels"):
        class_sums(torch.randn(2, 3, 4, 4), torch.zeros(2, 4).long(), 3)
    with pytest.raises(ValueError, match="labels"):
        class_sums(torch.randn(2, 3, 4, 4), torch.zeros(1, 4, 4).long(), 3)
