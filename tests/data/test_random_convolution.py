"""GIN: same shape and energy, another appearance for every image, nothing else of the batch."""

import pytest
import torch

from nnunet_crossmod.data import random_convolution


@pytest.mark.parametrize("size", [(24, 20), (6, 24, 20)])
def test_energy_and_shape_stay_while_appearance_changes(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    images = torch.randn(6, 2, *size)
    changed = random_convolution(images)
    assert changed.shape == images.shape
    torch.testing.assert_close(changed.flatten(1).norm(dim=1), images.flatten(1).norm(dim=1))
    difference = (changed - images).flatten(1).norm(dim=1) / images.flatten(1).norm(dim=1)
    assert (difference > 0.01).sum() >= 5


def test_every_image_draws_its_own_network() -> None:
    torch.manual_seed(0)
    same = torch.randn(1, 1, 16, 16).repeat(4, 1, 1, 1)
    changed = random_convolution(same)
    distances = torch.cdist(changed.flatten(1), changed.flatten(1))
    assert (distances + torch.eye(4) > 1e-3).all()


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    images = torch.randn(3, 1, 12, 12)
    other = images.clone()
    other[1:] = 0.5
    torch.manual_seed(5)
    first = random_convolution(images)
    torch.manual_seed(5)
    second = random_convolution(other)
    torch.testing.assert_close(first[0], second[0])


def test_it_follows_the_seed_and_carries_no_gradient() -> None:
    images = torch.randn(2, 1, 12, 12, requires_grad=True)
    torch.manual_seed(1)
    first = random_convolution(images)
    torch.manual_seed(1)
    assert torch.equal(first, random_convolution(images))
    assert not first.requires_grad


def test_mixed_precision_does_not_reach_it() -> None:
    images = torch.randn(3, 1, 16, 16)
    torch.manual_seed(0)
    expected = random_convolution(images)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = random_convolution(images)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert random_convolution(1e3 * images.half()).dtype == torch.float32
