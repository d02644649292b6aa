"""Inter-organ contrast of feature patches (AICL, Eq. 4)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_crossmod.losses.precision import full_precision
from nnunet_crossmod.losses.processes import gathered

__all__ = ["feature_patch_contrast"]


@full_precision
def feature_patch_contrast(
    patches: Tensor,
    organs: Tensor,
    modality: Tensor,
    temperature: float = 0.07,
    mode: Literal["all", "literal"] = "all",
) -> Tensor:
    """Patches of one organ are alike, whatever their modality, and unlike the patches of every other organ.

    For an anchor i and each of its positives p, with s the cosine similarity,

    .. math::
        \\ell_{ip} = -\\log \\frac{e^{s_{ip}/\\tau}}
            {e^{s_{ip}/\\tau} + \\sum_{n:\\,o_n \\neq o_i} e^{s_{in}/\\tau}}

    averaged over the positives of an anchor, then over the anchors that have one. Other positives are not in the
    denominator.

    Args:
        patches: embeddings (p, d), of any length.
        organs: organ of each patch (p,), integer; rows below 0 are left out.
        modality: modality of each patch (p,), integer.
        temperature: τ.
        mode: ``"all"``: every patch is an anchor, every other patch of its organ a positive, every patch of another
            organ a negative. ``"literal"``: anchors from modality 0, positives and negatives from modality 1.

    In a distributed training the patches of all processes are contrasted.

    Returns:
        scalar; exactly 0, with a gradient path, where no anchor has a positive.

    Raises:
        ValueError: shapes that do not fit, or an unknown mode.

    Source: AICL, MIDL 2026 submission, Eq. 4 (no released code). "Negatives irrespective of modality" is ``"all"``; the
    equation's indices are ``"literal"``. τ is not given in the paper; 0.07 is this project's default.
    """
    if patches.ndim != 2 or organs.shape != patches.shape[:1] or modality.shape != patches.shape[:1]:
        raise ValueError(
            f"expected patches (p, d), organs (p,) and modality (p,), got {tuple(patches.shape)}, "
            f"{tuple(organs.shape)} and {tuple(modality.shape)}"
        )
    if mode not in ("all", "literal"):
        raise ValueError(f'mode must be "all" or "literal", got {mode!r}')
    patches, organs, modality = gathered(patches, organs, modality)
    if len(patches) == 0:
        return patches.sum()
    embedding = functional.normalize(patches, dim=1)
    similarity = embedding @ embedding.T / temperature
    present = organs >= 0
    comparable = present[:, None] & present[None, :]
    if mode == "literal":
        comparable = comparable & (modality == 0)[:, None] & (modality == 1)[None, :]
    same = organs[:, None] == organs[None, :]
    others = ~torch.eye(len(organs), dtype=torch.bool, device=organs.device)
    positive, negative = comparable & same & others, comparable & ~same
    # a finite floor keeps the gradient of logsumexp defined for anchors without any negative
    floor = torch.finfo(similarity.dtype).min / 2
    negatives = similarity.masked_fill(~negative, floor).logsumexp(1, keepdim=True)
    loss = functional.softplus(negatives - similarity) * positive
    count = positive.sum(1)
    per_anchor = loss.sum(1) / count.clamp(min=1)
    return per_anchor.sum() / (count > 0).sum().clamp(min=1)
