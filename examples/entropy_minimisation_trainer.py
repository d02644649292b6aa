"""A complete method in one file: be certain about the target (entropy minimisation, Grandvalet and Bengio, 2004)."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from nnunet_crossmod.data import CrossModalBatch
from nnunet_crossmod.losses.precision import full_precision
from nnunet_crossmod.training import CrossModalTrainer, Losses
from nnunet_crossmod.training.hyperparameters import Share, Weight


@full_precision
def entropy(logits: Tensor) -> Tensor:
    """Mean entropy of the predictions (n, k, *s), 0 … 1."""
    log_probability = logits.log_softmax(1)
    return -(log_probability.exp() * log_probability).sum(1).mean() / math.log(logits.shape[1])


class Outputs(NamedTuple):
    """``logits`` of every deep-supervision level, full resolution first."""

    logits: list[Tensor]


class EntropyMinimisationTrainer(CrossModalTrainer):
    """l = l_sup + entropy_weight · H(target), the second term after ``warm_up`` of the training."""

    entropy_weight: Weight = 0.01
    warm_up: Share = 0.3

    def forward(self, batch: CrossModalBatch) -> Outputs:
        return Outputs(self.network(batch.images, batch.modality, features=True).logits)

    def objective(self, batch: CrossModalBatch, outputs: Outputs) -> Losses:
        losses = Losses().add("sup", self.supervised_loss(outputs.logits, batch))
        on_target = entropy(outputs.logits[0][batch.target_rows])
        return losses.adapt("entropy", on_target, self.entropy_weight * self.joined(self.warm_up))
