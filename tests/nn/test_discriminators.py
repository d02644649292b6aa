"""Discriminators of maps, images and features in 2D and 3D, on large, small and anisotropic ones."""

from __future__ import annotations

import math

import pytest
import torch
from monai.networks.nets.patchgan_discriminator import PatchDiscriminator
from torch import nn

from nnunet_crossmod.nn import (
    DomainImageDiscriminator,
    ImageDiscriminator,
    build_discriminator,
    build_feature_discriminator,
)

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)


def convolutions(network: nn.Module) -> list[nn.Module]:
    return [layer for layer in network if isinstance(layer, CONVOLUTIONS)]


def test_the_papers_designs() -> None:
    strided, patch = (build_discriminator(design, 5, (256, 256)) for design in ("strided", "patch"))
    for network in (strided, patch):
        layers = convolutions(network)
        assert [layer.out_channels for layer in layers] == [64, 128, 256, 512, 1]
        assert all(layer.kernel_size == (4, 4) for layer in layers)
    assert [layer.stride[0] for layer in convolutions(strided)] == [2] * 5
    assert [layer.stride[0] for layer in convolutions(patch)] == [2, 2, 2, 1, 1]
    assert sum(isinstance(layer, nn.InstanceNorm2d) for layer in patch) == 3
    assert not any(isinstance(layer, nn.InstanceNorm2d) for layer in strided)
    x = torch.randn(1, 5, 256, 256)
    assert strided(x).shape == (1, 1, 8, 8)
    assert patch(x).shape == (1, 1, 30, 30)


@pytest.mark.parametrize("design", ["strided", "patch"])
@pytest.mark.parametrize(
    ("size", "spacing"),
    [
        ((64, 48), None),
        ((16, 16), (1.0, 1.0)),
        ((4, 4), None),
        ((1, 1), None),
        ((6, 48, 40), (8.0, 1.0, 1.0)),
        ((32, 32, 32), None),
        ((2, 16, 16), (4.0, 1.5, 1.5)),
        ((1, 2, 2), None),
        ((40, 6, 20), (1.0, 1.0, 1.0)),
    ],
)
def test_it_scores_maps_of_any_size_and_every_parameter_learns(
    design: str, size: tuple[int, ...], spacing: tuple[float, ...] | None
) -> None:
    network = build_discriminator(design, 3, size, spacing, width=4)
    maps = torch.rand(2, 3, *size, requires_grad=True)
    scores = network(maps)
    assert scores.shape[:2] == (2, 1)
    assert all(0 < after <= before + 1 for after, before in zip(scores.shape[2:], size, strict=True))
    scores.square().mean().backward()
    assert maps.grad.any()
    for parameter in network.parameters():
        assert torch.isfinite(parameter.grad).all()


def test_axes_of_long_voxels_keep_their_resolution_until_the_others_have_caught_up() -> None:
    network = build_discriminator("strided", 3, (16, 128, 128), (3.0, 1.0, 1.0), width=2)
    layers = convolutions(network)
    assert [layer.stride for layer in layers] == [(1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2)]
    assert layers[0].kernel_size == (1, 4, 4)
    assert network(torch.rand(1, 3, 16, 128, 128)).shape == (1, 1, 2, 4, 4)


def test_short_axes_do_not_hold_back_the_others() -> None:
    layers = convolutions(build_discriminator("strided", 3, (2, 64, 64), width=2))
    assert [layer.stride for layer in layers] == [(1, 2, 2)] * 5
    assert all(layer.kernel_size[0] == 3 for layer in layers)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="axes"):
        build_discriminator("strided", 3, (8,))
    with pytest.raises(ValueError, match="spacing"):
        build_discriminator("strided", 3, (8, 8), (1.0,))
    with pytest.raises(ValueError, match="design"):
        build_discriminator("other", 3, (8, 8))


@pytest.mark.parametrize("size", [(112, 112), (48, 48), (10, 12), (32, 32, 32), (16, 64, 64), (6, 48, 48), (4, 20, 8)])
def test_every_size_gives_decisions_on_patches(size: tuple[int, ...]) -> None:
    discriminator = ImageDiscriminator(3, size, width=4)
    image = torch.randn(2, 3, *size, requires_grad=True)
    decision = discriminator(image)
    assert decision.shape[:2] == (2, 1)
    assert decision[0, 0].numel() >= 1
    assert isinstance(discriminator.layers, PatchDiscriminator) == (min(size) >= 24)
    decision.sum().backward()
    assert torch.isfinite(image.grad).all()


@pytest.mark.parametrize("size", [(32, 32), (4, 24, 24)])
def test_every_domain_has_an_output_convolution_of_its_own_on_one_body(size: tuple[int, ...]) -> None:
    network = DomainImageDiscriminator(1, size, domains=3, width=4)
    images = torch.randn(3, 1, *size)
    claimed = torch.tensor([2, 0, 2])
    decisions = network(images, claimed)
    every = network.judge(images)
    assert every.shape[1] == 3
    for i, domain in enumerate(claimed):
        assert torch.equal(decisions[i, 0], every[i, domain])
    network(images, torch.tensor([1, 1, 1])).sum().backward()
    last = [p for p in network.parameters() if p.shape[0] == 3 and p.ndim > 1][-1]
    assert last.grad[1].any()
    assert not last.grad[[0, 2]].any()


@pytest.mark.parametrize("size", [(4, 5), (1, 1), (3, 4, 4), (1, 4, 4), (1, 1, 1)])
def test_the_discriminator_decides_voxel_by_voxel(size: tuple[int, ...]) -> None:
    network = build_feature_discriminator(6, size, width=16)
    assert network(torch.randn(2, 6, *size)).shape == (2, 1, *size)
    convolutions = [m for m in network if isinstance(m, nn.Conv2d | nn.Conv3d)]
    assert [c.out_channels for c in convolutions] == [16, 8, 4, 2, 1]
    assert {k for c in convolutions for k in c.kernel_size} <= {1, 3}
    norms = sum(isinstance(m, nn.InstanceNorm2d | nn.InstanceNorm3d) for m in network)
    assert norms == (3 if math.prod(size) > 1 else 0)


def test_the_papers_widths_are_the_default() -> None:
    widths = [m.out_channels for m in build_feature_discriminator(5, (4, 4)) if isinstance(m, nn.Conv2d)]
    assert widths == [256, 128, 64, 32, 1]


def test_too_narrow_a_discriminator_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 8"):
        build_feature_discriminator(6, (4, 4), width=4)
