"""The terms of one player's objective."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Losses"]


class Losses:
    """Ordered, named, weighted loss terms.

    ``terms`` holds the unweighted values, for the log; :meth:`total` is what the player descends. Those in ``adapting``
    are about the target without its labels: the base decides when they join and how far they may pull
    (:mod:`.adaptation`), through their ``scales``. ``figures`` are logged beside the terms.
    """

    def __init__(self) -> None:
        self.terms: dict[str, Tensor] = {}
        self.weights: dict[str, float] = {}
        self.scales: dict[str, Tensor] = {}
        self.adapting: list[str] = []
        self.figures: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor, weight: float = 1.0) -> Losses:
        """Add a scalar term. A term of weight 0 is logged but costs no backward pass."""
        if name in self.terms:
            raise ValueError(f"loss term {name!r} was added twice")
        self.terms[name] = value
        self.weights[name] = weight
        return self

    def adapt(self, name: str, value: Tensor, weight: float = 1.0) -> Losses:
        """Add a term of adaptation."""
        self.adapting.append(name)
        return self.add(name, value, weight)

    def total(self) -> Tensor:
        """Weighted sum of the terms."""
        weighted = [self._weighted(name) for name, weight in self.weights.items() if weight != 0]
        if not weighted:
            raise ValueError(f"no loss term has a weight: {list(self.terms)}")
        return torch.stack(weighted).sum()

    def _weighted(self, name: str) -> Tensor:
        value = self.weights[name] * self.terms[name]
        return value * self.scales[name] if name in self.scales else value
