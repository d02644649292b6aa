"""The loss terms of an epoch: brought to the host once, averaged and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nnunet_crossmod.errors import CrossmodError

__all__ = ["LOST", "check_finite", "lost_gradients", "mean_terms"]

LOST = "lost"
"""Share of an epoch's steps in which a player's gradient was not finite; logged where there were any."""
MOST_LOST = 0.5


def mean_terms(steps: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float], list[float]]:
    """Mean of every term and figure over an epoch, and the losses of its steps.

    A single step that overflowed, and that mixed precision skipped, does not count.

    Args:
        steps: what ``train_step`` returned, ``terms``, ``figures`` and ``loss``, on the device.
    """
    logged = [step["terms"] | step["figures"] for step in steps]
    names = list(dict.fromkeys(name for step in logged for name in step))
    columns = [torch.stack([step[name] for step in logged if name in step]) for name in names]
    columns.append(torch.stack([step["loss"] for step in steps]))
    on_host = torch.cat([column.float() for column in columns]).cpu().double()
    *values, losses = torch.split(on_host, [len(column) for column in columns])
    means = {name: _mean(column) for name, column in zip(names, values, strict=True)}
    told = {name: mean for name, mean in means.items() if mean or not name.endswith(f"/{LOST}")}
    return told, losses.tolist()


def lost_gradients(means: Mapping[str, float]) -> list[str]:
    """Name the players that hardly learn: their gradient was not finite in more than half of an epoch's steps."""
    return [
        f"the gradient of the {name.partition('/')[0]} was not finite in {100 * share:.0f} % of the steps, "
        "which were left out: lower its learning rate or its weights"
        for name, share in means.items()
        if name.endswith(f"/{LOST}") and share > MOST_LOST
    ]


def check_finite(means: Mapping[str, float], epoch: int, checkpoints: str) -> None:
    """Raise :class:`CrossmodError` that names the first term, ``player/term``, that is NaN or infinite."""
    for name, mean in means.items():
        if not math.isfinite(mean):
            player, term = name.split("/", 1)
            raise CrossmodError(
                f"term {term!r} of player {player!r} is {mean} in epoch {epoch}; the checkpoints in {checkpoints} are "
                "from before: lower initial_lr or the term's weight (crossmod configure --overwrite the same plans), "
                "then continue with --c"
            )


def _mean(values: Tensor) -> float:
    return float(values.mean() if not torch.isfinite(values[-1]) else values[torch.isfinite(values)].mean())
