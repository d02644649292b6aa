"""The supervised loss: on annotated samples only, whatever of them is annotated, at every deep-supervision level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from monai.losses import DiceFocalLoss, DiceLoss
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss, get_tp_fp_fn_tn
from torch import Tensor
from torch.nn import functional

from nnunet_crossmod.data.batch import CrossModalBatch
from nnunet_crossmod.losses import marginalise
from nnunet_crossmod.losses.precision import full_precision

__all__ = [
    "Criterion",
    "SegmentationLoss",
    "annotated_counts",
    "build_criterion",
    "deep_supervision_weights",
    "dice_ce",
    "dice_focal",
    "dice_weighted_ce",
    "supervised_loss",
]

SegmentationLoss = Literal["dice_ce", "dice_focal", "dice_weighted_ce"]
Criterion = Callable[[Tensor, Tensor], Tensor]


def build_criterion(name: SegmentationLoss, batch_dice: bool, ddp: bool, ignore_label: int | None) -> Criterion:
    """The supervised loss of that name; ``batch_dice`` and ``ddp`` are nnU-Net's, for its own loss."""
    if name == "dice_ce":
        return dice_ce(batch_dice, ddp, ignore_label)
    return {"dice_focal": dice_focal, "dice_weighted_ce": dice_weighted_ce}[name](ignore_label)


def dice_ce(batch_dice: bool, ddp: bool, ignore_label: int | None) -> Criterion:
    """nnU-Net's own Dice and cross-entropy."""
    criterion: Criterion = DC_and_CE_loss(
        {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": ddp},
        {},
        weight_ce=1,
        weight_dice=1,
        ignore_label=ignore_label,
        dice_class=MemoryEfficientSoftDiceLoss,
    )
    return criterion


def dice_focal(ignore_label: int | None) -> Criterion:
    """MONAI's ``DiceFocalLoss``: softmax Dice with squared denominator, mean over samples and classes, and focal loss
    with γ = 2.

    MONAI's Dice-focal takes the *per-class sigmoid* focal loss, which is the variant of the code AICL builds on.
    Voxels of the ignore label count as background predicted for certain: they carry no gradient.
    """
    monai = DiceFocalLoss(softmax=True, to_onehot_y=True, squared_pred=True, smooth_nr=0.0, smooth_dr=1e-6, gamma=2.0)

    def criterion(logits: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = monai(*_certain_where_ignored(logits, labels, ignore_label))
        return loss

    return criterion


def dice_weighted_ce(ignore_label: int | None) -> Criterion:
    """MONAI's ``DiceLoss`` over all classes, with squared denominator, and cross-entropy in which a class weighs
    w_c = 1 − n_c / N for n_c of the N voxels of the batch, divided by the sum of the voxels' weights.

    Voxels of the ignore label count for the Dice as background predicted for certain, for the cross-entropy not at all.
    Where all voxels are of one class, the cross-entropy is 0.

    Source: Liu et al. (MPSCL), JBHI 2022.
    """
    monai = DiceLoss(softmax=True, to_onehot_y=True, squared_pred=True, smooth_nr=0.0, smooth_dr=1e-5)

    def criterion(logits: Tensor, labels: Tensor) -> Tensor:
        values = torch.arange(logits.shape[1], device=logits.device)
        counts = (labels.flatten()[:, None] == values).sum(0)
        weights = 1 - counts / counts.sum().clamp(min=1)
        index = labels.long().clamp(0, len(values) - 1)
        weight = weights[index] * ((labels >= 0) & (labels < len(values)))
        cross_entropy = -logits.log_softmax(1).gather(1, index)
        dice: Tensor = monai(*_certain_where_ignored(logits, labels, ignore_label))
        return dice + (weight * cross_entropy).sum() / weight.sum().clamp(min=1e-5)

    return criterion


def _certain_where_ignored(logits: Tensor, labels: Tensor, ignore_label: int | None) -> tuple[Tensor, Tensor]:
    """Make background, predicted for certain, of the voxels of the ignore label."""
    if ignore_label is None:
        return logits, labels
    ignored = labels == ignore_label
    certain = torch.full((1, logits.shape[1], *[1] * (logits.ndim - 2)), -20.0, device=logits.device)
    certain[:, 0] = 20.0
    return torch.where(ignored, certain, logits), labels.masked_fill(ignored, 0)


def deep_supervision_weights(levels: int) -> list[float]:
    """nnU-Net's weights: halved from level to level, next to nothing for the lowest, together 1.

    Not nothing, so that its layer gets a gradient: DistributedDataParallel insists.
    """
    weights = np.array([1 / 2**level for level in range(levels)])
    if levels > 1:
        weights[-1] = 1e-6
    return [float(weight) for weight in weights / weights.sum()]


@full_precision
def _level_loss(criterion: Criterion, logits: Tensor, labels: Tensor, annotated: Sequence[int]) -> Tensor:
    merged, renumbered = marginalise(logits, labels, annotated)
    return criterion(merged, renumbered[:, None])


def supervised_loss(criterion: Criterion, logits: Sequence[Tensor], batch: CrossModalBatch) -> Tensor:
    """Mean over the annotated samples; a class that a case does not annotate is merged into its background.

    Args:
        criterion: logits (n, k, *s), labels (n, 1, *s) → scalar.
        logits: (n, k, *s_i) of every deep-supervision level, for all samples of ``batch``.
        batch: the samples.

    Returns:
        scalar; 0, with a gradient path, where no sample is annotated.
    """
    groups = batch.annotations
    if not groups:
        return torch.stack([level[:0].float().sum() for level in logits]).sum()
    samples = [sum(set(case.visible) == set(classes) for case in batch.cases) for classes, _ in groups]
    total = logits[0].new_zeros((), dtype=torch.float32)
    for level, weight in enumerate(deep_supervision_weights(len(logits))):
        for (classes, chosen), count in zip(groups, samples, strict=True):
            loss = _level_loss(criterion, logits[level][chosen], batch.labels[level][chosen], classes)
            total = total + weight * count / sum(samples) * loss
    return total


def annotated_counts(logits: Tensor, batch: CrossModalBatch, ignored: int) -> Tensor:
    """True positive, false positive and false negative voxels, every case counted on the classes that it annotates.

    Args:
        logits: (n, k, *s).
        batch: of the same n samples.
        ignored: label of voxels that do not count.

    Returns:
        (3, k − 1), the background left out.
    """
    counts = torch.zeros(3, logits.shape[1], device=logits.device)
    for classes, chosen in batch.annotations:
        merged, labels = marginalise(logits[chosen], batch.labels[0][chosen], classes)
        tp, fp, fn, _ = get_tp_fp_fn_tn(
            functional.one_hot(merged.argmax(1), merged.shape[1]).movedim(-1, 1),
            labels[:, None].clamp(min=0, max=merged.shape[1] - 1),
            axes=[0, *range(2, merged.ndim)],
            mask=(labels[:, None] >= 0) & (labels[:, None] != ignored),
        )
        counts[:, [0, *classes]] += torch.stack((tp, fp, fn)).float()
    return counts[:, 1:]
