"""L_pcl against a loop written from CISFA's Eq. 2-4."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from nnunet_crossmod.losses import patch_nce


def by_loop(query: Tensor, key: Tensor, temperature: float, weight: Tensor | None) -> Tensor:
    terms = []
    for image in range(query.shape[0]):
        for i in range(query.shape[1]):
            scores = [torch.dot(query[image, i], key[image, j]) / temperature for j in range(query.shape[1])]
            loss = -torch.log(torch.exp(scores[i]) / sum(torch.exp(score) for score in scores))
            terms.append(loss if weight is None else weight[image, i] * loss)
    return torch.stack(terms).sum() / (query.shape[0] * query.shape[1])


def unit(*size: int) -> Tensor:
    return normalize(torch.randn(*size, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("temperature", [0.07, 0.2])
def test_value_and_gradient_equal_the_equation(weighted: bool, temperature: float) -> None:
    query, key = unit(3, 7, 5).requires_grad_(), unit(3, 7, 5).requires_grad_()
    weight = torch.tensor([1.0, 2.0], dtype=torch.float64)[torch.randint(0, 2, (3, 7))] if weighted else None
    found = patch_nce(query, key, temperature, weight)
    got = torch.autograd.grad(found, (query, key))
    expected = by_loop(query, key, temperature, weight)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(got, torch.autograd.grad(expected, (query, key)))


def test_weights_count_and_are_not_normalised_away() -> None:
    query, key = unit(2, 6, 4), unit(2, 6, 4)
    plain = patch_nce(query, key, 0.2)
    torch.testing.assert_close(patch_nce(query, key, 0.2, torch.full((2, 6), 2.0)), 2 * plain)
    torch.testing.assert_close(patch_nce(query, key, 0.2, torch.ones(2, 6)), plain)
    half = torch.tensor([[1.0] * 6, [0.0] * 6])
    torch.testing.assert_close(patch_nce(query, key, 0.2, half), patch_nce(query[:1], key[:1], 0.2) / 2)


def test_limits() -> None:
    key = torch.eye(6)[None]
    assert patch_nce(key, key, 0.05) < 1e-6
    flat = torch.ones(2, 6, 4) / 2
    assert patch_nce(flat, flat, 0.2).item() == pytest.approx(math.log(6), abs=1e-5)


def test_negatives_come_from_the_same_image_only() -> None:
    query, key = unit(2, 5, 4), unit(2, 5, 4)
    alone = torch.stack([patch_nce(query[i : i + 1], key[i : i + 1], 0.2) for i in range(2)]).mean()
    torch.testing.assert_close(patch_nce(query, key, 0.2), alone)


def test_order_of_locations_and_images_does_not_matter() -> None:
    query, key, weight = unit(3, 8, 4), unit(3, 8, 4), torch.rand(3, 8)
    images, places = torch.randperm(3), torch.randperm(8)
    shuffled = patch_nce(query[images][:, places], key[images][:, places], 0.2, weight[images][:, places])
    torch.testing.assert_close(shuffled, patch_nce(query, key, 0.2, weight))


@pytest.mark.parametrize("size", [(0, 4, 3), (2, 0, 3)])
def test_nothing_to_compare_is_exactly_zero_with_a_gradient_path(size: tuple[int, ...]) -> None:
    query = torch.zeros(size, requires_grad=True)
    loss = patch_nce(query, torch.zeros(size), 0.2, torch.zeros(size[:2]))
    assert loss.item() == 0
    loss.backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_and_close(dtype: torch.dtype) -> None:
    query, key = unit(2, 32, 8).to(dtype).requires_grad_(), unit(2, 32, 8).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = patch_nce(query, key, 0.01)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(query.grad).all()
    torch.testing.assert_close(loss, patch_nce(query.detach().float(), key.float(), 0.01))


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="query and key"):
        patch_nce(torch.randn(2, 4, 3), torch.randn(2, 5, 3), 0.2)
    with pytest.raises(ValueError, match="weight"):
        patch_nce(torch.randn(2, 4, 3), torch.randn(2, 4, 3), 0.2, torch.ones(4))
