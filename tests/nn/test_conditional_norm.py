"""Conditional instance norm: Eq. 1 by hand, and plain instance norm where all modalities share one affine."""

import pytest
import torch

from nnunet_crossmod.nn import conditional_instance_norm


@pytest.mark.parametrize("size", [(6, 5), (3, 6, 5)])
def test_value_and_gradient_equal_the_equation(size: tuple[int, ...]) -> None:
    x = torch.randn(4, 3, *size, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    modality = torch.tensor([0, 1, 1, 0])
    slow = [t.detach().clone().requires_grad_() for t in (x, weight, bias)]
    rows = []
    for i, m in enumerate(modality.tolist()):
        channels = []
        for c in range(3):
            values = slow[0][i, c]
            scaled = (values - values.mean()) / torch.sqrt(values.var(unbiased=False) + 1e-5)
            channels.append(slow[1][m, c] * scaled + slow[2][m, c])
        rows.append(torch.stack(channels))
    expected = torch.stack(rows)
    found = conditional_instance_norm(x, weight, bias, modality)
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(found)
    (found * direction).sum().backward()
    (expected * direction).sum().backward()
    for mine, theirs in zip((x, weight, bias), slow, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_with_one_affine_it_is_instance_norm() -> None:
    x, weight, bias = torch.randn(3, 4, 8, 8), torch.randn(4), torch.randn(4)
    shared = [t[None].repeat(2, 1) for t in (weight, bias)]
    found = conditional_instance_norm(x, *shared, torch.tensor([0, 1, 0]))
    assert torch.equal(found, torch.nn.functional.instance_norm(x, weight=weight, bias=bias))


def test_samples_do_not_see_each_other() -> None:
    x, weight, bias = torch.randn(3, 4, 8, 8), torch.randn(2, 4), torch.randn(2, 4)
    modality = torch.tensor([0, 1, 0])
    together = conditional_instance_norm(x, weight, bias, modality)
    alone = torch.cat([conditional_instance_norm(x[i : i + 1], weight, bias, modality[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="modality"):
        conditional_instance_norm(torch.randn(2, 3, 4, 4), torch.ones(2, 3), torch.ones(2, 3), torch.zeros(3).long())
    with pytest.raises(ValueError, match="weight"):
        conditional_instance_norm(torch.randn(2, 3, 4, 4), torch.ones(3), torch.ones(3), torch.zeros(2).long())
