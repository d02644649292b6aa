"""Encoders per modality and gains per modality: what is shared, what is not, and what a gain folds into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from support import architecture

from nnunet_crossmod.nn import ModalityGain, ModalityUNet, ModulatedUNet, build_unet, encoder_per_modality

MODALITIES = ("bSSFP", "LGE", "T2")
KINDS = pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
AXES = pytest.mark.parametrize("axes", [2, 3])


def planned(kind: str, axes: int) -> dict[str, Any]:
    return architecture(kind, axes, [4, 6, 8], [[1] * axes, [2] * axes, [1] + [2] * (axes - 1)], [1, 2, 2])


def build(kind: str, axes: int) -> ModalityUNet:
    return build_unet(planned(kind, axes), 2, 4, MODALITIES, conditioning="none", deep_supervision=False)


def stock(kind: str, axes: int) -> Any:
    plans = planned(kind, axes)
    return get_network_from_plans(
        plans["network_class_name"], plans["arch_kwargs"], plans["_kw_requires_import"], 1, 4, deep_supervision=False
    )


def images(axes: int, n: int) -> torch.Tensor:
    return torch.randn(n, 1, *[8, 16, 16][-axes:])


def separate(kind: str, axes: int) -> ModalityUNet:
    return encoder_per_modality([build(kind, axes) for _ in MODALITIES])


def modulated(kind: str, axes: int, neutral: bool = False) -> ModulatedUNet:
    network = ModulatedUNet(build(kind, axes))
    for part in network.modules():
        if isinstance(part, ModalityGain) and not neutral:
            torch.nn.init.normal_(part.project.weight, std=0.3)
        elif "InstanceNorm" in type(part).__name__:  # the last norm of a residual branch begins at 0
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
    return network


@KINDS
@AXES
def test_every_sample_passes_the_encoder_of_its_modality(kind: str, axes: int) -> None:
    network = separate(kind, axes).eval()
    x, modality = images(axes, 5), torch.tensor([2, 0, 1, 0, 2])
    found = network(x, modality, features=True)
    for i, m in enumerate(modality.tolist()):
        expected = network.encoder.encoders[m](x[i : i + 1])
        for mine, theirs in zip(found.encoder, expected, strict=True):
            torch.testing.assert_close(mine[i : i + 1], theirs)
    given = network(x, modality, rows=[slice(1, 4, 2), torch.tensor([2]), slice(0, 5, 4)])
    assert torch.equal(given, network(x, modality))
    assert torch.equal(given, found.logits[0])


@KINDS
def test_a_modality_of_its_own_encoder_is_a_stock_network(kind: str) -> None:
    network, plain = separate(kind, 2), stock(kind, 2)
    weights = network.state_dict()
    for m in range(3):
        plain.load_state_dict({key: _of(weights, key, m) for key in plain.state_dict()}, strict=True)
        x = images(2, 2)
        assert torch.equal(network(x, torch.full((2,), m)), plain(x))


def _of(weights: dict[str, torch.Tensor], key: str, modality: int) -> torch.Tensor:
    for part in ("decoder.encoder.", "encoder."):
        if key.startswith(part):
            return weights[f"{part}encoders.{modality}.{key.removeprefix(part)}"]
    return weights[key]


def test_gradients_reach_the_encoders_of_the_batch_alone() -> None:
    network = separate("PlainConvUNet", 2)
    network(
        images(2, 4), torch.tensor([0, 2, 0, 2]), rows=[slice(0, 3, 2), slice(0, 0), slice(1, 4, 2)]
    ).sum().backward()
    reached = [any(p.grad is not None for p in encoder.parameters()) for encoder in network.encoder.encoders]
    assert reached == [True, False, True]


def test_one_network_a_modality_is_needed() -> None:
    with pytest.raises(ValueError, match="3 networks"):
        encoder_per_modality([build("PlainConvUNet", 2)])


@KINDS
@AXES
def test_gains_begin_neutral(kind: str, axes: int) -> None:
    network, plain = modulated(kind, axes, neutral=True), stock(kind, axes)
    missing, unexpected = plain.load_state_dict(network.state_dict(), strict=False)
    assert not missing
    assert all("gain" in key or "mix" in key or "project" in key or key == "class_embeddings" for key in unexpected)
    x = images(axes, 2)
    assert torch.equal(network(x, torch.tensor([0, 2])), plain(x))


@KINDS
@AXES
def test_gains_tell_the_modalities_apart_and_are_learnt(kind: str, axes: int) -> None:
    network = modulated(kind, axes)
    x, modality = images(axes, 3), torch.tensor([2, 0, 1])
    channel = (modality + 1).view(-1, 1, *[1] * axes).expand_as(x).float()
    told = network(x, modality)
    assert torch.equal(told, network(torch.cat((x, channel), 1)))
    assert not torch.allclose(told, network(x, modality.flip(0)))
    told.square().sum().backward()
    gains = [m for m in network.modules() if isinstance(m, ModalityGain)]
    blocks = 5  # one a block, two convolutions in stages 1 and 2 and one in stage 0, or as many residual blocks
    assert len(gains) == blocks
    for parameter in [network.class_embeddings, *(p for gain in gains for p in gain.parameters())]:
        assert parameter.grad.abs().max() > 0


@KINDS
@AXES
def test_the_gains_of_a_modality_fold_into_the_norms_of_a_stock_network(kind: str, axes: int) -> None:
    network, plain = modulated(kind, axes), stock(kind, axes)
    plain.load_state_dict(network.state_dict(), strict=False)
    for name, gain in network.encoder.named_modules():
        if isinstance(gain, ModalityGain):
            block = name.rpartition(".all_modules")[0] or name.rpartition(".")[0] + ".conv2"
            norm, folded = network.encoder.get_submodule(block).norm, plain.encoder.get_submodule(block).norm
            factor = gain.gains(network.class_embeddings)[1]
            with torch.no_grad():
                norm.bias.normal_()
                folded.weight.copy_(factor * norm.weight)
                folded.bias.copy_(factor * norm.bias)
    x = images(axes, 2)
    torch.testing.assert_close(network(x, torch.ones(2, dtype=torch.long)), plain(x), atol=1e-4, rtol=1e-4)


def test_gains_equal_the_equation() -> None:
    gain = ModalityGain(3, 5, 4, build("PlainConvUNet", 2).context)
    torch.nn.init.normal_(gain.project.weight)
    embeddings = torch.randn(2, 3, 5)
    found = gain.gains(embeddings)
    for m in range(2):
        for channel in range(4):
            omega = [sum(gain.mix[0, z] * embeddings[m, z, c] for z in range(3)) for c in range(5)]
            phi = 1 + sum(omega[c] * gain.project.weight[channel, c] for c in range(5))
            torch.testing.assert_close(found[m, channel], phi)


@pytest.mark.parametrize("make", [separate, modulated])
def test_an_encoder_alone_says_what_is_missing(make: Any) -> None:
    with pytest.raises(RuntimeError, match="call the network"):
        make("PlainConvUNet", 2).encoder(images(2, 1))


@pytest.mark.slow
@pytest.mark.parametrize("make", [separate, modulated])
def test_they_compile_without_a_graph_break_where_rows_are_known(make: Any) -> None:
    network = make("ResidualEncoderUNet", 2)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    rows = [slice(0, 4, 3), slice(1, 2), slice(2, 3)]
    x, modality = images(2, 4), torch.tensor([0, 1, 2, 0])
    found, expected = (n(x, modality, features=True, rows=rows) for n in (compiled, network))
    torch.testing.assert_close(found.logits[0], expected.logits[0])


@KINDS
@AXES
@pytest.mark.parametrize("build_network", [separate, modulated])
def test_for_one_modality_either_is_a_stock_network(
    kind: str, axes: int, build_network: Callable[[str, int], ModalityUNet]
) -> None:
    network, plain = build_network(kind, axes).eval(), stock(kind, axes).eval()
    x = images(axes, 2)
    found = []
    for index in range(len(MODALITIES)):
        plain.load_state_dict(network.for_modality(index), strict=True)
        found.append(plain(x))
        torch.testing.assert_close(found[-1], network(x, torch.full((2,), index)), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found[0], found[1], atol=1e-3)
