"""The margin contrast against loops written from MPSCL's Eq. 8 and from the description of the released code."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from nnunet_crossmod.losses import margin_contrast, prototype_cosines


def by_loop(
    features: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    margin: float,
    temperature: float,
    valid: Tensor | None,
    mode: str,
) -> Tensor:
    def widened(cosine: Tensor) -> Tensor:
        if cosine <= math.cos(math.pi - margin):
            return cosine - margin * math.sin(math.pi - margin)
        sine = torch.sqrt(torch.clamp(1 - cosine * cosine, 1e-4, 1.0))
        return cosine * math.cos(margin) - sine * math.sin(margin)

    losses = []
    for where in itertools.product(*map(range, labels.shape)):
        y = int(labels[where])
        if not 0 <= y < len(prototypes) or (valid is not None and not valid[where]):
            continue
        pixel = features[(where[0], slice(None), *where[1:])]
        cosines = [torch.dot(pixel, c) / (pixel.norm() * c.norm()) for c in prototypes]
        if mode == "paper":
            exponents = [(widened(c) if i == y else c) / temperature for i, c in enumerate(cosines)]
            losses.append(-torch.log(torch.exp(exponents[y]) / sum(torch.exp(e) for e in exponents)))
        else:
            top = max(c.detach() for c in cosines) / temperature
            top_widened = max(widened(c.detach()) for c in cosines) / temperature
            z = [
                widened(c) / temperature - top_widened if i == y else c / temperature - top
                for i, c in enumerate(cosines)
            ]
            losses.append(-(z[y] - torch.log(sum(torch.exp(e) for e in z) + 1e-4)))
    divisor = len(losses) + (1e-4 if mode == "released" and valid is not None else 0)
    return torch.stack(losses).sum() / divisor


def example(size: tuple[int, ...], classes: int = 4, width: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(len(size))
    features = torch.randn(2, width, *size, generator=generator, dtype=torch.float64) * 3
    prototypes = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (2, *size), generator=generator)
    valid = torch.rand(2, *size, generator=generator) > 0.4
    # the formula changes beyond θ = π − m, and its root is held up at θ = 0: some pixels must lie there
    corner = (slice(None), *[0] * len(size))
    features[0][corner] = -prototypes[int(labels[0].flatten()[0])]
    features[1][corner] = prototypes[int(labels[1].flatten()[0])]
    valid.flatten(1)[:, 0] = True
    return features, prototypes, labels, valid


@pytest.mark.parametrize("mode", ["paper", "released"])
@pytest.mark.parametrize("margin", [0.0, 0.4])
@pytest.mark.parametrize("temperature", [1.0, 0.2])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [(3, 4), (2, 2, 3)])
def test_value_and_gradient_equal_the_equation(
    mode: str, margin: float, temperature: float, masked: bool, size: tuple[int, ...]
) -> None:
    fast, prototypes, labels, valid = example(size)
    labels.view(-1)[1], labels.view(-1)[5] = -1, 4
    fast.requires_grad_()
    slow = fast.detach().clone().requires_grad_()
    chosen = valid if masked else None
    loss = margin_contrast(fast, prototypes, labels, margin, temperature, chosen, mode)
    expected = by_loop(slow, prototypes, labels, margin, temperature, chosen, mode)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(fast.grad, slow.grad)
    assert fast.grad.any()


def test_the_released_value_ignores_the_margin_where_the_label_is_nearest() -> None:
    features, prototypes, _, _ = example((4, 4))
    nearest = prototype_cosines(features, prototypes).argmax(1)
    values = {
        mode: [margin_contrast(features, prototypes, nearest, m, mode=mode).item() for m in (0.0, 0.2, 0.4)]
        for mode in ("paper", "released")
    }
    assert values["released"] == pytest.approx([values["released"][0]] * 3, abs=1e-12)
    assert values["paper"][0] < values["paper"][1] - 0.01
    assert values["paper"][1] < values["paper"][2] - 0.01


def test_without_a_margin_the_modes_differ_by_the_constant_in_the_logarithm_alone() -> None:
    features, prototypes, labels, _ = example((4, 4))
    paper, released = (margin_contrast(features, prototypes, labels, 0.0, mode=mode) for mode in ("paper", "released"))
    assert paper != released
    torch.testing.assert_close(paper, released, rtol=0, atol=1e-4)


def test_on_the_prototype_and_far_from_the_others_little_is_left() -> None:
    prototypes = torch.tensor([[1.0, 0], [-1, 0]])
    features = prototypes[:, :, None, None].clone().requires_grad_()
    labels = torch.tensor([0, 1]).view(2, 1, 1)
    loss = margin_contrast(features, prototypes, labels, 0.2, temperature=0.05)
    assert loss < 1e-6
    loss.backward()
    assert torch.isfinite(features.grad).all()
    even = margin_contrast(torch.tensor([[0.0], [2.0]]).view(1, 2, 1), prototypes, torch.zeros(1, 1).long(), 0.0)
    assert even.item() == pytest.approx(math.log(2), abs=1e-6)


def test_a_larger_margin_costs_more() -> None:
    features, prototypes, labels, _ = example((4, 4))
    losses = [margin_contrast(features, prototypes, labels, m).item() for m in (0.0, 0.2, 0.4, 0.8)]
    assert losses == sorted(losses)


@pytest.mark.parametrize("mode", ["paper", "released"])
def test_neither_length_nor_order_matter(mode: str) -> None:
    features, prototypes, labels, valid = example((3, 4))
    loss = margin_contrast(features, prototypes, labels, 0.4, 0.5, valid, mode)
    pixels, classes = torch.randperm(12), torch.randperm(4)
    place = torch.empty(4, dtype=torch.long)
    place[classes] = torch.arange(4)
    shuffled = (features * torch.rand(2, 1, 3, 4).add(0.1)).flatten(2)[..., pixels]
    moved = margin_contrast(
        shuffled,
        prototypes[classes] * torch.tensor([[0.1], [2], [30], [1]]),
        place[labels].flatten(1)[:, pixels],
        0.4,
        0.5,
        valid.flatten(1)[:, pixels],
        mode,
    )
    torch.testing.assert_close(moved, loss)


@pytest.mark.parametrize("mode", ["paper", "released"])
@pytest.mark.parametrize("nothing", ["valid", "labels", "samples"])
def test_where_nothing_is_valid_it_is_exactly_zero_with_a_finite_gradient(mode: str, nothing: str) -> None:
    samples = 0 if nothing == "samples" else 2
    features = torch.randn(samples, 3, 4, 4, requires_grad=True)
    labels = torch.full((samples, 4, 4), -1 if nothing == "labels" else 0)
    valid = torch.zeros(samples, 4, 4, dtype=torch.bool) if nothing == "valid" else None
    loss = margin_contrast(features, torch.randn(2, 3), labels, 0.2, valid=valid, mode=mode)
    loss.backward()
    assert loss.item() == 0
    assert not features.grad.any()


def test_features_of_length_zero_and_absent_prototypes_do_no_harm() -> None:
    features, prototypes = torch.randn(1, 3, 4), torch.randn(3, 3)
    features[..., 1], prototypes[2] = 0, 0
    features.requires_grad_()
    loss = margin_contrast(features, prototypes, torch.tensor([[0, 1, 0, 1]]), 0.4)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(features.grad).all()
    assert not features.grad[..., 1].any()


@pytest.mark.parametrize("mode", ["paper", "released"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_and_close(dtype: torch.dtype, mode: str) -> None:
    half = (torch.randn(2, 8, 5, 5) * 100).to(dtype).requires_grad_()
    prototypes, labels = torch.randn(3, 8), torch.randint(0, 3, (2, 5, 5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = margin_contrast(half, prototypes, labels, 0.4, 0.05, mode=mode)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(half.grad).all()
    torch.testing.assert_close(loss, margin_contrast(half.detach().float(), prototypes, labels, 0.4, 0.05, mode=mode))


def test_wrong_input_is_refused() -> None:
    features, prototypes, labels, valid = example((3, 4))
    with pytest.raises(ValueError, match="labels"):
        margin_contrast(features, prototypes, labels[:, :2], 0.2)
    with pytest.raises(ValueError, match="valid"):
        margin_contrast(features, prototypes, labels, 0.2, valid=valid[:1])
    with pytest.raises(ValueError, match="prototypes"):
        margin_contrast(features, prototypes[:, :2], labels, 0.2)
    with pytest.raises(ValueError, match="mode"):
        margin_contrast(features, prototypes, labels, 0.2, mode="other")


@pytest.mark.parametrize("size", [(6,), (2, 3), (2, 1, 3)])
def test_cosines_and_both_their_gradients_equal_autograd(size: tuple[int, ...]) -> None:
    features = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    prototypes = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    cosines = prototype_cosines(features, prototypes)
    expected = torch.nn.functional.cosine_similarity(
        features[:, None], prototypes.view(1, 3, 4, *[1] * len(size)), dim=2
    )
    torch.testing.assert_close(cosines, expected)
    assert torch.autograd.gradcheck(prototype_cosines, (features, prototypes))
