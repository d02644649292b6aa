"""A method of one's own is one file: a mean teacher written on the public base alone, nothing shared touched."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from support import started
from torch import Tensor, nn
from torch.nn import functional

from nnunet_crossmod.data import CrossModalBatch
from nnunet_crossmod.training import CrossModalTrainer, Losses
from nnunet_crossmod.training.hyperparameters import Momentum, Weight

MakeTrainer = Callable[..., Any]


class Outputs(NamedTuple):
    logits: list[Tensor]
    pseudo_labels: Tensor


class OwnMeanTeacherTrainer(CrossModalTrainer):
    """A copy of the network follows by moving average and labels the target."""

    consistency_weight: Weight = 1.0
    average_momentum: Momentum = 0.9

    def build_heads(self) -> nn.ModuleDict:
        return nn.ModuleDict({"average": deepcopy(self.bare_network).requires_grad_(False)})

    def forward(self, batch: CrossModalBatch) -> Outputs:
        target = batch.target
        with torch.no_grad():
            labels = self.heads["average"](target.images, target.modality, features=True).logits[0].argmax(1)
        return Outputs(self.network(batch.images, batch.modality, features=True).logits, labels)

    def objective(self, batch: CrossModalBatch, outputs: Outputs) -> Losses:
        losses = Losses().add("sup", self.supervised_loss(outputs.logits, batch))
        consistency = functional.cross_entropy(outputs.logits[0][batch.target_rows].float(), outputs.pseudo_labels)
        return losses.add("consistency", consistency, self.consistency_weight)

    def train_step(self, loaded: dict[str, Any]) -> dict[str, Any]:
        terms = super().train_step(loaded)
        with torch.no_grad():
            pairs = zip(self.heads["average"].parameters(), self.bare_network.parameters(), strict=True)
            for average, parameter in pairs:
                average.lerp_(parameter, 1 - self.average_momentum)
        return terms


def test_it_trains_follows_and_is_continued(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = started(make_trainer(OwnMeanTeacherTrainer))
    before = next(trainer.heads["average"].parameters()).clone()
    terms = trainer.train_step(next(trainer.dataloader_train))["terms"]
    assert set(terms) == {"segmenter/sup", "segmenter/consistency"}
    assert all(torch.isfinite(value) for value in terms.values())
    average = next(trainer.heads["average"].parameters())
    expected = 0.9 * before + 0.1 * next(trainer.bare_network.parameters())
    torch.testing.assert_close(average, expected)
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    restored = make_trainer(OwnMeanTeacherTrainer)
    restored.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    for mine, theirs in zip(trainer.heads.parameters(), restored.heads.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    weights = torch.load(tmp_path / "checkpoint.pth", weights_only=False)["network_weights"]
    assert set(weights) == set(trainer.bare_network.state_dict())
