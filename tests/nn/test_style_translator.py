"""Adaptive instance norm against a loop, and the auto-encoder that is made of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nnunet_crossmod.nn import AdaINAutoEncoder, StyleTranslator, adaptive_instance_norm


def by_loop(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    rows = []
    for i in range(x.shape[0]):
        channels = []
        for c in range(x.shape[1]):
            values = x[i, c].flatten()
            mean = values.sum() / len(values)
            variance = ((values - mean) ** 2).sum() / len(values)
            channels.append(weight[i, c] * (x[i, c] - mean) / (variance + eps) ** 0.5 + bias[i, c])
        rows.append(torch.stack(channels))
    return torch.stack(rows)


@pytest.mark.parametrize("size", [(3, 4), (2, 3, 4)])
def test_value_and_gradient_equal_the_equation(size: tuple[int, ...]) -> None:
    x = torch.randn(3, 2, *size, dtype=torch.float64) * 4 + 3
    weight, bias = torch.randn(2, 3, 2, dtype=torch.float64)
    ours, theirs = ([v.clone().requires_grad_() for v in (x, weight, bias)] for _ in range(2))
    styled, expected = adaptive_instance_norm(*ours), by_loop(*theirs)
    torch.testing.assert_close(styled, expected)
    factor = torch.randn_like(x)
    (styled * factor).sum().backward()
    (expected * factor).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_it_takes_mean_and_deviation_from_the_style() -> None:
    x = torch.randn(2, 3, 16, 16) * 5 - 2
    weight, bias = torch.rand(2, 3) + 0.5, torch.randn(2, 3)
    styled = adaptive_instance_norm(x, weight, bias).flatten(2)
    torch.testing.assert_close(styled.mean(2), bias, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(styled.std(2, correction=0), weight, atol=1e-4, rtol=1e-4)


def test_the_order_of_images_does_not_matter() -> None:
    x, weight, bias = torch.randn(4, 2, 5, 5), torch.randn(4, 2), torch.randn(4, 2)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        adaptive_instance_norm(x, weight, bias)[order], adaptive_instance_norm(x[order], weight[order], bias[order])
    )


def test_affines_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="weight and bias"):
        adaptive_instance_norm(torch.randn(2, 3, 4, 4), torch.ones(3), torch.zeros(3))


@pytest.mark.parametrize("size", [(16, 12), (4, 16, 8)])
def test_the_auto_encoder_keeps_the_shape_and_the_range(size: tuple[int, ...]) -> None:
    strides = [[2] * len(size), [1, *[2] * (len(size) - 1)]]
    network = AdaINAutoEncoder(1, size, 2, width=4, blocks=2, strides=strides, hidden=8)
    images, of = torch.rand(2, 1, *size) * 2 - 1, torch.tensor([0, 1])
    torch.testing.assert_close(network(images, of, 1 - of), images, atol=1e-3, rtol=0, msg="untrained: the image")
    torch.nn.init.normal_(network.last.weight)
    content = network.encode(images, of)
    assert content.shape == (2, 16, *[length // m for length, m in zip(size, network.multiple, strict=True)])
    made = network(images, of, 1 - of)
    assert made.shape == images.shape
    assert made.abs().max() <= 1
    made.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_both_halves_know_the_domain_and_each_image_has_its_own() -> None:
    network = AdaINAutoEncoder(1, (8, 8), 2, width=4, blocks=1, hidden=8)
    image = torch.rand(1, 1, 8, 8).expand(2, 1, 8, 8)
    domains = torch.tensor([0, 1])
    contents = network.encode(image, domains)
    assert not torch.allclose(contents[0], contents[1])
    torch.testing.assert_close(contents[1:], network.encode(image[1:], domains[1:]))
    torch.nn.init.normal_(network.last.weight)
    shown = network.decode(contents[:1].expand_as(contents), domains, image)
    assert not torch.allclose(shown[0], shown[1])


def test_an_image_that_the_strides_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples"):
        AdaINAutoEncoder(1, (10, 8), 2, width=4)
    with pytest.raises(ValueError, match="multiples"):
        AdaINAutoEncoder(1, (8, 8), 2, width=4).encode(torch.zeros(1, 1, 10, 8), torch.tensor([0]))


def test_it_runs_in_mixed_precision() -> None:
    translator = StyleTranslator(AdaINAutoEncoder(1, (8, 8), 2, width=4, blocks=1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = translator(torch.randn(2, 1, 8, 8), torch.tensor([0, 1]), torch.tensor([1, 0]))
    assert made.dtype == torch.float32
    assert torch.isfinite(made).all()
    made.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in translator.parameters())


def test_slices_of_a_volume_are_translated_as_images_of_their_own() -> None:
    translator = StyleTranslator(AdaINAutoEncoder(1, (8, 8), 2, width=4, blocks=1), slicewise=True)
    volumes, of = torch.randn(2, 1, 3, 8, 8), torch.tensor([0, 1])
    made = translator(volumes, of, 1 - of)
    assert made.shape == volumes.shape
    flat = StyleTranslator(translator.generator)
    for i in range(2):
        slices = volumes[i].movedim(1, 0)
        expected = flat(slices, of[i].expand(3), 1 - of[i].expand(3))
        torch.testing.assert_close(made[i].movedim(1, 0), expected)
