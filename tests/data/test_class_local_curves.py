"""Class-local curves: one intensity transform per class, a smooth blend, mean and deviation kept."""

from __future__ import annotations

import pytest
import torch

from nnunet_crossmod.data import class_local_curves

SIZES = [(24, 20), (6, 24, 20)]


def scene(size: tuple[int, ...], n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (n, *size), generator=generator)
    return torch.randn(n, 2, *size, generator=generator), labels


@pytest.mark.parametrize("size", SIZES)
def test_mean_and_deviation_of_every_image_and_channel_stay(size: tuple[int, ...]) -> None:
    images, labels = scene(size)
    curved = class_local_curves(images, labels, 3)
    axes = tuple(range(2, images.ndim))
    assert curved.shape == images.shape
    assert not torch.allclose(curved, images, atol=0.1)
    torch.testing.assert_close(curved.mean(axes), images.mean(axes), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(curved.std(axes), images.std(axes), atol=1e-5, rtol=1e-4)


def constant_share(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    from nnunet_crossmod.data import class_local_curves as function

    module = __import__(function.__module__, fromlist=["_smooth_shares"])
    monkeypatch.setattr(module, "_smooth_shares", lambda n, size, grid, like: torch.full((n, 1, *size), share))


@pytest.mark.parametrize("size", SIZES)
def test_without_the_blend_a_class_is_a_curve_of_the_image(
    size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal intensities of a class stay equal, and their order is kept or inverted; classes differ."""
    constant_share(monkeypatch, 1.0)
    levels = torch.linspace(-1, 2, 12)
    images = levels[torch.randint(0, 12, (2, 1, *size))]
    labels = torch.randint(0, 3, (2, *size))
    curved = class_local_curves(images, labels, 3)
    curves = torch.zeros(2, 3, 12)
    for n in range(2):
        for label in range(3):
            for position, level in enumerate(levels):
                values = curved[n, 0][(labels[n] == label) & (images[n, 0] == level)]
                assert values.max() - values.min() < 1e-5
                curves[n, label, position] = values[0]
    steps = curves.diff(dim=2)
    assert ((steps > 0).all(2) | (steps < 0).all(2)).all()
    assert not torch.allclose(curves[:, 0], curves[:, 1], atol=0.05)
    assert not torch.allclose(curves[0], curves[1], atol=0.05)


def test_without_a_share_the_image_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    constant_share(monkeypatch, 0.0)
    images, labels = scene((24, 20))
    torch.testing.assert_close(class_local_curves(images, labels, 3), images, atol=1e-5, rtol=1e-4)


def test_padding_and_the_ignore_label_count_as_background() -> None:
    images, labels = scene((24, 20))
    other = labels.clone()
    other[labels == 0] = torch.tensor([-1, 3])[torch.randint(0, 2, (int((labels == 0).sum()),))]
    torch.manual_seed(1)
    expected = class_local_curves(images, labels, 3)
    torch.manual_seed(1)
    assert torch.equal(class_local_curves(images, other, 3), expected)


def test_constant_images_and_half_precision_stay_finite() -> None:
    labels = torch.zeros(2, 16, 16, dtype=torch.int16)
    assert torch.isfinite(class_local_curves(torch.full((2, 1, 16, 16), 0.5), labels, 4)).all()
    curved = class_local_curves(100 * torch.randn(2, 1, 16, 16).half(), labels, 4)
    assert curved.dtype == torch.float32
    assert torch.isfinite(curved).all()


def test_it_follows_the_seed_and_carries_no_gradient() -> None:
    images, labels = scene((24, 20))
    images.requires_grad_()
    torch.manual_seed(3)
    first = class_local_curves(images, labels, 3)
    torch.manual_seed(3)
    assert torch.equal(class_local_curves(images, labels, 3), first)
    assert not first.requires_grad
