"""Both games against loops written from log(1 − D) and (D − 1)²."""

import math

import pytest
import torch
from torch import Tensor

from nnunet_crossmod.losses import adversarial_confusion, adversarial_discrimination, certainty


def sigmoid(score: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-score))


def told(source: Tensor, target: Tensor, game: str) -> Tensor:
    """Target is 1, source 0; half of each."""
    if game == "bce":
        of_source = [-torch.log(1 - sigmoid(s)) for s in source.flatten()]
        of_target = [-torch.log(sigmoid(s)) for s in target.flatten()]
    else:
        of_source = [s**2 for s in source.flatten()]
        of_target = [(s - 1) ** 2 for s in target.flatten()]
    return (sum(of_source) / len(of_source) + sum(of_target) / len(of_target)) / 2


def confused(target: Tensor, game: str) -> Tensor:
    scores = target.flatten()
    return sum(-torch.log(1 - sigmoid(s)) if game == "bce" else s**2 for s in scores) / len(scores)


GAMES = pytest.mark.parametrize("game", ["bce", "least_squares"])


@GAMES
def test_values_and_gradients_equal_the_equations(game: str) -> None:
    scores = [torch.randn(2, 1, 3, 2, dtype=torch.float64), torch.randn(3, 1, 2, 2, dtype=torch.float64)]
    ours, theirs = ([s.clone().requires_grad_() for s in scores] for _ in range(2))
    pairs = [
        (adversarial_discrimination(*ours, game), told(*theirs, game)),
        (adversarial_confusion(ours[1], game), confused(theirs[1], game)),
    ]
    for mine, expected in pairs:
        torch.testing.assert_close(mine, expected)
        mine.backward()
        expected.backward()
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, expected.grad)


@GAMES
def test_a_discriminator_that_is_right_pays_nothing_and_leaves_nothing_to_gain(game: str) -> None:
    low, high = (-40.0, 40.0) if game == "bce" else (0.0, 1.0)
    right = adversarial_discrimination(torch.full((3,), low), torch.full((3,), high), game)
    assert right.item() == pytest.approx(0, abs=1e-6)
    assert adversarial_confusion(torch.full((3,), low), game).item() == pytest.approx(0, abs=1e-6)
    assert adversarial_confusion(torch.full((3,), high), game) > 0.9


def test_an_undecided_discriminator_pays_log_two() -> None:
    assert adversarial_discrimination(torch.zeros(3), torch.zeros(5)).item() == pytest.approx(math.log(2))


@GAMES
def test_confusing_moves_a_score_against_telling(game: str) -> None:
    score = torch.tensor([0.3], requires_grad=True)
    towards, away = (
        torch.autograd.grad(loss, score)[0]
        for loss in (adversarial_discrimination(torch.zeros(1), score, game), adversarial_confusion(score, game))
    )
    assert towards < 0 < away


def test_certainty_is_a_probability_of_logits_and_the_score_itself_otherwise() -> None:
    scores = torch.tensor([-2.0, 0.0, 1.0], requires_grad=True)
    torch.testing.assert_close(certainty(scores), sigmoid(scores).detach())
    assert torch.equal(certainty(scores, "least_squares"), scores)
    assert not certainty(scores).requires_grad


@GAMES
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite(game: str, dtype: torch.dtype) -> None:
    scores = (100 * torch.randn(2, 1, 4, 4)).to(dtype).requires_grad_()
    loss = adversarial_discrimination(scores, scores, game) + adversarial_confusion(scores, game)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(scores.grad).all()


def test_another_game_is_refused() -> None:
    for call in (adversarial_confusion, certainty):
        with pytest.raises(ValueError, match="hinge"):
            call(torch.zeros(2), "hinge")
