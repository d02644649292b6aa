"""The terms of one player's objective."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Losses"]


class Losses:
    """Ordered, named, weighted loss terms.

    ``terms`` holds the unweighted values, for the log; :meth:`total` is what the player descends.
    """

    def __init__(self) -> None:
        self.terms: dict[str, Tensor] = {}
        self.weights: dict[str, float] = {}

    def add(self, name: str, value: Tensor, weight: float = 1.0) -> Losses:
        """Add a scalar term. A term of weight 0 is logged but costs no backward pass."""
        if name in self.terms:
            raise ValueError(f"loss term {name!r} was added twice")
        self.terms[name] = value
        self.weights[name] = weight
        return self

    def total(self) -> Tensor:
        """Weighted sum of the terms."""
        weighted = [self.weights[name] * value for name, value in self.terms.items() if self.weights[name] != 0]
        if not weighted:
            raise ValueError(f"no loss term has a weight: {list(self.terms)}")
        return torch.stack(weighted).sum()
