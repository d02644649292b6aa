"""The part of nnU-Net's augmentation that a training step does, against nnU-Net's own transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_crossmod.data import augment_intensity, spatial_part
from nnunet_crossmod.data import intensity_augmentation as part

SIZES = pytest.mark.parametrize("size", [(24, 20), (6, 16, 12)])


def test_the_loader_keeps_what_moves_image_and_labels_alike() -> None:
    transforms = nnUNetTrainer.get_training_transforms(
        (16, 16), (-0.5, 0.5), [[1, 1], [0.5, 0.5]], (0, 1), False, use_mask_for_norm=[True, False]
    )
    names = [type(transform).__name__ for transform in spatial_part(transforms).transforms]
    assert names == [
        "SpatialTransform",
        "MirrorTransform",
        "MaskImageTransform",
        "RemoveLabelTransform",
        "DownsampleSegForDSTransform",
    ]
    removed = len(transforms.transforms) - len(names)
    assert removed == 7, "nnU-Net has other intensity transforms than augment_intensity imitates"


@SIZES
def test_shape_stays_and_every_image_draws_by_itself(size: tuple[int, ...]) -> None:
    images = torch.randn(1, 1, *size).expand(40, 2, *size)
    changed = augment_intensity(images)
    assert changed.shape == images.shape
    assert torch.isfinite(changed).all()
    same = (changed == images).flatten(2).all(2)
    assert 0.1 < same.float().mean() < 0.5  # (1 - 0.1)(1 - 0.2/2)(1 - 0.15)²(1 - 0.25/2)(1 - 0.1)(1 - 0.3) = 0.32
    assert len({float(one) for one in changed.flatten(2).sum(2).flatten()}) > 40


def test_it_follows_torchs_generator_alone() -> None:
    images = torch.randn(6, 1, 16, 16)
    torch.manual_seed(5)
    np.random.seed(1)
    first = augment_intensity(images)
    torch.manual_seed(5)
    np.random.seed(2)
    assert torch.equal(augment_intensity(images), first)
    assert not torch.equal(augment_intensity(images), first)


def test_constant_images_stay_finite() -> None:
    assert torch.isfinite(augment_intensity(torch.zeros(20, 1, 8, 8))).all()


@pytest.mark.parametrize("invert", [0.0, 1.0])
def test_gamma_is_nnunets(invert: float) -> None:
    image = torch.randn(1, 20, 16)
    expected = GammaTransform(1.3, invert, False, 1, 1)(image=image.clone())["image"]
    sign = -1 if invert else 1
    found = sign * part._gamma(sign * image, torch.tensor(1.3))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("factor", [0.5, 0.63, 0.9])
def test_low_resolution_is_nnunets(factor: float) -> None:
    image = torch.randn(1, 20, 14)
    expected = SimulateLowResolutionTransform(factor, False, True, None, None, 1)(image=image.clone())["image"]
    matrices = [part._coarsening(n, torch.tensor([factor]), torch.ones(1)) for n in image.shape[1:]]
    torch.testing.assert_close(part._along_every_axis(image, matrices), expected, rtol=1e-4, atol=1e-5)


@SIZES
def test_blur_spreads_a_point_and_keeps_a_constant(size: tuple[int, ...]) -> None:
    chosen: Callable[[float], Any] = lambda on: [  # noqa: E731
        part._blurring(n, torch.tensor([0.8]), torch.tensor([on])) for n in size
    ]
    flat = torch.full((1, *size), 3.0)
    torch.testing.assert_close(part._along_every_axis(flat, chosen(1.0)), flat)
    point = torch.zeros(1, *size)
    middle = tuple(n // 2 for n in size)
    point[(0, *middle)] = 1
    blurred = part._along_every_axis(point, chosen(1.0))
    assert blurred.argmax() == point.argmax()
    assert 0 < blurred[(0, *middle)] < 0.5
    torch.testing.assert_close(blurred.sum(), torch.tensor(1.0), rtol=0.02, atol=0.02)
    assert torch.equal(part._along_every_axis(point, chosen(0.0)), point)


def test_a_short_first_axis_is_not_coarsened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part._Draw, "chance", lambda self, p: torch.full(self.shape, float(p in (0.25, 0.5))))
    ramp = torch.arange(6.0).view(1, 1, 6, 1, 1).expand(2, 1, 6, 8, 8)
    assert not torch.allclose(augment_intensity(ramp), ramp)
    torch.testing.assert_close(augment_intensity(ramp, keep_first_axis=True), ramp)


def test_mixed_precision_does_not_reach_it() -> None:
    images = torch.randn(3, 1, 16, 16)
    torch.manual_seed(0)
    expected = augment_intensity(images)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = augment_intensity(images)
    assert torch.equal(found, expected)
