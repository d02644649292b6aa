"""The planned network: logits as stock, features explicit, modality read from the tile."""

from typing import Any

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from support import architecture

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.nn import ConditionalInstanceNorm, FeatureMaps, ModalityUNet, build_unet, read_modality

MODALITIES = ("bSSFP", "LGE")


def small(kind: str, axes: int) -> dict[str, Any]:
    strides = [[1] * axes, [2] * axes, [1] + [2] * (axes - 1)]
    return architecture(kind, axes, [4, 6, 8], strides, [1, 2, 2])


def build(kind: str = "PlainConvUNet", axes: int = 2, **kwargs: Any) -> ModalityUNet:
    return build_unet(small(kind, axes), 2, 4, MODALITIES, **kwargs)


def images(axes: int, n: int = 2) -> torch.Tensor:
    return torch.randn(n, 1, *[8, 16, 16][-axes:])


KINDS = pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
AXES = pytest.mark.parametrize("axes", [2, 3])


@KINDS
@AXES
@pytest.mark.parametrize("conditioning", ["none", "encoder", "all"])
def test_norms_are_conditional_where_asked_for(kind: str, axes: int, conditioning: str) -> None:
    network = build(kind, axes, conditioning=conditioning)

    def conditional(part: torch.nn.Module) -> bool:
        return any(isinstance(m, ConditionalInstanceNorm) for m in part.modules())

    assert conditional(network.encoder) == (conditioning != "none")
    assert conditional(network.decoder.stages) == (conditioning == "all")
    plain = any(
        "InstanceNorm" in type(m).__name__ and not isinstance(m, ConditionalInstanceNorm) for m in network.modules()
    )
    assert plain == (conditioning != "all")


@KINDS
@AXES
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_features_come_with_the_very_same_logits(kind: str, axes: int, deep_supervision: bool) -> None:
    network = build(kind, axes, deep_supervision=deep_supervision).eval()
    x, modality = images(axes), torch.tensor([0, 1])
    plain, maps = network(x, modality), network(x, modality, features=True)
    assert isinstance(maps, FeatureMaps)
    for mine, theirs in zip(maps.logits, plain if deep_supervision else [plain], strict=True):
        assert torch.equal(mine, theirs)
    assert len(maps.encoder) == 3
    assert len(maps.decoder) == 2
    for stage in range(2):
        assert maps.decoder[stage].shape == maps.encoder[stage].shape


@KINDS
def test_without_conditioning_it_is_the_stock_network(kind: str) -> None:
    network = build(kind, conditioning="none", deep_supervision=False)
    plans = small(kind, 2)
    stock = get_network_from_plans(
        plans["network_class_name"], plans["arch_kwargs"], plans["_kw_requires_import"], 1, 4, deep_supervision=False
    )
    stock.load_state_dict(network.state_dict(), strict=True)
    x = images(2)
    assert torch.equal(network(x, torch.tensor([0, 1])), stock(x))


def test_plans_are_left_as_they_were() -> None:
    plans = small("PlainConvUNet", 2)
    before = str(plans)
    build_unet(plans, 2, 4, MODALITIES)
    assert str(plans) == before


@AXES
def test_modality_channel_says_what_the_argument_says(axes: int) -> None:
    network = build(axes=axes, deep_supervision=False).eval()
    for norm in (m for m in network.modules() if isinstance(m, ConditionalInstanceNorm)):
        torch.nn.init.normal_(norm.weight)
    x, modality = images(axes), torch.tensor([1, 0])
    channel = (modality + 1).view(-1, 1, *[1] * axes).expand_as(x).float().clone()
    channel[..., :3] = 0  # padding of a tile at the border
    told, read = network(x, modality), network(torch.cat((x, channel), 1))
    assert torch.equal(told, read)
    assert not torch.allclose(told, network(x, 1 - modality))


@pytest.mark.parametrize("value", [0.0, 3.0, -1.0, 1.5])
def test_wrong_modality_channel_is_refused_in_one_line(value: float) -> None:
    with pytest.raises(CrossmodError, match=r"1 \(bSSFP\), 2 \(LGE\)") as error:
        read_modality(torch.full((1, 4, 4), value), MODALITIES)
    assert "\n" not in str(error.value)
    assert "crossmod modality-channel" in str(error.value)


def test_an_image_in_its_place_is_refused() -> None:
    with pytest.raises(CrossmodError, match="no modality channel"):
        read_modality(torch.randn(1, 8, 8).abs() + 1, MODALITIES)


def test_resampled_channel_is_read() -> None:
    channel = torch.zeros(2, 6, 6)
    channel[0, :4], channel[1, 2:] = 1.0000012, 1.9999991
    assert read_modality(channel, MODALITIES).tolist() == [0, 1]


def test_missing_modality_channel_is_refused() -> None:
    with pytest.raises(CrossmodError, match="modality channel"):
        build()(images(2))


def test_channels_of_a_previous_stage_are_told_from_a_missing_one() -> None:
    with pytest.raises(CrossmodError, match="leave out -prev_stage_predictions"):
        build()(torch.cat([images(2)] * 5, 1))


@pytest.mark.slow
def test_training_forward_compiles_without_a_graph_break() -> None:
    network = build(deep_supervision=True)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    x = images(2)
    for modality in (torch.tensor([0, 1]), torch.tensor([1, 0])):
        found, expected = compiled(x, modality, features=True), network(x, modality, features=True)
        for mine, theirs in zip(found.logits, expected.logits, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_a_modality_may_take_the_affine_of_another() -> None:
    network = build(affine_of=[0, 0])
    image = torch.randn(1, 1, 32, 32)
    for norm in (m for m in network.modules() if isinstance(m, ConditionalInstanceNorm)):
        torch.nn.init.normal_(norm.weight)
    first, second = (network(image, torch.tensor([index])) for index in range(2))
    torch.testing.assert_close(first, second)
    for name, value in network.for_modality(1).items():
        assert torch.equal(value, network.for_modality(0)[name]), name
