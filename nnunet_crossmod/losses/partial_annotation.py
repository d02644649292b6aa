"""Learning from a case in which only some classes are annotated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["marginalise"]


def marginalise(logits: Tensor, labels: Tensor, annotated: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Merge the classes that are not annotated into the background, so that none of them is pushed away.

    The probability of the merged background is the sum of the probabilities of background and un-annotated classes:
    its logit is their log-sum-exp.

    Args:
        logits: (n, k, *s), class 0 the background.
        labels: (n, *s), integer; values of un-annotated classes count as background, negative ones are kept.
        annotated: foreground classes that are annotated, in any order.

    Returns:
        logits (n, 1 + len(annotated), *s) and labels (n, *s) numbered to match them: 0 the merged background, then
        the annotated classes in increasing order.

    Raises:
        ValueError: a class outside 1 … k − 1.

    Source: marginal loss of Shi et al., Medical Image Analysis 2021; AICL does not say how it treats partial labels.
    """
    classes = logits.shape[1]
    kept = sorted(set(annotated))
    if any(not 0 < c < classes for c in kept):
        raise ValueError(f"annotated classes must lie in 1 … {classes - 1}, got {kept}")
    if len(kept) == classes - 1:
        return logits, labels
    merged = [c for c in range(classes) if c not in kept]
    background = logits[:, merged].logsumexp(1, keepdim=True)
    numbering = torch.zeros(classes, dtype=labels.dtype, device=labels.device)
    for position, c in enumerate(kept, start=1):
        numbering[c] = position
    inside = (labels >= 0) & (labels < classes)
    renumbered = torch.where(inside, numbering[labels.clamp(0, classes - 1).long()], labels)
    return torch.cat((background, logits[:, kept]), 1), renumbered
