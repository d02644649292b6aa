"""Weighted self-information: where, and about which class, a prediction is uncertain (AdvEnt; MPSCL, Eq. 9)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nnunet_crossmod.losses.precision import full_precision

__all__ = ["self_information"]

TINY = 1e-30


@full_precision
def self_information(probabilities: Tensor) -> Tensor:
    """I = −p · log p / log k for every class; summed over the classes it is the normalised entropy, 0 … 1.

    Args:
        probabilities: (n, k, *s), k ≥ 2, each in 0 … 1.

    Returns:
        the same shape; 0 where p is 0 or 1, with a finite gradient.

    Raises:
        ValueError: fewer than two classes.

    Source: Vu et al. (AdvEnt), CVPR 2019; Liu et al. (MPSCL), JBHI 2022, Eq. 9. The authors' log2 p / log2 k is
    the same number.
    """
    if probabilities.ndim < 2 or probabilities.shape[1] < 2:
        raise ValueError(f"expected probabilities (n, k, *s) of at least two classes, got {tuple(probabilities.shape)}")
    return -probabilities * torch.log(probabilities + TINY) / math.log(probabilities.shape[1])
