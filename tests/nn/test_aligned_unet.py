"""The mask inside the network: for target modalities alone, by a discriminator that the network does not train."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import architecture
from torch import Tensor

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.nn import AlignedUNet, build_feature_discriminator, build_unet, local_feature_mask

MODALITIES = ("bSSFP", "LGE")
KINDS = pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
AXES = pytest.mark.parametrize("axes", [2, 3])


def networks(
    kind: str = "PlainConvUNet",
    axes: int = 2,
    side: str = "encoder",
    stage: int = 2,
    deep_supervision: bool = True,
    **kwargs: Any,
) -> tuple[Any, AlignedUNet, Tensor]:
    """A U-Net, the aligned one around the same weights, and images."""
    strides = [[1] * axes, [2] * axes, [2] * axes]
    plan = architecture(kind, axes, [4, 5, 6], strides, [1, 1, 1])
    unet = build_unet(plan, 2, 3, MODALITIES, conditioning="none", deep_supervision=deep_supervision)
    size = [8 // 2**stage] * axes
    discriminator = build_feature_discriminator([4, 5, 6][stage], size, width=8)
    return unet, AlignedUNet(unet, discriminator, ["LGE"], side, stage, **kwargs), torch.randn(2, 1, *[8] * axes)


SOURCE_THEN_TARGET = torch.tensor([0, 1])


@KINDS
@AXES
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_source_passes_as_in_the_plain_network_and_target_does_not(
    kind: str, axes: int, deep_supervision: bool
) -> None:
    unet, aligned, images = networks(kind, axes, deep_supervision=deep_supervision)
    plain, masked = (net(images, SOURCE_THEN_TARGET) for net in (unet, aligned))
    if not deep_supervision:
        plain, masked = [plain], [masked]
    assert len(plain) == len(masked) == (2 if deep_supervision else 1)
    for one, other in zip(plain, masked, strict=True):
        torch.testing.assert_close(one[0], other[0])
        assert not torch.allclose(one[1], other[1])


@KINDS
def test_target_is_decoded_from_masked_bottleneck_features(kind: str) -> None:
    unet, aligned, images = networks(kind)
    skips = unet.encode(images, SOURCE_THEN_TARGET)
    masked = local_feature_mask(skips[-1], aligned.local_discriminator(skips[-1]))
    expected = unet.decoder([*skips[:-1], masked])
    maps = aligned(images, SOURCE_THEN_TARGET, features=True)
    for mine, other in zip(maps.logits, expected, strict=True):
        torch.testing.assert_close(mine[1], other[1])
    torch.testing.assert_close(maps.tapped, skips[-1])
    torch.testing.assert_close(maps.decisions, aligned.local_discriminator(skips[-1]))
    torch.testing.assert_close(maps.encoder[-1][1], masked[1])
    torch.testing.assert_close(maps.encoder[-1][0], skips[-1][0])


@pytest.mark.parametrize(("side", "stage"), [("encoder", 0), ("encoder", 1), ("decoder", 0), ("decoder", 1)])
@AXES
def test_any_stage_can_be_tapped(side: str, stage: int, axes: int) -> None:
    unet, aligned, images = networks(axes=axes, side=side, stage=stage)
    plain, maps = unet(images, SOURCE_THEN_TARGET, features=True), aligned(images, SOURCE_THEN_TARGET, features=True)
    torch.testing.assert_close(maps.tapped, getattr(plain, side)[stage])
    assert maps.decisions.shape == (2, 1, *plain.encoder[stage].shape[2:])
    torch.testing.assert_close(getattr(maps, side)[stage][1], local_feature_mask(maps.tapped, maps.decisions)[1])
    for one, other in zip(plain.logits, maps.logits, strict=True):
        torch.testing.assert_close(one[0], other[0])
    assert not torch.allclose(plain.logits[0][1], maps.logits[0][1])


@pytest.mark.parametrize("index", [0, 1])
def test_the_modality_channel_says_the_same_as_the_argument(index: int) -> None:
    _, aligned, images = networks(deep_supervision=False)
    channel = torch.full_like(images, index + 1.0)
    told = aligned(images, torch.full((2,), index))
    torch.testing.assert_close(aligned(torch.cat((images, channel), 1)), told)
    with pytest.raises(CrossmodError, match="modality channel"):
        aligned(images)


def test_gradient_runs_through_the_discriminator_but_not_into_it() -> None:
    _, aligned, images = networks()
    assert not any(p.requires_grad for p in aligned.local_discriminator.parameters())
    maps = aligned(images, SOURCE_THEN_TARGET, features=True)
    gradient = torch.autograd.grad(maps.decisions.sum(), maps.tapped, retain_graph=True)[0]
    assert gradient.any()
    sum(level.sum() for level in maps.logits).backward()
    assert all(p.grad is None for p in aligned.local_discriminator.parameters())
    assert all(p.grad is not None for p in aligned.encoder.parameters())


def test_a_detached_mask_is_a_constant() -> None:
    """The gradient of the masked features is then (1 + tanh |D1|) and nothing else."""
    _, aligned, _ = networks(detached=True)
    features = torch.randn(2, 6, 2, 2, requires_grad=True)
    masked, decisions = aligned.masked(features, torch.tensor([1, 1]))
    gradient = torch.autograd.grad(masked.sum(), features, retain_graph=True)[0]
    torch.testing.assert_close(gradient, (1 + decisions.detach().abs().tanh()).expand_as(gradient))
    assert torch.autograd.grad(decisions.sum(), features)[0].any()
    aligned.detached = False
    masked, _ = aligned.masked(features, torch.tensor([1, 1]))
    assert not torch.allclose(torch.autograd.grad(masked.sum(), features)[0], gradient)


def test_weights_hold_the_discriminator_and_load_strictly() -> None:
    unet, aligned, images = networks()
    _, other, _ = networks()
    weights = aligned.state_dict()
    assert set(weights) - set(unet.state_dict()) == {
        f"local_discriminator.{name}" for name in aligned.local_discriminator.state_dict()
    }
    other.load_state_dict(weights, strict=True)
    for one, two in zip(aligned(images, SOURCE_THEN_TARGET), other(images, SOURCE_THEN_TARGET), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(("side", "stage"), [("encoder", 3), ("decoder", 2), ("encoder", -1)])
def test_a_stage_that_is_not_there_is_refused(side: str, stage: int) -> None:
    unet, _, _ = networks()
    with pytest.raises(ValueError, match=f"the {side} has stages"):
        AlignedUNet(unet, build_feature_discriminator(6, [2, 2], width=8), ["LGE"], side, stage)


def test_it_runs_in_mixed_precision() -> None:
    _, aligned, images = networks()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = aligned(images, SOURCE_THEN_TARGET, features=True)
    assert torch.isfinite(maps.logits[0]).all()
    sum(level.float().sum() for level in maps.logits).backward()
    assert all(torch.isfinite(p.grad).all() for p in aligned.encoder.parameters())
