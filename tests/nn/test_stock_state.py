"""For one modality, a network's weights are those of a stock network that computes the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from support import architecture
from torch import Tensor, nn

from nnunet_crossmod.nn import ConditionalInstanceNorm, ModalityUNet, build_unet, stock_state

MODALITIES = ("bSSFP", "LGE", "T2")


def planned(kind: str, axes: int) -> dict[str, Any]:
    strides = [[1] * axes, [2] * axes, [1] + [2] * (axes - 1)]
    return architecture(kind, axes, [4, 6, 8], strides, [1, 2, 2])


def unlike(network: ModalityUNet) -> ModalityUNet:
    """Give every modality norms of its own."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, ConditionalInstanceNorm):
                module.weight.normal_(1, 0.5)
                module.bias.normal_(0, 0.5)
    return network.eval()


@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("conditioning", ["none", "encoder", "all"])
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_the_stock_network_computes_the_same(kind: str, axes: int, conditioning: Any, deep_supervision: bool) -> None:
    plans = planned(kind, axes)
    network = unlike(build_unet(plans, 3, 4, MODALITIES, conditioning=conditioning, deep_supervision=deep_supervision))
    stock = get_network_from_plans(
        plans["network_class_name"],
        plans["arch_kwargs"],
        plans["_kw_requires_import"],
        2,
        4,
        deep_supervision=deep_supervision,
    ).eval()
    x = torch.randn(2, 2, *[8, 16, 16][-axes:])
    logits = []
    for index in range(len(MODALITIES)):
        stock.load_state_dict(network.for_modality(index), strict=True)
        expected, found = network(x, torch.full((2,), index)), stock(x)
        for mine, theirs in zip(
            expected if deep_supervision else [expected], found if deep_supervision else [found], strict=True
        ):
            torch.testing.assert_close(theirs, mine, rtol=1e-5, atol=1e-5)
        logits.append(found[0] if deep_supervision else found)
    assert torch.equal(logits[0], logits[1]) == (conditioning == "none")


def test_nothing_of_the_network_changes() -> None:
    network = unlike(build_unet(planned("PlainConvUNet", 2), 2, 4, MODALITIES))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for name, value in network.for_modality(1).items():
        if value.shape != before[name].shape:
            value.add_(1)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


class Routed(nn.Module):
    """One part a modality, in the place where a stock network has one part."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.BatchNorm1d(3) for _ in MODALITIES)

    def for_modality(self, index: int) -> dict[str, Tensor]:
        return stock_state(self.parts[index], index)


def test_a_part_may_say_what_it_is_for_a_modality() -> None:
    network = nn.Sequential(nn.Linear(3, 3), Routed())
    network.add_module("again", network[1])
    network.register_parameter("none", None)
    state = stock_state(network, 2)
    stock = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    stock.add_module("again", stock[1])
    stock.load_state_dict(state, strict=True)
    assert state["1.running_mean"] is not network[1].parts[0].running_mean
    assert set(state) == set(stock.state_dict())
