"""A player: modules that share an optimiser and descend one objective."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch import distributed as dist

from nnunet_crossmod.data.batch import CrossModalBatch
from nnunet_crossmod.losses.processes import alone
from nnunet_crossmod.training.losses import Losses

__all__ = ["Player", "only_trainable"]


class Scheduler(Protocol):
    """As nnU-Net's: it is stepped with the epoch."""

    first_epoch: int

    def step(self, epoch: int) -> None:
        """Set the learning rate of the epoch."""


@dataclass
class Player:
    """One of the networks that learn in turn.

    Args:
        name: how the log and the checkpoint call it.
        modules: what it trains.
        objective: batch and outputs → its loss terms.
        optimizer: over the parameters of ``modules``, or over those of them that it trains.
        scheduler: sets the learning rate at the start of an epoch; ``None`` keeps it constant.
        forward: batch and the outputs of the players before it → the outputs that its objective and the players after
            it see; by default they stay as they are.
        first_epoch: in which it begins to play.
        last_epoch: after which it plays no more; ``None`` is the end of the training.
        clip: largest gradient norm, as in nnU-Net.
    """

    name: str
    modules: Sequence[nn.Module]
    objective: Callable[[CrossModalBatch, Any], Losses]
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler | None = None
    forward: Callable[[CrossModalBatch, Any], Any] = lambda batch, outputs: outputs
    first_epoch: int = 0
    last_epoch: int | None = None
    clip: float = 12.0

    def plays(self, epoch: int) -> bool:
        """Whether it steps in that epoch."""
        return self.first_epoch <= epoch and (self.last_epoch is None or epoch <= self.last_epoch)

    def joins(self, epoch: int) -> Player:
        """Let it begin in that epoch; its learning rate falls from there on."""
        self.first_epoch = epoch
        if self.scheduler is not None:
            self.scheduler.first_epoch = epoch
        return self

    def parameters(self) -> list[nn.Parameter]:
        """What it trains: the parameters that its optimiser holds."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def step(self, total: Tensor, scaler: Any | None) -> Tensor:
        """Descend: the only place where an optimiser steps.

        A gradient that is not finite counts as none; a gradient scaler sees to that by itself.

        Args:
            total: scalar.
            scaler: gradient scaler on CUDA, otherwise ``None``; the caller updates it once per iteration.

        Returns:
            whether the gradient was not finite; scalar, on the device.
        """
        self.optimizer.zero_grad(set_to_none=True)
        (total if scaler is None else scaler.scale(total)).backward()
        self._average_gradients()
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        length = torch.nn.utils.clip_grad_norm_(self.parameters(), self.clip)
        lost = ~length.isfinite()
        if scaler is None:
            for parameter in self.parameters():
                if parameter.grad is not None:
                    parameter.grad.masked_fill_(lost, 0.0)
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
        return lost

    def begin_alike(self) -> None:
        """Give all processes the weights of the first; DistributedDataParallel does so for what it wraps."""
        if alone():
            return
        for module in self.modules:
            if not isinstance(module, nn.parallel.DistributedDataParallel):
                for tensor in (*module.parameters(), *module.buffers()):
                    dist.broadcast(tensor.detach(), src=0)

    def _average_gradients(self) -> None:
        """Across processes; a network wrapped in DistributedDataParallel has done so by itself."""
        if alone():
            return
        for module in self.modules:
            if isinstance(module, nn.parallel.DistributedDataParallel):
                continue
            for parameter in module.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= dist.get_world_size()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {
            "modules": [module.state_dict() for module in self.modules],
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it from :meth:`state_dict`."""
        for module, saved in zip(self.modules, state["modules"], strict=True):
            module.load_state_dict(saved)
        self.optimizer.load_state_dict(state["optimizer"])


@contextmanager
def only_trainable(player: Player, players: Iterable[Player]) -> Iterator[None]:
    """Freeze the parameters of all other players, so that an objective that runs through them costs no weight
    gradients there. What a player shares with others is its own; what it owns of a network that is frozen otherwise is
    trainable as long as this lasts."""
    own = {id(parameter) for parameter in player.parameters()}
    before = [(p, p.requires_grad) for one in (player, *players) for p in one.parameters()]
    for parameter, _ in before:
        parameter.requires_grad_(id(parameter) in own)
    try:
        yield
    finally:
        for parameter, trainable in before:
            parameter.requires_grad_(trainable)
