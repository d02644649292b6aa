"""nnU-Net's z-scores on the range that an image generator works in, and back."""

from __future__ import annotations

from torch import Tensor

__all__ = ["KNEE", "LIMIT", "from_unit", "to_unit"]

KNEE = 4.0
"""z-scores up to here are mapped linearly: nearly all voxels of a z-scored scan."""
LIMIT = 20.0
"""z-scores beyond are cut: single voxels of vessels, metal or artefacts."""
_LINEAR = 0.8
"""The share of the range, on either side of 0, that the linear part fills."""


def to_unit(z: Tensor) -> Tensor:
    """Map z-scores into (−1, 1): linear up to ±4, where it reaches ±0.8, then ever flatter.

    .. math::
        u = z / 5 \\quad (|z| \\le 4), \\qquad u = \\pm \\left( 0.8 + 0.2 \\, \\frac{t}{1 + t} \\right), \\; t = |z| - 4

    The constants are fixed, whatever the data: a network that was trained behind the map can be used without it on
    real scans. Value and slope are continuous; :func:`from_unit` is the inverse.

    Args:
        z: z-scores, any shape; beyond ±20 they are cut.

    Returns:
        the same shape, |u| ≤ 0.8 + 0.2 · 16 / 17 ≈ 0.988.
    """
    size = z.abs().clamp(max=LIMIT)
    beyond = (size - KNEE).clamp(min=0)
    return z.sign() * (size.clamp(max=KNEE) * (_LINEAR / KNEE) + (1 - _LINEAR) * beyond / (1 + beyond))


def from_unit(u: Tensor) -> Tensor:
    """Map a generator's image back to z-scores, in single precision.

    Args:
        u: any shape, −1 … 1 as a tanh gives it; what lies beyond the z-score 20 is cut to it, so ±1 stays finite.

    Returns:
        z-scores of the same shape, −20 … 20.
    """
    u = u.float()
    size = u.abs()
    share = ((size - _LINEAR) / (1 - _LINEAR)).clamp(min=0, max=(LIMIT - KNEE) / (1 + LIMIT - KNEE))
    return u.sign() * (size.clamp(max=_LINEAR) * (KNEE / _LINEAR) + share / (1 - share))
