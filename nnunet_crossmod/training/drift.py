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
SOURCE_VOLUME = "source_volume_"
LEAST = 1e-6  # share of the voxels
CERTAINTY = "certainty"
EPOCHS = 3  # at the end of the warm-up, that are compared with
MOST_CHANGE = 2.0
NOTICEABLE = 0.01  # share of the segmentation's gradient from which on a term counts as pulling


@torch.no_grad()
def target_figures(logits: Tensor, is_target: Sequence[bool], structures: Mapping[str, int]) -> dict[str, Tensor]:
    """How certain the predictions of target samples are, and the share of the voxels that every structure takes.

    Args:
        logits: (n, k, *s).
        is_target: of every sample; the others are source.
        structures: name → label.

    Returns:
        ``certainty``, 1 − entropy as a share of log k, voxels weighted by their probability of foreground;
        ``volume_NAME`` and ``source_volume_NAME`` of every structure. Nothing where either role has no sample.
    """
    if all(is_target) or not any(is_target):
        return {}
    sums = tally(logits.float().softmax(1), torch.tensor(is_target).to(logits.device, non_blocking=True))
    figures = {CERTAINTY: certainty(sums.doubt)}
    for prefix, volumes in zip((SOURCE_VOLUME, VOLUME), sums.volumes / sums.volumes.sum(1, keepdim=True), strict=True):
        figures |= {f"{prefix}{name}": volumes[label] for name, label in structures.items()}
    return figures


def drift_warnings(warm_up: Sequence[Mapping[str, Any]], now: Mapping[str, float]) -> list[str]:
    """Say which structures have grown or shrunk on the target since adaptation began, against the source.

    A network that learns finds less and less of a structure in both, until it finds what is there; so a structure is
    measured by its share of the source's voxels.

    Args:
        warm_up: the epochs before, ``player/term`` → mean.
        now: the epoch that has just ended.

    Returns:
        one sentence for every structure that has more than doubled or halved in that measure.
    """
    warnings = []
    for term, value in now.items():
        structure = term.partition(f"/{VOLUME}")[2]
        if not structure:
            continue
        on_source = term.replace(f"/{VOLUME}", f"/{SOURCE_VOLUME}")
        before = [row[term] / max(row[on_source], LEAST) for row in warm_up[-EPOCHS:] if on_source in row]
        if not before or on_source not in now:
            continue
        mean, ratio = sum(before) / len(before), value / max(now[on_source], LEAST)
        if not mean / MOST_CHANGE <= ratio <= mean * MOST_CHANGE:
            warnings.append(
                f"{structure} takes {100 * value:.2g} % of the target's voxels, {ratio:.2g} times its share of the "
                f"source's, {mean:.2g} times before adaptation began: look at predictions of target scans, and lower "
                "adaptation_share or the terms' weights"
            )
    return warnings


def adaptation_warnings(rows: Sequence[Mapping[str, Any]], now: Mapping[str, float]) -> list[str]:
    """Once terms of adaptation pull: say where the target drifts, and which adversary is no match.

    Args:
        rows: the epochs before, ``player/term`` → mean.
        now: the epoch that has just ended.
    """
    warnings = adversary_warnings(now) if _strongest_pull(now) > 0 else []
    if _strongest_pull(now) >= NOTICEABLE:
        warnings = drift_warnings([row for row in rows if _strongest_pull(row) < NOTICEABLE], now) + warnings
    return warnings


def _strongest_pull(row: Mapping[str, Any]) -> float:
    """Of the terms of adaptation, as a share of the segmentation's gradient; 0 where there is none."""
    return max((float(value) for term, value in row.items() if f"/{SHARE}" in term), default=0.0)
