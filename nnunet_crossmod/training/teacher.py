"""A teacher on the target: the moving average of the network labels target scans for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nnunet_crossmod.losses.processes import summed

__all__ = ["PseudoLabels", "Teacher", "ramp"]

BINS = 200
LEAST_VOXELS = 50  # of a class in a batch, below which its quantile says nothing
MOMENTUM_OF_CONFIDENCE = 0.9


class PseudoLabels(NamedTuple):
    """``labels`` (n, *s), 0 … k − 1; ``trusted`` (n, *s), bool: where the teacher is sure enough."""

    labels: Tensor
    trusted: Tensor


def ramp(progress: float, start: float, length: float) -> float:
    """Weight of a term that joins at ``start`` and is at full strength ``length`` later, all shares of the training."""
    if progress < start:
        return 0.0
    return min(1.0, (progress - start) / length) if length > 0 else 1.0


class Teacher(nn.Module):
    """The exponential moving average of a network, and how sure it is of every class.

    A voxel is trusted where the teacher's confidence is among the highest of the class that it predicts there, or
    exceeds ``ceiling``: a small or difficult structure keeps as large a share of its voxels as an easy one.

    Args:
        network: the student, as it begins; it is copied.
        num_classes: k.
        momentum: share of the old weights in the average; smaller in the first steps.
        ceiling: confidence that is always enough.
        trust: share of every class's voxels that are trusted, the surest ones, whatever their confidence.

    Source: Tarvainen and Valpola (mean teacher), NeurIPS 2017; class-wise thresholds after Zou et al. (class-balanced
    self-training), ECCV 2018, as running quantiles of batches instead of those of the whole data set.
    """

    confidence: Tensor

    def __init__(
        self, network: nn.Module, num_classes: int, momentum: float = 0.99, ceiling: float = 0.95, trust: float = 0.75
    ) -> None:
        super().__init__()
        self.network = deepcopy(network).requires_grad_(False).eval()
        self.momentum = momentum
        self.ceiling = ceiling
        self.trust = trust
        self.register_buffer("confidence", torch.full((num_classes,), 0.9))
        self.steps = 0

    def get_extra_state(self) -> dict[str, int]:
        """What a checkpoint holds beside weights and confidence."""
        return {"steps": self.steps}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Restore it from :meth:`get_extra_state`."""
        self.steps = state["steps"]

    def train(self, mode: bool = True) -> Teacher:
        """A teacher is always in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def follow(self, network: nn.Module) -> None:
        """Move the average towards the student, after its step."""
        keep = min(self.momentum, (self.steps + 1) / (self.steps + 10))
        for mine, theirs in zip(self.network.parameters(), network.parameters(), strict=True):
            mine.lerp_(theirs, 1 - keep)
        for buffer, current in zip(self.network.buffers(), network.buffers(), strict=True):
            buffer.copy_(current)
        self.steps += 1

    @torch.no_grad()
    def label(self, images: Tensor, modality: Tensor) -> PseudoLabels:
        """Label images (n, c, *s) of the given modalities (n,), and keep account of the confidence.

        Args:
            images: as they are, without intensity augmentation.
            modality: index of every sample's modality.
        """
        logits = self.network(images, modality, features=True).logits[0]
        confidence, labels = logits.float().softmax(1).max(1)
        self._account(confidence, labels)
        return PseudoLabels(labels, confidence >= self.confidence.clamp(max=self.ceiling)[labels])

    def _account(self, confidence: Tensor, labels: Tensor) -> None:
        """The confidence that ``trust`` of a predicted class's voxels exceed, by histogram: a sort by class would wait
        for the device."""
        classes = len(self.confidence)
        position = labels.flatten() * BINS + (confidence.flatten() * BINS).long().clamp(max=BINS - 1)
        counts = torch.zeros(classes * BINS, device=position.device)
        counts.scatter_add_(0, position, torch.ones_like(position, dtype=counts.dtype))
        histogram = summed(counts)[0].view(classes, BINS)
        number = histogram.sum(1)
        bins_below = (histogram.cumsum(1) < (1 - self.trust) * number[:, None]).sum(1)
        quantile = (bins_below + 0.5) / BINS
        moved = torch.lerp(quantile, self.confidence, MOMENTUM_OF_CONFIDENCE)
        self.confidence.copy_(torch.where(number > LEAST_VOXELS, moved, self.confidence))

    @contextmanager
    def standing_in(self, network: nn.Module) -> Iterator[None]:
        """The student's modules carry the teacher's weights as long as this lasts: the teacher is what predicts."""
        self._exchange(network)
        try:
            yield
        finally:
            self._exchange(network)

    def _exchange(self, network: nn.Module) -> None:
        for mine, theirs in zip(
            (*self.network.parameters(), *self.network.buffers()),
            (*network.parameters(), *network.buffers()),
            strict=True,
        ):
            mine.data, theirs.data = theirs.data, mine.data
