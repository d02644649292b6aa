"""L_mcr and L_icr against loops written from Eq. 10 and 11 of Yang et al., for two modalities and for many."""

from itertools import combinations

import pytest
import torch
from torch import Tensor

from nnunet_crossmod.losses import (
    image_consistency,
    image_consistency_of_all,
    modality_consistency,
    modality_consistency_of_all,
)


def modality_by_loop(a: Tensor, b: Tensor) -> Tensor:
    total = torch.zeros((), dtype=a.dtype)
    for i in range(len(a)):
        total = total + 1 - torch.dot(a[i], b[i]) / (torch.dot(a[i], a[i]).sqrt() * torch.dot(b[i], b[i]).sqrt())
    return total


def divergence_by_loop(p: list[Tensor], q: list[Tensor]) -> Tensor:
    return torch.stack([p[j] * torch.log(p[j] / q[j]) for j in range(len(p))]).sum()


def image_by_loop(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    def share(row: Tensor) -> list[Tensor]:
        whole = sum(torch.exp(value / temperature) for value in row)
        return [torch.exp(value / temperature) / whole for value in row]

    samples = []
    for n in range(len(a)):
        for i in range(a.shape[1]):
            p, q = share(a[n, i]), share(b[n, i])
            samples.append(divergence_by_loop(p, q) + divergence_by_loop(q, p))
    return torch.stack(samples).sum() / len(a)


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same_value_and_gradient(found: Tensor, expected: Tensor, mine: list[Tensor], theirs: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    for a, b in zip(mine, theirs, strict=True):
        assert b.grad.abs().max() > 1e-3
        torch.testing.assert_close(a.grad, b.grad)


def twice(*tensors: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    return [t.clone().requires_grad_() for t in tensors], [t.clone().requires_grad_() for t in tensors]


def test_modality_consistency_equals_the_equation() -> None:
    mine, theirs = twice(doubles(4, 6), doubles(4, 6, seed=1))
    assert_same_value_and_gradient(modality_consistency(*mine), modality_by_loop(*theirs), mine, theirs)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_image_consistency_equals_the_equation(temperature: float) -> None:
    mine, theirs = twice(3 * doubles(3, 4, 4), 3 * doubles(3, 4, 4, seed=1))
    found = image_consistency(*mine, temperature)
    assert_same_value_and_gradient(found, image_by_loop(*theirs, temperature), mine, theirs)


def test_the_default_temperature_is_the_papers() -> None:
    a, b = doubles(2, 3, 3), doubles(2, 3, 3, seed=1)
    assert image_consistency(a, b) == image_consistency(a, b, temperature=4.0)
    assert image_consistency_of_all(torch.stack((a, b))) == image_consistency_of_all(torch.stack((a, b)), 4.0)


@pytest.mark.parametrize("modalities", [2, 3, 5])
def test_many_modalities_are_the_mean_over_pairs(modalities: int) -> None:
    (mine,), (theirs,) = twice(doubles(modalities, 4, 6))
    pairs = torch.stack([modality_by_loop(theirs[a], theirs[b]) for a, b in combinations(range(modalities), 2)])
    assert_same_value_and_gradient(modality_consistency_of_all(mine), pairs.mean(), [mine], [theirs])
    (mine,), (theirs,) = twice(3 * doubles(modalities, 2, 4, 4))
    pairs = torch.stack([image_by_loop(theirs[a], theirs[b], 4.0) for a, b in combinations(range(modalities), 2)])
    assert_same_value_and_gradient(image_consistency_of_all(mine, 4.0), pairs.mean(), [mine], [theirs])


def test_limits() -> None:
    a = doubles(3, 5)
    assert modality_consistency(a, 7 * a) < 1e-12
    torch.testing.assert_close(modality_consistency(a, -a), torch.tensor(6.0, dtype=torch.float64))
    correlations = doubles(2, 3, 3)
    assert image_consistency(correlations, correlations) == 0
    # softmax does not feel what all classes of a row share
    assert image_consistency(correlations, correlations + doubles(2, 3, 1)) < 1e-12


def test_order_of_classes_samples_and_modalities_does_not_matter() -> None:
    embeddings, correlations = doubles(3, 4, 6), doubles(3, 5, 4, 4)
    z, n, m = torch.randperm(4), torch.randperm(5), torch.randperm(3)
    torch.testing.assert_close(
        modality_consistency_of_all(embeddings), modality_consistency_of_all(embeddings[m][:, z])
    )
    torch.testing.assert_close(
        image_consistency_of_all(correlations), image_consistency_of_all(correlations[m][:, n][:, :, z][..., z])
    )
    a, b = correlations[:2]
    torch.testing.assert_close(image_consistency(a, b), image_consistency(b, a))


@pytest.mark.parametrize("shape", [(1, 2, 3, 3), (2, 0, 3, 3)])
def test_nothing_to_compare_costs_exactly_nothing(shape: tuple[int, ...]) -> None:
    correlations = torch.randn(*shape, requires_grad=True)
    loss = image_consistency_of_all(correlations)
    loss.backward()
    assert loss.item() == 0
    assert not correlations.grad.any()


def test_no_pair_and_one_modality_cost_exactly_nothing() -> None:
    a, b = torch.randn(0, 3, 3, requires_grad=True), torch.randn(0, 3, 3)
    loss = image_consistency(a, b)
    loss.backward()
    assert loss.item() == 0
    embeddings = torch.randn(1, 3, 5, requires_grad=True)
    loss = modality_consistency_of_all(embeddings)
    loss.backward()
    assert loss.item() == 0
    assert not embeddings.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_and_close(dtype: torch.dtype) -> None:
    # relevances grow with heads × places: far beyond what exp can take in half precision
    half = (300 * torch.randn(3, 2, 4, 4)).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = image_consistency_of_all(half) + modality_consistency_of_all(half[:, 0])
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(half.grad).all()
    wide = half.detach().float()
    torch.testing.assert_close(loss, image_consistency_of_all(wide) + modality_consistency_of_all(wide[:, 0]))


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="class embeddings"):
        modality_consistency(torch.randn(3, 4), torch.randn(3, 5))
    with pytest.raises(ValueError, match="class embeddings"):
        modality_consistency_of_all(torch.randn(3, 4))
    with pytest.raises(ValueError, match="correlations"):
        image_consistency(torch.randn(2, 3, 3), torch.randn(1, 3, 3))
    with pytest.raises(ValueError, match="correlations"):
        image_consistency_of_all(torch.randn(2, 3, 3))
