"""Both games against loops written from log D, log(1 − D) and (D − 1)²."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nnunet_crossmod.losses import detect, detection_accuracy, fool, probability_of_real, signed_decision


def sigmoid(score: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-score))


def detection(real: Tensor, fake: Tensor, game: str) -> Tensor:
    """Real is 1, fake 0; half of each."""
    if game == "bce":
        on_real = [-torch.log(sigmoid(s)) for s in real.flatten()]
        on_fake = [-torch.log(1 - sigmoid(s)) for s in fake.flatten()]
    else:
        on_real = [(s - 1) ** 2 for s in real.flatten()]
        on_fake = [s**2 for s in fake.flatten()]
    return (sum(on_real) / len(on_real) + sum(on_fake) / len(on_fake)) / 2


def fooling(fake: Tensor, game: str) -> Tensor:
    scores = fake.flatten()
    return sum(-torch.log(sigmoid(s)) if game == "bce" else (s - 1) ** 2 for s in scores) / len(scores)


GAMES = pytest.mark.parametrize("game", ["bce", "least_squares"])


@GAMES
def test_values_and_gradients_equal_the_equations(game: str) -> None:
    scores = [torch.randn(2, 1, 3, 2, dtype=torch.float64), torch.randn(3, 1, 2, 2, dtype=torch.float64)]
    ours, theirs = ([s.clone().requires_grad_() for s in scores] for _ in range(2))
    pairs = [
        (detect(*ours, game), detection(*theirs, game)),
        (fool(ours[1], game), fooling(theirs[1], game)),
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
    right = detect(torch.full((3,), high), torch.full((3,), low), game)
    assert right.item() == pytest.approx(0, abs=1e-6)
    assert fool(torch.full((3,), high), game).item() == pytest.approx(0, abs=1e-6)
    assert fool(torch.full((3,), low), game) > 0.9


def test_an_undecided_discriminator_pays_log_two_or_a_quarter() -> None:
    assert detect(torch.zeros(3), torch.zeros(5)).item() == pytest.approx(math.log(2))
    half = torch.full((1, 1, 2, 2, 2), 0.5)
    assert detect(half, half, "least_squares") == 0.25
    assert fool(torch.zeros(1, 1, 2, 2), "least_squares") == 1


@GAMES
def test_fooling_moves_a_score_against_detecting(game: str) -> None:
    score = torch.tensor([0.3], requires_grad=True)
    away, towards = (
        torch.autograd.grad(loss, score)[0] for loss in (detect(torch.ones(1), score, game), fool(score, game))
    )
    assert towards < 0 < away


def test_certainty_is_a_probability_of_logits_and_the_score_itself_otherwise() -> None:
    scores = torch.tensor([-2.0, 0.0, 1.0], requires_grad=True)
    torch.testing.assert_close(probability_of_real(scores), sigmoid(scores).detach())
    assert torch.equal(probability_of_real(scores, "least_squares"), scores)
    assert not probability_of_real(scores).requires_grad


def test_accuracy_is_the_share_of_right_decisions_of_either_side() -> None:
    real, fake = torch.tensor([1.0, 2.0, -1.0, 3.0]), torch.tensor([-1.0, 1.0])
    assert signed_decision(torch.tensor([0.0, 0.5, 1.0]), "least_squares").tolist() == [-1, 0, 1]
    assert signed_decision(real) is real
    assert detection_accuracy(real, fake) == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert detection_accuracy(torch.tensor([0.7, 0.4]), torch.tensor([0.2]), "least_squares") == pytest.approx(0.75)


@GAMES
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite(game: str, dtype: torch.dtype) -> None:
    scores = (300 * torch.randn(2, 1, 4, 4)).to(dtype).requires_grad_()
    loss = detect(scores, scores, game) + fool(scores, game)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(scores.grad).all()


def test_another_game_is_refused() -> None:
    for call in (fool, probability_of_real):
        with pytest.raises(ValueError, match="hinge"):
            call(torch.zeros(2), "hinge")
    with pytest.raises(ValueError, match="hinge"):
        detect(torch.zeros(2), torch.zeros(2), "hinge")


@pytest.mark.parametrize("shapes", [((2, 1, 3, 3), (2, 1, 3, 3)), ((1, 1, 2, 2, 2), (5, 1, 2, 2, 2))])
def test_detection_is_half_real_and_half_fake_whatever_their_numbers(shapes: tuple[tuple[int, ...], ...]) -> None:
    real, fake = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    probability = [torch.sigmoid(score) for score in (real, fake)]
    expected = -(torch.log(probability[0]).mean() + torch.log(1 - probability[1]).mean()) / 2
    loss = detect(real, fake)
    torch.testing.assert_close(loss, expected)
    for fast, slow in zip(
        torch.autograd.grad(loss, (real, fake)), torch.autograd.grad(expected, (real, fake)), strict=True
    ):
        torch.testing.assert_close(fast, slow)
    passed = fool(fake)
    torch.testing.assert_close(passed, -torch.log(torch.sigmoid(fake)).mean())
    assert (torch.autograd.grad(passed, fake)[0] < 0).all()


def test_fooling_is_the_opposite_of_detecting() -> None:
    detected, passing = torch.full((4,), -20.0), torch.full((4,), 20.0)
    assert detect(passing, detected) < 1e-6
    assert fool(passing) < 1e-6
    assert fool(detected) > 19
    assert detect(torch.zeros(1), torch.zeros(9)).item() == pytest.approx(math.log(2))
    half = torch.full((4,), 60000.0, dtype=torch.float16)
    assert torch.isfinite(detect(half, -half))


def test_accuracy_of_a_guess_is_one_half() -> None:
    always_fake = -torch.ones(3), -torch.ones(7)
    assert detection_accuracy(*always_fake) == 0.5
    assert detection_accuracy(torch.ones(3), -torch.ones(7)) == 1
    assert detection_accuracy(-torch.ones(3), torch.ones(7)) == 0
