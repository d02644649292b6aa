"""Telling domains apart, and being mistaken for the other one (MPSCL, Eq. 9-10).

A score is the logit of "this is the target".
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_crossmod.losses.precision import full_precision

__all__ = ["domain_accuracy", "domain_confusion", "domain_discrimination"]


@full_precision
def domain_discrimination(source: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of a discriminator, one half source and one half target, whatever their numbers.

    Args:
        source: scores of source samples, any shape.
        target: scores of target samples, any shape.

    Returns:
        scalar; log 2 for scores of 0.

    Source: Vu et al. (AdvEnt), CVPR 2019; Liu et al. (MPSCL), JBHI 2022, Eq. 9.
    """
    return (functional.softplus(source).mean() + functional.softplus(-target).mean()) / 2


@full_precision
def domain_confusion(target: Tensor) -> Tensor:
    """Binary cross-entropy of target samples that want to pass as source.

    Args:
        target: scores of target samples, any shape.

    Returns:
        scalar; log 2 for scores of 0.

    Source: Vu et al. (AdvEnt), CVPR 2019; Liu et al. (MPSCL), JBHI 2022, Eq. 10.
    """
    return functional.softplus(target).mean()


@torch.no_grad()
def domain_accuracy(source: Tensor, target: Tensor) -> Tensor:
    """Share of scores on the right side of 0, one half source and one half target: 0.5 is a guess. Scalar."""
    return ((source < 0).float().mean() + (target > 0).float().mean()) / 2
