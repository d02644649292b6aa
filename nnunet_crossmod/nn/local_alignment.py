"""Emphasise the places of a feature map where a domain discriminator is certain (GLUA)."""

from __future__ import annotations

from torch import Tensor

__all__ = ["local_feature_mask"]


def local_feature_mask(features: Tensor, logits: Tensor) -> Tensor:
    """Raise features where the discriminator is sure of their domain, up to twice their size.

    .. math:: \\hat f = f + f \\cdot \\tanh |D_1(f)|

    Args:
        features: f (n, c, *s).
        logits: D1(f) (n, 1, *s), before any sigmoid. They carry gradient to f as far as the caller lets them: pass
            ``logits.detach()`` for a mask that is a constant.

    Returns:
        (n, c, *s).

    Raises:
        ValueError: shapes that do not fit.

    Source: Su et al., "Mind the Gap" (no released code). Whether the mask is detached is not said.
    """
    if features.ndim < 3 or logits.shape != (features.shape[0], 1, *features.shape[2:]):
        raise ValueError(
            f"expected features (n, c, *s) and logits (n, 1, *s), got {tuple(features.shape)} and {tuple(logits.shape)}"
        )
    return features + features * logits.abs().tanh()
