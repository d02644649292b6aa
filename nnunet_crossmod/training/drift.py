"""What a network makes of the target, in figures that need no label, and whether adaptation led it astray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nnunet_crossmod.training.collapse import adversary_warnings
from nnunet_crossmod.training.selection import certainty, tally

__all__ = ["SHARE", "VOLUME", "adaptation_warnings", "drift_warnings", "target_figures"]

SHARE = "share_"
VOLUME = "volume_"
CERTAINTY = "certainty"
EPOCHS = 3  # at the end of the warm-up, that are compared with
MOST_CHANGE = 2.0


@torch.no_grad()
def target_figures(logits: Tensor, structures: Mapping[str, int]) -> dict[str, Tensor]:
    """How certain the predictions of target samples are, and the share of the voxels that every structure takes.

    Args:
        logits: of target samples (n, k, *s).
        structures: name → label.

    Returns:
        ``certainty``, 1 − entropy as a share of log k, voxels weighted by their probability of foreground;
        ``volume_NAME`` of every structure. Nothing where there is no sample.
    """
    if len(logits) == 0:
        return {}
    probabilities = logits.float().softmax(1)
    sums = tally(probabilities, torch.ones(len(logits), dtype=torch.bool, device=logits.device))
    volumes = sums.volumes[1] / sums.volumes[1].sum()
    shares = {f"{VOLUME}{name}": volumes[label] for name, label in structures.items()}
    return {CERTAINTY: certainty(sums.doubt), **shares}


def drift_warnings(warm_up: Sequence[Mapping[str, Any]], now: Mapping[str, float]) -> list[str]:
    """Say which structures have grown or shrunk on the target since adaptation began.

    Args:
        warm_up: the epochs before, ``player/term`` → mean.
        now: the epoch that has just ended.

    Returns:
        one sentence for every structure whose share of the target's voxels has more than doubled or halved.
    """
    warnings = []
    for term, value in now.items():
        structure = term.partition(f"/{VOLUME}")[2]
        before = [row[term] for row in warm_up[-EPOCHS:] if term in row]
        if not structure or not before:
            continue
        mean = sum(before) / len(before)
        if not mean / MOST_CHANGE <= value <= mean * MOST_CHANGE:
            warnings.append(
                f"{structure} takes {100 * value:.2g} % of the target's voxels, {100 * mean:.2g} % before adaptation "
                "began: look at predictions of target scans, and lower adaptation_share or the terms' weights"
            )
    return warnings


def adaptation_warnings(rows: Sequence[Mapping[str, Any]], now: Mapping[str, float]) -> list[str]:
    """Once terms of adaptation pull: say where the target drifts, and which adversary is no match.

    Args:
        rows: the epochs before, ``player/term`` → mean.
        now: the epoch that has just ended.
    """
    if not _adapts(now):
        return []
    return [*drift_warnings([row for row in rows if not _adapts(row)], now), *adversary_warnings(now)]


def _adapts(row: Mapping[str, Any]) -> bool:
    return any(f"/{SHARE}" in term for term in row)
