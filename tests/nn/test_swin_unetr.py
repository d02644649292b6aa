"""SwinUNETR: MONAI's network in the places of nnU-Net's, conditioned, and folded back for one modality."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.networks.nets import SwinUNETR as MonaiSwinUNETR
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunet_crossmod.errors import UnsupportedError
from nnunet_crossmod.nn import (
    ConditionalInstanceNorm,
    ConditionalLayerNorm,
    ModalityGain,
    ModulatedUNet,
    build_aligned_unet,
    build_unet,
    encoder_per_modality,
)
from nnunet_crossmod.nn.swin_unetr import SwinUNETR
from nnunet_crossmod.plans import NETWORKS
from nnunet_crossmod.pretrained import adapt_weights

AXES = pytest.mark.parametrize("axes", [2, 3])


def planned(axes: int) -> dict[str, Any]:
    configuration: dict[str, Any] = {"patch_size": [32] * axes}
    NETWORKS["swin_unetr"][1](configuration, None)
    architecture: dict[str, Any] = configuration["architecture"]
    architecture["arch_kwargs"] |= {"feature_size": 12, "num_heads": [1, 2, 3, 4], "window_size": 4}
    return architecture


def build(axes: int, conditioning: Any = "encoder") -> Any:
    network = build_unet(planned(axes), 2, 3, ["A", "B"], conditioning=conditioning, deep_supervision=False)
    for part in network.modules():
        if "Norm" in type(part).__name__ and getattr(part, "weight", None) is not None:
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.normal_(part.bias, std=0.2)
    return network.eval()


def images(axes: int) -> torch.Tensor:
    return torch.randn(2, 1, *[64, 32, 32][:axes])


@AXES
def test_it_computes_what_monais_network_computes(axes: int) -> None:
    kwargs = planned(axes)["arch_kwargs"]
    torch.manual_seed(0)
    mine = SwinUNETR(1, 3, **kwargs).eval()
    torch.manual_seed(0)
    theirs = MonaiSwinUNETR(
        1, 3, feature_size=12, num_heads=[1, 2, 3, 4], window_size=4, norm_name=("instance", {"affine": True}),
        spatial_dims=axes,
    ).eval()  # fmt: skip
    x = images(axes)
    with torch.no_grad():
        assert torch.equal(mine(x), theirs(x))


@AXES
def test_features_have_the_planned_strides_and_the_encoders_widths(axes: int) -> None:
    network, x = build(axes), images(axes)
    modality = torch.tensor([0, 1])
    with torch.no_grad():
        maps = network(x, modality, features=True)
        assert torch.equal(maps.logits[0], network(x, modality))
    strides = torch.tensor(planned(axes)["arch_kwargs"]["strides"]).cumprod(0)
    for stage, features in enumerate(maps.encoder):
        assert features.shape[1] == network.encoder.output_channels[stage]
        assert list(features.shape[2:]) == [s // int(t) for s, t in zip(x.shape[2:], strides[stage], strict=True)]
    assert [m.shape for m in maps.decoder] == [m.shape for m in maps.encoder[:-1]]


@AXES
@pytest.mark.parametrize("conditioning", ["none", "encoder", "all"])
def test_norms_are_conditional_where_asked_for(axes: int, conditioning: str) -> None:
    network = build(axes, conditioning)

    def kinds(part: torch.nn.Module) -> set[str]:
        return {type(m).__name__ for m in part.modules() if "Norm" in type(m).__name__} - {"ChannelNorm"}

    conditional = {"ConditionalInstanceNorm", "ConditionalLayerNorm"}
    assert (kinds(network.encoder) == conditional) == (conditioning != "none")
    assert (kinds(network.decoder.stages) == {"ConditionalInstanceNorm"}) == (conditioning == "all")


def test_layer_norms_scale_every_sample_by_its_modality() -> None:
    network, x = build(2), images(2)
    network.context.modality = torch.tensor([1, 0])
    norm = next(m for m in network.modules() if isinstance(m, ConditionalLayerNorm))
    tokens = torch.randn(2, 4, 4, norm.weight.shape[1])
    for row, m in enumerate([1, 0]):
        expected = torch.nn.functional.layer_norm(tokens[row], tokens.shape[-1:], norm.weight[m], norm.bias[m])
        torch.testing.assert_close(norm(tokens)[row], expected)
    with torch.no_grad():
        a, b = network(x, torch.tensor([0, 0])), network(x, torch.tensor([1, 0]))
    assert not torch.allclose(a[0], b[0])
    torch.testing.assert_close(a[1], b[1])


def stock(axes: int) -> Any:
    plans = planned(axes)
    return get_network_from_plans(
        plans["network_class_name"], plans["arch_kwargs"], [], 1, 3, deep_supervision=False
    ).eval()


@AXES
@pytest.mark.parametrize("kind", ["conditional", "per modality", "modulated"])
def test_one_modality_is_a_network_that_nnunet_builds(axes: int, kind: str) -> None:
    if kind == "conditional":
        network = build(axes)
    elif kind == "per modality":
        network = encoder_per_modality([build(axes, "none") for _ in range(2)]).eval()
    else:
        network = ModulatedUNet(build(axes, "none")).eval()
        gains = [m for m in network.modules() if isinstance(m, ModalityGain)]
        assert len(gains) == 2 * sum(planned(axes)["arch_kwargs"]["depths"])
        for gain in gains:
            torch.nn.init.normal_(gain.project.weight, std=0.3)
    x = images(axes)
    with torch.no_grad():
        together = network(x, torch.tensor([0, 1]))
        for index in range(2):
            plain = stock(axes)
            plain.load_state_dict(network.for_modality(index), strict=True)
            torch.testing.assert_close(plain(x[index : index + 1]), together[index : index + 1], atol=1e-4, rtol=1e-4)


def test_gains_that_are_neutral_change_nothing() -> None:
    plain, x = build(2, "none"), images(2)
    with torch.no_grad():
        expected = plain(x, torch.tensor([0, 1]))
        torch.testing.assert_close(ModulatedUNet(plain).eval()(x, torch.tensor([0, 1])), expected)


@pytest.mark.parametrize(("side", "stage"), [("encoder", None), ("encoder", 2), ("decoder", None)])
def test_a_mask_may_stand_behind_any_feature(side: Any, stage: int | None) -> None:
    plain, x, modality = build(2), images(2), torch.tensor([0, 1])
    with torch.no_grad():
        before = plain(x, modality, features=True)
        strides = planned(2)["arch_kwargs"]["strides"]
        aligned = build_aligned_unet(plain, [64, 32], strides, ["B"], side, stage, 8).eval()
        after = aligned(x, modality, features=True)
        tapped = stage if stage is not None else (5 if side == "encoder" else 0)
        torch.testing.assert_close(after.tapped, getattr(before, side)[tapped])
        torch.testing.assert_close(after.logits[0][0], before.logits[0][0])
        assert not torch.allclose(after.logits[0][1], before.logits[0][1])


@pytest.mark.parametrize("gains", [False, True])
def test_plain_weights_fit_where_it_is_conditional_and_where_it_has_gains(gains: bool) -> None:
    plain, network = stock(2), build(2, "none" if gains else "encoder")
    network = ModulatedUNet(network) if gains else network
    state = adapt_weights(network, plain.state_dict(), 1).state
    weights = plain.state_dict()
    for name in ("norm1.weight", "attn.qkv.weight", "mlp.linear2.bias"):
        expected = weights[f"encoder.stages.2.blocks.0.{name}"]
        found = state[f"encoder.stages.2.blocks.0.{name}".replace(".qkv", ".branch.qkv" if gains else ".qkv")
                      .replace(".linear2", ".branch.linear2" if gains else ".linear2")]  # fmt: skip
        assert torch.equal(found, expected.expand_as(found)), name


def test_what_it_cannot_do_is_said() -> None:
    with pytest.raises(UnsupportedError, match="enable_deep_supervision=false"):
        SwinUNETR(1, 3, **planned(2)["arch_kwargs"], deep_supervision=True)
    with pytest.raises(ValueError, match="strides"):
        SwinUNETR(1, 3, 2, [[1, 1], [2, 2]])
    with pytest.raises(ValueError, match="affine"):
        ConditionalInstanceNorm(3, affine=False, num_modalities=2, context=build(2).context)
