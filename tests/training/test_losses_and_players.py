"""Terms are named and weighted; players step alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from nnunet_crossmod.training import Losses, Player
from nnunet_crossmod.training.player import only_trainable


def test_total_is_the_weighted_sum_and_terms_keep_their_order() -> None:
    a, b = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    losses = Losses().add("first", a).add("second", b, 0.5)
    assert list(losses.terms) == ["first", "second"]
    losses.total().backward()
    assert losses.total().item() == 3.5
    assert (a.grad, b.grad) == (torch.tensor(1.0), torch.tensor(0.5))


def test_a_term_of_no_weight_is_logged_but_not_descended() -> None:
    a = torch.tensor(2.0, requires_grad=True)
    poisoned = torch.tensor(float("nan"), requires_grad=True)
    losses = Losses().add("seg", a).add("off", poisoned, 0.0)
    assert losses.total().item() == 2.0
    assert "off" in losses.terms


def test_terms_cannot_be_overwritten_and_something_must_be_descended() -> None:
    with pytest.raises(ValueError, match="twice"):
        Losses().add("a", torch.tensor(1.0)).add("a", torch.tensor(1.0))
    with pytest.raises(ValueError, match="weight"):
        Losses().total()


def player(name: str, module: nn.Module, clip: float = 12.0) -> Player:
    def objective(batch: Any, outputs: Any) -> Losses:
        return Losses()

    return Player(name, [module], objective, torch.optim.SGD(module.parameters(), 1.0), clip=clip)


def test_a_step_moves_its_own_modules_only() -> None:
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    players = [player("one", one), player("other", other)]
    before = [p.detach().clone() for p in other.parameters()]
    first = one.weight.detach().clone()
    with only_trainable(players[0], players):
        assert not other.weight.requires_grad
        players[0].step(other(one(torch.ones(1, 2))).sum(), None)
    assert other.weight.requires_grad
    assert other.weight.grad is None
    assert not torch.equal(one.weight, first)
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


def test_parameters_frozen_by_the_method_stay_frozen() -> None:
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    other.bias.requires_grad_(False)
    players = [player("one", one), player("other", other)]
    with only_trainable(players[0], players):
        pass
    assert not other.bias.requires_grad
    assert other.weight.requires_grad


def test_what_two_players_share_is_trainable_for_both() -> None:
    shared, rest = nn.Linear(2, 2), nn.Linear(2, 2)
    players = [player("all", nn.Sequential(shared, rest)), player("part", shared)]
    with only_trainable(players[0], players):
        assert shared.weight.requires_grad
        assert rest.weight.requires_grad
    with only_trainable(players[1], players):
        assert shared.weight.requires_grad
        assert not rest.weight.requires_grad
    assert all(p.requires_grad for one in players for p in one.parameters())


def test_gradients_are_clipped_as_in_nnunet() -> None:
    one = nn.Linear(1, 1, bias=False)
    start = one.weight.item()
    player("one", one, clip=12.0).step(one(torch.full((1, 1), 1e4)).sum(), None)
    assert start - one.weight.item() == pytest.approx(12.0, rel=1e-3)


def test_state_goes_round() -> None:
    one, copy = nn.Linear(2, 2), nn.Linear(2, 2)
    mine, theirs = player("one", one), player("one", copy)
    theirs.load_state_dict(mine.state_dict())
    assert torch.equal(one.weight, copy.weight)


@pytest.mark.parametrize("value", ["inf", "nan"])
def test_a_gradient_that_is_not_finite_counts_as_none(value: str) -> None:
    one = nn.Linear(2, 2)
    before = [p.detach().clone() for p in one.parameters()]
    player("one", one).step((one(torch.ones(1, 2)) * torch.tensor([float(value), 1.0])).sum(), None)
    assert all(torch.equal(a, b) for a, b in zip(before, one.parameters(), strict=True))
