"""Generator and projection head: shapes in 2D and 3D, isotropic and not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nnunet_crossmod.nn import (
    ImageTranslator,
    ProjectionHead,
    ResnetGenerator,
    as_slices,
    flicker,
    from_slices,
    to_unit,
)

SIZES: list[tuple[tuple[int, ...], list[list[int]] | None]] = [
    ((16, 24), None),
    ((8, 16, 16), None),
    ((5, 16, 16), [[1, 2, 2], [1, 2, 2]]),
    ((2, 16, 16), [[1, 2, 2], [2, 2, 2]]),
    ((1, 16, 16), [[1, 2, 2], [1, 2, 2]]),
]


@pytest.mark.parametrize(("size", "strides"), SIZES)
def test_a_translation_has_the_shape_of_its_source(size: tuple[int, ...], strides: Any) -> None:
    generator = ResnetGenerator(2, size, width=4, blocks=3, strides=strides)
    image = torch.randn(2, 2, *size).tanh()
    translated, features = generator.translate_and_encode(image)
    assert translated.shape == image.shape
    assert translated.abs().max() <= 1
    torch.testing.assert_close(translated, generator(image))
    assert torch.equal(features[0], image)
    assert [len(f[0]) for f in features] == generator.feature_channels
    assert all(torch.equal(a, b) for a, b in zip(features, generator.encode(image), strict=True))
    quarter = [s // m for s, m in zip(size, generator.multiple, strict=True)]
    assert list(features[2].shape[2:]) == list(features[-1].shape[2:]) == quarter
    translated.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in generator.parameters())


def test_encoding_stops_at_the_middle_block() -> None:
    generator = ResnetGenerator(1, (16, 16), width=4, blocks=9)
    seen: list[int] = []
    for position, block in enumerate(generator.blocks):
        block.register_forward_hook(lambda *_, at=position: seen.append(at))
    generator.encode(torch.zeros(1, 1, 16, 16))
    assert seen == [0, 1, 2, 3, 4]


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples"):
        ResnetGenerator(1, (18, 16))
    with pytest.raises(ValueError, match="blocks"):
        ResnetGenerator(1, (16, 16), blocks=1)
    with pytest.raises(ValueError, match="multiples"):
        ResnetGenerator(1, (16, 16), width=4, blocks=2)(torch.zeros(1, 1, 16, 18))


def test_slices_and_back() -> None:
    volume = torch.randn(2, 3, 5, 4, 6)
    slices = as_slices(volume)
    assert slices.shape == (10, 3, 4, 6)
    assert torch.equal(slices[7], volume[1, :, 2])
    assert torch.equal(from_slices(slices, 5), volume)


@pytest.mark.parametrize("slicewise", [True, False])
def test_a_translator_takes_and_gives_z_scores(slicewise: bool) -> None:
    translator = ImageTranslator(torch.nn.Identity(), slicewise)
    volume = torch.randn(2, 1, 5, 8, 8) * 3
    torch.testing.assert_close(translator(volume), volume)
    assert translator.shown(volume).shape == ((10, 1, 8, 8) if slicewise else volume.shape)
    assert torch.equal(translator.shown(volume).flatten().sort()[0], to_unit(volume).flatten().sort()[0])


def test_flicker_counts_jumps_between_slices() -> None:
    steady = torch.randn(1, 1, 1, 16, 16).expand(1, 1, 6, 16, 16)
    assert flicker(steady) == 0
    jumping = steady + torch.tensor([0.0, 1, 0, 1, 0, 1]).view(1, 1, 6, 1, 1)
    assert flicker(jumping) > 0.5
    torch.testing.assert_close(flicker(jumping), flicker(7 * jumping + 3))


def test_projection_heads_describe_in_single_precision() -> None:
    head = ProjectionHead(5, hidden=8, outputs=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        described = head(torch.randn(2, 7, 5))
    assert described.shape == (2, 7, 3)
    assert described.dtype == torch.float32
