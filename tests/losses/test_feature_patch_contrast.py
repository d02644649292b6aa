"""l_fpc against a loop written from AICL's Eq. 4."""

import math

import pytest
import torch
from torch import Tensor

from nnunet_crossmod.losses import feature_patch_contrast


def by_loop(patches: Tensor, organs: list[int], modality: list[int], temperature: float, mode: str) -> Tensor:
    def similarity(i: int, j: int) -> Tensor:
        return torch.dot(patches[i], patches[j]) / (patches[i].norm() * patches[j].norm())

    p = len(organs)
    anchors = []
    for i in range(p):
        if organs[i] < 0 or (mode == "literal" and modality[i] != 0):
            continue
        others = [j for j in range(p) if j != i and organs[j] >= 0 and (mode == "all" or modality[j] == 1)]
        positives = [j for j in others if organs[j] == organs[i]]
        negatives = [j for j in others if organs[j] != organs[i]]
        if not positives:
            continue
        repelled = sum(torch.exp(similarity(i, n) / temperature) for n in negatives)
        terms = []
        for positive in positives:
            attracted = torch.exp(similarity(i, positive) / temperature)
            terms.append(-torch.log(attracted / (attracted + repelled)))
        anchors.append(torch.stack(terms).mean())
    return torch.stack(anchors).mean()


@pytest.mark.parametrize("mode", ["all", "literal"])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_value_and_gradient_equal_the_equation(mode: str, temperature: float) -> None:
    generator = torch.Generator().manual_seed(3)
    organs = [0, 1, 2, 0, 1, 0, 2, 3, -1]
    modality = [0, 0, 0, 1, 1, 1, 1, 0, 1]
    fast = torch.randn(len(organs), 5, generator=generator, dtype=torch.float64).requires_grad_()
    slow = fast.detach().clone().requires_grad_()
    loss = feature_patch_contrast(fast, torch.tensor(organs), torch.tensor(modality), temperature, mode)
    expected = by_loop(slow, organs, modality, temperature, mode)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(fast.grad, slow.grad)


def test_aligned_organs_cost_nothing_and_confused_organs_cost_their_share() -> None:
    organs, modality = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    apart = torch.tensor([[1.0, 0], [1, 0], [-1, 0], [-1, 0]])
    assert feature_patch_contrast(apart, organs, modality, 0.07) < 1e-6
    same = torch.ones(4, 2)
    assert feature_patch_contrast(same, organs, modality, 0.07).item() == pytest.approx(math.log(3), abs=1e-5)


def test_order_and_length_of_patches_do_not_matter() -> None:
    patches, organs, modality = torch.randn(12, 4), torch.randint(0, 3, (12,)), torch.randint(0, 2, (12,))
    order = torch.randperm(12)
    loss = feature_patch_contrast(patches, organs, modality)
    stretched = patches * torch.rand(12, 1).add(0.1)
    torch.testing.assert_close(loss, feature_patch_contrast(stretched[order], organs[order], modality[order]))


@pytest.mark.parametrize("organs", [[0, 1, 2], [-1, -1, -1], []])
def test_without_any_pair_it_is_exactly_zero_with_a_gradient_path(organs: list[int]) -> None:
    patches = torch.randn(len(organs), 4, requires_grad=True)
    loss = feature_patch_contrast(patches, torch.tensor(organs, dtype=torch.long), torch.zeros(len(organs)).long())
    assert loss.item() == 0
    loss.backward()
    assert patches.grad is not None
    assert not patches.grad.any()


def test_one_organ_alone_has_nothing_to_be_told_from() -> None:
    patches = torch.randn(4, 3, requires_grad=True)
    loss = feature_patch_contrast(patches, torch.zeros(4).long(), torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(patches.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_and_close(dtype: torch.dtype) -> None:
    patches, organs, modality = torch.randn(20, 8), torch.randint(0, 4, (20,)), torch.randint(0, 2, (20,))
    half = patches.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = feature_patch_contrast(half, organs, modality)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(half.grad).all()
    torch.testing.assert_close(loss, feature_patch_contrast(half.detach().float(), organs, modality))


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="organs"):
        feature_patch_contrast(torch.randn(4, 2), torch.zeros(3).long(), torch.zeros(4).long())
    with pytest.raises(ValueError, match="mode"):
        feature_patch_contrast(torch.randn(4, 2), torch.zeros(4).long(), torch.zeros(4).long(), mode="some")
