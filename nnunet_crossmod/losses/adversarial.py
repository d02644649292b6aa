"""The two adversarial games: a discriminator detects what is fake, its opponent fools it.

A score says "this is real": the higher, the surer. Real are true images, or what is predicted on the source; fake are
generated images, or what is predicted on the target.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_crossmod.losses.precision import full_precision

__all__ = ["Game", "detect", "detection_accuracy", "fool", "probability_of_real", "signed_decision"]

Game = Literal["bce", "least_squares"]


@full_precision
def detect(real: Tensor, fake: Tensor, game: Game = "bce") -> Tensor:
    """What the discriminator descends, one half real and one half fake, whatever their numbers.

    ``"bce"``, scores are logits: ½ mean(−log D(real)) + ½ mean(−log(1 − D(fake))). ``"least_squares"``:
    ½ mean((D(real) − 1)²) + ½ mean(D(fake)²).

    Args:
        real: scores of real samples, any shape, without a sigmoid.
        fake: scores of fake samples, any shape.
        game: which of the two.

    Returns:
        scalar; 0 where every score is right with certainty, log 2 (bce) or ¼ (least squares) where it is undecided.

    Raises:
        ValueError: an unknown game.

    Source: Vu et al. (AdvEnt), CVPR 2019; Liu et al. (MPSCL), JBHI 2022, Eq. 9; Su et al., "Mind the Gap", whose
    "1 − log D" is a misprint of log(1 − D); Mao et al., LSGAN, ICCV 2017, Eq. 2.
    """
    if _is_bce(game):
        return (functional.softplus(-real).mean() + functional.softplus(fake).mean()) / 2
    return ((real - 1).square().mean() + fake.square().mean()) / 2


@full_precision
def fool(fake: Tensor, game: Game = "bce") -> Tensor:
    """What the opponent descends: fake samples that want to pass as real.

    ``"bce"``: mean(−log D(fake)), the non-saturating form; ``"least_squares"``: mean((D(fake) − 1)²).

    Args:
        fake: their scores, any shape, without a sigmoid.
        game: as of :func:`detect`.

    Returns:
        scalar; 0 where they pass with certainty.

    Raises:
        ValueError: an unknown game.

    Source: as of :func:`detect`; Eq. 10 of MPSCL; LSGAN with a = 0, b = c = 1 and no factor ½, as in CISFA.
    """
    return functional.softplus(-fake).mean() if _is_bce(game) else (fake - 1).square().mean()


@torch.no_grad()
@full_precision
def probability_of_real(scores: Tensor, game: Game = "bce") -> Tensor:
    """How sure a discriminator is that it sees real samples, in both games 0 … 1 for a score at rest; same shape."""
    return scores.sigmoid() if _is_bce(game) else scores


@torch.no_grad()
def detection_accuracy(real: Tensor, fake: Tensor, game: Game = "bce") -> Tensor:
    """Share of right decisions, one half real and one half fake: 0.5 is a guess. Scalar."""
    on_real, on_fake = signed_decision(real, game), signed_decision(fake, game)
    return ((on_real > 0).float().mean() + (on_fake < 0).float().mean()) / 2


def signed_decision(scores: Tensor, game: Game = "bce") -> Tensor:
    """Scores as decisions: above 0 real, below 0 fake, 0 undecided. Logits as they are; least squares −1 … 1."""
    return scores if _is_bce(game) else 2 * scores - 1


def _is_bce(game: str) -> bool:
    if game not in ("bce", "least_squares"):
        raise ValueError(f'the game must be "bce" or "least_squares", got {game!r}')
    return game == "bce"
