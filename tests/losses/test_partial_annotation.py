"""Un-annotated classes are merged into the background by adding their probabilities."""

import pytest
import torch

from nnunet_crossmod.losses import marginalise


@pytest.mark.parametrize("size", [(4, 5), (2, 4, 5)])
def test_probability_of_the_merged_background_is_the_sum(size: tuple[int, ...]) -> None:
    logits, labels = torch.randn(2, 5, *size), torch.randint(0, 5, (2, *size))
    merged, renumbered = marginalise(logits, labels, [4, 2])
    probability, expected = merged.softmax(1), logits.softmax(1)
    torch.testing.assert_close(probability[:, 0], expected[:, [0, 1, 3]].sum(1))
    torch.testing.assert_close(probability[:, 1:], expected[:, [2, 4]])
    assert torch.equal(renumbered == 1, labels == 2)
    assert torch.equal(renumbered == 2, labels == 4)
    assert torch.equal(renumbered == 0, (labels != 2) & (labels != 4))


def test_a_predicted_but_unannotated_class_is_not_pushed_away() -> None:
    """Wherever the case says background, the gradient on an un-annotated class is that on the background."""
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    merged, labels = marginalise(logits, torch.zeros(1, 4, 4).long(), [1])
    torch.nn.functional.cross_entropy(merged, labels).backward()
    assert (logits.grad[:, 2] <= 0).all()
    assert (logits.grad[:, 1] >= 0).all()


def test_everything_annotated_changes_nothing() -> None:
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    merged, renumbered = marginalise(logits, labels, [1, 2])
    assert merged is logits
    assert renumbered is labels


def test_ignored_and_padded_voxels_keep_their_value() -> None:
    labels = torch.tensor([[[-1, 0, 1, 2, 3]]])
    _, renumbered = marginalise(torch.randn(1, 3, 1, 5), labels, [2])
    assert renumbered.tolist() == [[[-1, 0, 0, 1, 3]]]


def test_unknown_class_is_refused() -> None:
    with pytest.raises(ValueError, match="annotated classes"):
        marginalise(torch.randn(1, 3, 2, 2), torch.zeros(1, 2, 2).long(), [3])
