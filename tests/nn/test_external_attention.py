"""Semantic correlations against a loop written from Eq. 6-8, attention against torch's own, shapes, pooling."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nnunet_crossmod.nn import ClassEmbeddings, ExternalAttention, semantic_correlations
from nnunet_crossmod.nn.external_attention import pooled

AXES = pytest.mark.parametrize("size", [(3, 4), (2, 3, 2)])


def by_loop(attention: Tensor, kernels: Tensor) -> Tensor:
    n, classes, heads = attention.shape[:3]
    places = attention.flatten(3)
    images = []
    for b in range(n):
        kernel = kernels if kernels.ndim == 2 else kernels[b]
        rows = []
        for i in range(classes):
            gathered = [torch.zeros((), dtype=attention.dtype)] * classes
            gates = [torch.zeros((), dtype=attention.dtype)] * classes
            for s in range(places.shape[3]):
                similarity = [
                    sum(kernel[i, h] * places[b, j, h, s] for h in range(heads)) for j in range(classes)
                ]  # S_ij(s)
                whole = sum(torch.exp(value) for value in similarity)
                for j in range(classes):
                    gate = torch.exp(similarity[j]) / whole  # G_ij(s)
                    gathered[j] = gathered[j] + gate * sum(places[b, j, h, s] for h in range(heads))
                    gates[j] = gates[j] + gate
            rows.append(torch.stack([g / t for g, t in zip(gathered, gates, strict=True)]))
        images.append(torch.stack(rows))
    return torch.stack(images)


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@AXES
@pytest.mark.parametrize("kernel_shape", [(3, 2), (2, 3, 2)])
def test_correlations_equal_the_equation(size: tuple[int, ...], kernel_shape: tuple[int, ...]) -> None:
    values = doubles(2, 3, 2, *size), doubles(*kernel_shape, seed=1)
    mine, theirs = ([v.clone().requires_grad_() for v in values] for _ in range(2))
    found, expected = semantic_correlations(*mine), by_loop(*theirs)
    torch.testing.assert_close(found, expected)
    weights = doubles(2, 3, 3, seed=2)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for a, b in zip(mine, theirs, strict=True):
        assert b.grad.abs().max() > 1e-3
        torch.testing.assert_close(a.grad, b.grad)


def test_correlations_are_pooled_where_the_class_wins() -> None:
    """One head, two places: with a sharp kernel class 0 sees each class where that class is ahead."""
    attention = torch.tensor([[2.0, 1.0], [1.0, 3.0]]).reshape(1, 2, 1, 2)
    sharp = semantic_correlations(attention, torch.tensor([[50.0], [0.0]]))
    torch.testing.assert_close(sharp[0, 0], torch.tensor([2.0, 3.0]))
    torch.testing.assert_close(sharp[0, 1], torch.tensor([1.5, 2.0]))


def test_correlations_follow_a_permutation_and_ignore_the_order_of_places() -> None:
    attention, kernels = doubles(2, 4, 3, 5, 2), doubles(4, 3, seed=1)
    expected = semantic_correlations(attention, kernels)
    z, h, s = torch.randperm(4), torch.randperm(3), torch.randperm(10)
    found = semantic_correlations(attention.flatten(3)[:, z][:, :, h][..., s], kernels[z][:, h])
    torch.testing.assert_close(found, expected[:, z][:, :, z])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_correlations_in_half_precision_are_finite_even_for_a_class_that_loses_everywhere(dtype: torch.dtype) -> None:
    attention = torch.randn(2, 3, 4, 6, 6)
    attention[:, 2] -= 300
    half = attention.to(dtype).requires_grad_()
    kernels = torch.rand(3, 4).add(0.5).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = semantic_correlations(half, kernels)
    found.sum().backward()
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    assert torch.isfinite(half.grad).all()
    torch.testing.assert_close(found, semantic_correlations(half.detach().float(), kernels.float()))


@pytest.mark.parametrize("kernels", [(4, 2), (3, 3), (1, 3, 2), (2, 4, 2)])
def test_wrong_kernels_are_refused(kernels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"kernels \(z, h\)"):
        semantic_correlations(torch.randn(2, 3, 2, 4, 4), torch.randn(*kernels))


def test_attention_without_places_is_refused() -> None:
    with pytest.raises(ValueError, match="attention"):
        semantic_correlations(torch.randn(2, 3, 2), torch.randn(3, 2))


@AXES
@pytest.mark.parametrize("per_image", [False, True])
def test_the_update_is_multi_head_attention_with_residuals(size: tuple[int, ...], per_image: bool) -> None:
    block = ExternalAttention(5, 12, heads=4, next_width=7).double()
    embeddings, features = doubles(*((2,) if per_image else ()), 5, 12), doubles(2, 12, *size)
    following, maps = block(embeddings, features)
    assert maps.attention.shape == (2, 5, 4, *size)
    assert following.shape == (2, 5, 7)

    def heads(tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (4, 3)).transpose(1, 2)

    q = embeddings.expand(2, 5, 12)
    tokens = block.feature_norm(features.flatten(2).transpose(1, 2))
    seen = functional.scaled_dot_product_attention(
        heads(block.query(block.embedding_norm(q))), heads(block.key(tokens)), heads(block.update.value(tokens))
    )
    updated = seen.transpose(1, 2).flatten(2) + q
    updated = block.update.mlp(block.update.mlp_norm(updated)) + updated
    torch.testing.assert_close(following, block.update.to_next(updated))
    for head in range(4):
        of_head = slice(3 * head, 3 * head + 3)
        raw = block.query(block.embedding_norm(q))[..., of_head] @ block.key(tokens)[..., of_head].mT / math.sqrt(3)
        torch.testing.assert_close(maps.attention[:, :, head].flatten(2), raw)
        for i in range(5):
            torch.testing.assert_close(maps.kernels[:, i, head], q[:, i] @ block.kernel[i, :, head])


def test_the_last_scale_has_no_parameter_that_nobody_reads() -> None:
    block = ExternalAttention(3, 8)
    following, maps = block(torch.randn(3, 8), torch.randn(2, 8, 4, 4))
    assert following is None
    (semantic_correlations(*maps).sum() + block.predict(maps.attention).sum()).backward()
    assert all(parameter.grad is not None for parameter in block.parameters())


@pytest.mark.parametrize(
    ("width", "asked", "heads"), [(96, 8, 8), (320, 8, 8), (30, 8, 6), (7, 8, 7), (13, 8, 1), (4, 8, 4)]
)
def test_heads_divide_the_width(width: int, asked: int, heads: int) -> None:
    block = ExternalAttention(3, width, asked)
    _, maps = block(torch.randn(3, width), torch.randn(1, width, 4, 4))
    assert maps.attention.shape[2] == heads


def test_auxiliary_logits_begin_as_the_sum_of_heads() -> None:
    block = ExternalAttention(3, 8, heads=4)
    attention = torch.randn(2, 3, 4, 5, 5)
    torch.testing.assert_close(block.predict(attention), attention.sum(2))


@pytest.mark.parametrize(
    ("size", "most", "expected"),
    [((64, 64), 4096, (64, 64)), ((64, 64), 4095, (32, 64)), ((16, 64, 64), 4096, (16, 16, 16)), ((5, 3), 1, (1, 1))],
)
def test_large_maps_are_averaged(size: tuple[int, ...], most: int, expected: tuple[int, ...]) -> None:
    features = torch.randn(1, 2, *size)
    small = pooled(features, most)
    assert small.shape[2:] == expected
    if size == (16, 64, 64):
        torch.testing.assert_close(small, functional.avg_pool3d(features, (1, 4, 4)))


def test_attention_is_in_full_precision_and_no_larger_than_asked() -> None:
    block = ExternalAttention(3, 8, next_width=8, max_tokens=16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        following, maps = block(torch.randn(3, 8), torch.randn(2, 8, 32, 32).bfloat16())
    assert maps.attention.shape == (2, 3, 8, 4, 4)
    assert maps.attention.dtype == maps.kernels.dtype == torch.float32
    assert torch.isfinite(following).all()


def test_memory_is_linear_in_places() -> None:
    """No tensor of a forward pass holds more than classes × (classes or heads) numbers a place, times a few."""
    sizes: list[int] = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in (out if isinstance(out, tuple | list) else [out]) if isinstance(t, Tensor))
            return out

    block = ExternalAttention(4, 8, next_width=8)
    places = 64 * 64
    with Spy():
        _, maps = block(torch.randn(4, 8), torch.randn(1, 8, 64, 64))
        semantic_correlations(*maps)
    assert places * 8 <= max(sizes) <= places * 4 * 8


def test_class_embeddings_are_of_every_modality_and_class() -> None:
    assert ClassEmbeddings(2, 4, 6).weight.shape == (2, 4, 6)
