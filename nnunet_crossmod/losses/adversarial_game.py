"""The two games between what wants to pass as source (or real) and what tells it apart.

A score says "this is the target" (or: this was made): the higher, the surer.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nnunet_crossmod.losses.domain_adversary import domain_confusion, domain_discrimination
from nnunet_crossmod.losses.least_squares import discriminate, fool
from nnunet_crossmod.losses.precision import full_precision

__all__ = ["GanLoss", "adversarial_confusion", "adversarial_discrimination", "certainty"]

GanLoss = Literal["bce", "least_squares"]


def _check(game: str) -> None:
    if game not in ("bce", "least_squares"):
        raise ValueError(f'the game must be "bce" or "least_squares", got {game!r}')


def adversarial_discrimination(source: Tensor, target: Tensor, game: GanLoss = "bce") -> Tensor:
    """What the discriminator descends, one half source and one half target, whatever their numbers.

    Args:
        source: scores of source (or real) samples, any shape, without a sigmoid.
        target: scores of target (or made) samples, any shape.
        game: ``"bce"``, scores are logits; ``"least_squares"``, they go to 0 for source and to 1 for target.

    Returns:
        scalar; 0 where every score is right with certainty.

    Raises:
        ValueError: an unknown game.

    Source: Su et al., "Mind the Gap"; its "1 − log D" is a misprint of log(1 − D).
    """
    _check(game)
    # least squares call 1 what passes; a score of 1 is the target here, in both games
    return domain_discrimination(source, target) if game == "bce" else discriminate(target, source)


def adversarial_confusion(target: Tensor, game: GanLoss = "bce") -> Tensor:
    """What the target (or made) samples descend that want to pass as source (or real).

    Args:
        target: their scores, any shape, without a sigmoid.
        game: as of :func:`adversarial_discrimination`.

    Returns:
        scalar; 0 where they pass with certainty.

    Raises:
        ValueError: an unknown game.

    Source: Su et al., "Mind the Gap"; the non-saturating form of its "1 − log D".
    """
    _check(game)
    return domain_confusion(target) if game == "bce" else fool(1 - target)


@torch.no_grad()
@full_precision
def certainty(scores: Tensor, game: GanLoss = "bce") -> Tensor:
    """How sure a discriminator is that it sees the target, in both games 0 … 1 for a score at rest; same shape."""
    _check(game)
    return scores.sigmoid() if game == "bce" else scores
