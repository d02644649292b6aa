"""Discriminators in 2D and 3D, on large, small and anisotropic maps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnunet_crossmod.nn import build_discriminator

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
