"""Learning rates over the epochs."""

from __future__ import annotations

from typing import Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

__all__ = ["LatePolyLR"]


class LatePolyLR(PolyLRScheduler):  # type: ignore[misc]
    """nnU-Net's polynomial schedule for a player that joins later: full rate at its first epoch, and before it.

    Args:
        optimizer: whose rate it sets.
        initial_lr: the full rate.
        epochs: of the whole training.
        exponent: 0 keeps the rate.
        first_epoch: from which the rate falls.
        warm_up: epochs from then on in which the rate rises, linearly, before it is the schedule's.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        initial_lr: float,
        epochs: int,
        exponent: float = 0.9,
        *,
        first_epoch: int = 0,
        warm_up: int = 0,
    ) -> None:
        self.first_epoch = first_epoch
        self.warm_up = warm_up
        self.epochs = epochs
        super().__init__(optimizer, initial_lr, epochs, exponent)

    def step(self, current_step: Any = None) -> None:
        """Set the rate of an epoch, counted from the beginning of the training."""
        self.max_steps = max(1, self.epochs - self.first_epoch)
        counted = current_step is None or current_step == -1
        epoch = self.ctr if counted else max(0, current_step - self.first_epoch)
        super().step(current_step if counted else epoch)
        risen = min(1.0, (epoch + 1) / (self.warm_up + 1))
        for group in self.optimizer.param_groups:
            group["lr"] *= risen
