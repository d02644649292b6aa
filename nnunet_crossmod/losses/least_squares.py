"""The least-squares game between a network that makes images or maps and a discriminator that judges them."""

from __future__ import annotations

from torch import Tensor

from nnunet_crossmod.losses.precision import full_precision

__all__ = ["discriminate", "fool"]


@full_precision
def fool(decision_on_fake: Tensor) -> Tensor:
    """What the maker descends: the mean of (D(fake) − 1)².

    Args:
        decision_on_fake: the discriminator's output, any shape, without a sigmoid.

    Returns:
        scalar; 0 where the fake is taken for real everywhere, 1 where it is told everywhere.

    Source: Mao et al., LSGAN, ICCV 2017, Eq. 2 with a = 0, b = c = 1 and no factor ½, as in CISFA.
    """
    return (decision_on_fake - 1).square().mean()


@full_precision
def discriminate(decision_on_real: Tensor, decision_on_fake: Tensor) -> Tensor:
    """What the discriminator descends: half the mean of (D(real) − 1)² plus half the mean of D(fake)².

    Args:
        decision_on_real: the discriminator's output, any shape, without a sigmoid.
        decision_on_fake: its output on what it must tell apart, any shape.

    Returns:
        scalar; 0 where it is never wrong, ¼ where it cannot tell and says ½.

    Source: Mao et al., LSGAN, ICCV 2017, Eq. 2.
    """
    return ((decision_on_real - 1).square().mean() + decision_on_fake.square().mean()) / 2
