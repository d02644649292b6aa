"""l_csc against a loop written from AICL's Eq. 5, and the class descriptors it compares."""

import math

import pytest
import torch
from torch import Tensor

from nnunet_crossmod.losses import class_descriptors, structural_consistency


def by_loop(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    terms = []
    for i in range(a.shape[0]):
        for c in range(a.shape[1]):
            weights = [
                torch.exp(torch.dot(a[i, c], other) / (a[i, c].norm() * other.norm()) / temperature) for other in b[i]
            ]
            terms.append(-torch.log(weights[c] / sum(weights)))
    return torch.stack(terms).mean()


def test_value_and_gradient_equal_the_equation() -> None:
    a, b = (torch.randn(3, 4, 6, dtype=torch.float64).requires_grad_() for _ in range(2))
    slow = [x.detach().clone().requires_grad_() for x in (a, b)]
    loss, expected = structural_consistency(a, b, 0.5), by_loop(*slow, 0.5)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(a.grad, slow[0].grad)
    torch.testing.assert_close(b.grad, slow[1].grad)


def test_limits() -> None:
    classes = torch.eye(4)[None].repeat(2, 1, 1)
    assert structural_consistency(classes, classes, 0.01) < 1e-6
    alike = torch.ones(2, 4, 3)
    assert structural_consistency(alike, alike).item() == pytest.approx(math.log(4), abs=1e-6)


def test_samples_and_a_common_order_of_classes_do_not_matter() -> None:
    a, b = torch.randn(3, 4, 6), torch.randn(3, 4, 6)
    loss = structural_consistency(a, b)
    torch.testing.assert_close(loss, structural_consistency(a[[2, 0, 1]], b[[2, 0, 1]]))
    torch.testing.assert_close(loss, structural_consistency(a[:, [3, 1, 0, 2]], b[:, [3, 1, 0, 2]]))
    assert not torch.isclose(loss, structural_consistency(a, b[[2, 0, 1]]))


def test_without_any_pair_it_is_exactly_zero_with_a_gradient_path() -> None:
    a, b = torch.zeros(0, 3, 4, requires_grad=True), torch.zeros(0, 3, 4)
    loss = structural_consistency(a, b)
    loss.backward()
    assert loss.item() == 0
    assert a.grad is not None


def test_half_precision_is_finite() -> None:
    a, b = torch.randn(2, 3, 5).half().requires_grad_(), torch.randn(2, 3, 5).half()
    structural_consistency(a, b, 0.05).backward()
    assert torch.isfinite(a.grad).all()


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="descriptors"):
        structural_consistency(torch.randn(2, 3, 4), torch.randn(2, 4, 4))
    with pytest.raises(ValueError, match="probabilities"):
        class_descriptors(torch.randn(2, 3, 4, 4), torch.randn(2, 3, 5, 4))


@pytest.mark.parametrize("size", [(5, 4), (3, 5, 4)])
def test_descriptors_are_weighted_means_and_ignore_position(size: tuple[int, ...]) -> None:
    features, probabilities = torch.randn(2, 6, *size), torch.randn(2, 3, *size).softmax(1)
    described = class_descriptors(features, probabilities)
    expected = torch.stack(
        [
            torch.stack(
                [(features[i] * probabilities[i, c]).flatten(1).sum(1) / probabilities[i, c].sum() for c in range(3)]
            )
            for i in range(2)
        ]
    )
    torch.testing.assert_close(described, expected)
    mirrored = class_descriptors(features.flip(-1), probabilities.flip(-1))
    torch.testing.assert_close(described, mirrored)


def test_descriptor_of_an_absent_class_is_finite() -> None:
    probabilities = torch.zeros(1, 2, 3, 3)
    probabilities[:, 0] = 1
    assert torch.isfinite(class_descriptors(torch.randn(1, 4, 3, 3), probabilities)).all()
