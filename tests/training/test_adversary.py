"""A trainer with a head, a buffer and an opponent: what a method may add is trained, kept and continued."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from support import started
from torch import Tensor, nn
from torch.nn import functional

from nnunet_crossmod.data import CrossModalBatch
from nnunet_crossmod.training import CrossModalTrainer, Losses, Player
from nnunet_crossmod.training.hyperparameters import Weight
from nnunet_crossmod.training.schedule import LatePolyLR


class Outputs(NamedTuple):
    logits: list[Tensor]
    bottleneck: Tensor


class Head(nn.Module):
    """A projection and a running mean of what it saw."""

    mean: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, 3)
        self.register_buffer("mean", torch.zeros(3))


class AdversarialTrainer(CrossModalTrainer):
    """Fools a critic that tells the modalities apart."""

    fool_weight: Weight = 0.1

    def build_heads(self) -> nn.ModuleDict:
        return nn.ModuleDict({"head": Head(self.bare_network.encoder.output_channels[-1])})

    def build_players(self, segmenter: Player) -> list[Player]:
        self.critic = nn.Linear(3, 1)
        return [segmenter, self.opponent("critic", self.critic, self.critic_objective, lr=1e-2)]

    def forward(self, batch: CrossModalBatch) -> Outputs:
        maps = self.network(batch.images, batch.modality, features=True)
        return Outputs(maps.logits, self.heads["head"].project(maps.encoder[-1].flatten(2).mean(2)))

    def objective(self, batch: CrossModalBatch, outputs: Outputs) -> Losses:
        fooled = functional.binary_cross_entropy_with_logits(
            self.critic(outputs.bottleneck)[:, 0], 1 - batch.modality.float()
        )
        self.heads["head"].mean.lerp_(outputs.bottleneck.detach().mean(0), 0.5)
        return Losses().add("sup", self.supervised_loss(outputs.logits, batch)).add("fool", fooled, self.fool_weight)

    def critic_objective(self, batch: CrossModalBatch, outputs: Outputs) -> Losses:
        told = self.critic(outputs.bottleneck.detach())[:, 0]
        return Losses().add("bce", functional.binary_cross_entropy_with_logits(told, batch.modality.float()))


MakeTrainer = Callable[..., Any]


def test_every_player_moves_once_and_terms_bear_its_name(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer(AdversarialTrainer))
    _, critic = trainer.players
    before = [p.detach().clone() for player in trainer.players for p in player.parameters()]
    output = trainer.train_step(next(trainer.dataloader_train))
    assert list(output["terms"]) == ["segmenter/sup", "segmenter/fool", "critic/bce"]
    after = [p for player in trainer.players for p in player.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(before[-2:], after[-2:], strict=True))
    assert trainer.heads["head"].project.weight.grad is not None
    assert trainer.heads["head"].mean.any()
    assert all(p.requires_grad for p in critic.parameters())


def test_the_critic_gets_no_gradient_from_being_fooled(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer(AdversarialTrainer))
    critic = trainer.players[1]
    seen: list[Tensor | None] = []
    step = critic.step

    def spy(total: Tensor, scaler: Any) -> Tensor:
        seen.append(critic.modules[0].weight.grad)
        return step(total, scaler)

    critic.step = spy
    trainer.train_step(next(trainer.dataloader_train))
    assert seen == [None]


def test_head_buffer_opponent_and_its_optimiser_are_continued(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = started(make_trainer(AdversarialTrainer))
    batches = [next(trainer.dataloader_train) for _ in range(3)]
    outputs = [trainer.train_step(batch) for batch in batches[:2]]
    trainer.on_train_epoch_end(outputs)
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    trainer.current_epoch = 1
    restored = make_trainer(AdversarialTrainer)
    restored.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert torch.equal(restored.heads["head"].mean, trainer.heads["head"].mean)
    started(restored)
    trainer.on_train_epoch_start()
    ends = []
    for one in (trainer, restored):
        torch.manual_seed(7)  # of the intensities, which are augmented in the step
        ends.append(one.train_step(batches[2]))
    for name, value in ends[0]["terms"].items():
        assert torch.equal(value, ends[1]["terms"][name]), name
    for mine, theirs in zip(trainer.players, restored.players, strict=True):
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)


def test_inference_weights_hold_neither_head_nor_critic(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = started(make_trainer(AdversarialTrainer))
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    checkpoint = torch.load(tmp_path / "checkpoint.pth", weights_only=False)
    assert set(checkpoint["network_weights"]) == set(trainer.bare_network.state_dict())
    assert not any("critic" in key or "head" in key for key in checkpoint["network_weights"])


@pytest.mark.parametrize("constant", [True, False])
def test_opponents_follow_the_schedule_unless_constant(constant: bool, make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer(AdversarialTrainer))
    player = trainer.opponent("other", nn.Linear(1, 1), trainer.critic_objective, lr=1.0, constant=constant)
    trainer.players.append(player)
    trainer.current_epoch = 1
    trainer.on_train_epoch_start()
    assert (player.optimizer.param_groups[0]["lr"] == 1.0) == constant


class PhasedTrainer(AdversarialTrainer):
    """Trains the critic alone in the first epoch, and draws what it is shown."""

    def phase(self) -> str:
        return "critic alone" if self.current_epoch == 0 else "both"

    def before_epoch(self) -> None:
        assert not torch.is_grad_enabled()
        assert not self.network.training
        self.begun = self.current_epoch

    def build_players(self, segmenter: Player) -> list[Player]:
        segmenter, critic = super().build_players(segmenter)
        return [segmenter.joins(1), replace(critic, forward=lambda batch, outputs: outputs or self.forward(batch))]

    def draw(self, batch: CrossModalBatch, folder: Path) -> None:
        assert not torch.is_grad_enabled()
        (folder / f"images_{self.current_epoch}.txt").write_text(str(len(batch.images)))


def test_only_those_who_play_step_and_the_phase_is_logged(
    make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = started(make_trainer(PhasedTrainer))
    assert "phase: critic alone" in capsys.readouterr().out
    before = [p.detach().clone() for p in trainer.players[0].parameters()]
    output = trainer.train_step(next(trainer.dataloader_train))
    assert list(output["terms"]) == ["critic/bce"]
    assert torch.equal(output["loss"], output["terms"]["critic/bce"])
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.players[0].parameters(), strict=True))
    trainer.on_train_epoch_end([output])
    trainer.current_epoch = 1
    trainer.on_train_epoch_start()
    output = trainer.train_step(next(trainer.dataloader_train))
    assert "segmenter/sup" in output["terms"]
    trainer.on_train_epoch_end([output])
    rows = [json.loads(line) for line in (Path(trainer.output_folder) / "losses.jsonl").read_text().splitlines()]
    assert [row["phase"] for row in rows] == ["critic alone", "both"]


class RegeneratingTrainer(AdversarialTrainer):
    """Shows the critic what the network makes after its step, and looks at its epochs."""

    def build_players(self, segmenter: Player) -> list[Player]:
        segmenter, critic = super().build_players(segmenter)
        return [segmenter, replace(critic, forward=self.predicted_again)]

    def predicted_again(self, batch: CrossModalBatch, outputs: Outputs) -> Outputs:
        again = self.forward(batch)
        assert not torch.equal(again.logits[0], outputs.logits[0])
        assert not again.logits[0].requires_grad  # all but the critic are frozen while it plays
        return again

    def critic_objective(self, batch: CrossModalBatch, outputs: Outputs) -> Losses:
        with torch.no_grad():
            assert torch.equal(outputs.logits[0], self.forward(batch).logits[0])
        return super().critic_objective(batch, outputs)

    def validation_images(self, batch: CrossModalBatch) -> Tensor:
        self.shown = batch.images.clone()
        self.shown[:, -1] = 2
        return self.shown

    def review(self, means: Mapping[str, float]) -> None:
        self.print_to_log_file(f"reviewed {sorted(means)}")


def test_later_players_see_what_was_regenerated_and_epochs_are_reviewed(
    make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = started(make_trainer(RegeneratingTrainer))
    trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train))])
    said = capsys.readouterr().out
    assert "reviewed ['critic/bce', 'segmenter/certainty', 'segmenter/fool', " in said
    assert "'segmenter/sup'" in said
    network = trainer.network.forward
    given = []
    trainer.network.forward = lambda x: given.append(x) or network(x)
    trainer.validation_step(next(trainer.dataloader_val))
    assert given[0] is trainer.shown


@pytest.mark.parametrize(("schedule", "rates"), [("constant", [1e-3, 1e-3]), ("polynomial", [1e-3, 5.3589e-4])])
def test_the_segmenters_rate_follows_its_schedule_and_adam_its_betas(
    schedule: str, rates: list[float], make_trainer: MakeTrainer
) -> None:
    settings = {"optimizer_name": "adam", "initial_lr": 1e-3, "adam_betas": [0.5, 0.9], "lr_schedule": schedule}
    trainer = started(make_trainer(AdversarialTrainer, **settings))
    assert trainer.optimizer.param_groups[0]["betas"] == (0.5, 0.9)
    found = []
    for epoch in range(2):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        found.append(trainer.optimizer.param_groups[0]["lr"])
    assert found == pytest.approx(rates, rel=1e-3)


def test_what_an_epoch_needs_is_done_before_it(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(PhasedTrainer)
    trainer.current_epoch = 1
    started(trainer)
    assert trainer.begun == 1
    assert trainer.network.training
    assert all(module.training for player in trainer.players for module in player.modules)


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_the_walk_over_training_cases_is_the_same_every_time_and_costs_no_random_number(
    configuration: str, make_trainer: MakeTrainer
) -> None:
    trainer = started(make_trainer(PhasedTrainer, configuration))
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, second = (list(trainer.training_patches(lambda case: case.modality == "cine", 6)) for _ in range(2))
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()
    assert sum(len(batch.images) for batch in first) <= 6
    assert {case.name for batch in first for case in batch.cases} == {n for n in trainer.seen if "cine" in n}
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels[0], b.labels[0])
        assert list(a.images.shape[2:]) == list(trainer.configuration_manager.patch_size)
        assert a.images.shape[1] == 1
    classes = torch.cat([batch.labels[0].flatten() for batch in first]).unique()
    assert {0, 1, 2, 3} <= set(classes.tolist())


@pytest.mark.parametrize(("every", "drawn"), [(1, [0, 1]), (10, [1])])
def test_pictures_are_drawn_every_so_often_and_after_the_last_epoch(
    every: int, drawn: list[int], make_trainer: MakeTrainer
) -> None:
    trainer = started(make_trainer(PhasedTrainer, picture_every=every))
    for epoch in range(2):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train))])
    pictures = [Path(trainer.output_folder) / f"images_{epoch}.txt" for epoch in range(2)]
    assert [epoch for epoch, picture in enumerate(pictures) if picture.exists()] == drawn
    assert pictures[1].read_text() == "4"


class OwnedPartTrainer(AdversarialTrainer):
    """The critic is a frozen part of the network, which inference needs."""

    @classmethod
    def extend_network(cls, build: Any, options: Any, configuration: Any) -> nn.Module:
        network: nn.Module = build()
        network.critic = nn.Linear(3, 1).requires_grad_(False)
        return network

    def build_players(self, segmenter: Player) -> list[Player]:
        self.critic = self.bare_network.critic
        return [segmenter, self.opponent("critic", self.critic, self.critic_objective, lr=1e-2)]


def test_a_frozen_part_of_the_network_is_its_own_players_alone(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer(OwnedPartTrainer, weight_decay=0.1))
    segmenter, critic = trainer.players
    part = list(trainer.bare_network.critic.parameters())
    assert {id(p) for p in critic.parameters()} == {id(p) for p in part}
    assert not {id(p) for p in segmenter.parameters()} & {id(p) for p in part}
    moved = []
    critic.forward = lambda batch, outputs: outputs or trainer.forward(batch)
    for playing in ([segmenter], [critic]):
        trainer.playing = lambda playing=playing: playing
        before = [p.detach().clone() for p in part]
        trainer.train_step(next(trainer.dataloader_train))
        moved.append([not torch.equal(a, b) for a, b in zip(before, part, strict=True)])
        assert not any(p.requires_grad for p in part)
    assert moved == [[False, False], [True, True]]


def test_a_part_with_a_player_of_its_own_is_continued(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = started(make_trainer(OwnedPartTrainer))
    trainer.train_step(next(trainer.dataloader_train))
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    restored = make_trainer(OwnedPartTrainer)
    restored.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    for mine, theirs in zip(trainer.bare_network.parameters(), restored.bare_network.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.requires_grad == theirs.requires_grad


def test_modules_of_resting_players_are_in_evaluation_mode(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer(PhasedTrainer))
    assert trainer.critic.training
    assert not trainer.heads.training
    trainer.current_epoch = 1
    trainer.on_train_epoch_start()
    assert trainer.critic.training
    assert trainer.heads.training


class LateTrainer(AdversarialTrainer):
    """The segmenter joins in the third of five epochs."""

    def build_players(self, segmenter: Player) -> list[Player]:
        return super().build_players(segmenter.joins(2))


def test_a_late_segmenter_begins_at_its_full_rate(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(LateTrainer, num_epochs=5)
    trainer.initialize()
    rates = []
    for epoch in range(5):
        trainer.lr_scheduler.step(epoch)
        rates.append(trainer.optimizer.param_groups[0]["lr"] / trainer.initial_lr)
    assert rates == pytest.approx([1, 1, 1, (2 / 3) ** 0.9, (1 / 3) ** 0.9])


@pytest.mark.parametrize(
    ("first_epoch", "risen"), [(0, [1 / 3, 2 / 3, 1, 1, 1, 1]), (2, [1 / 3, 1 / 3, 1 / 3, 2 / 3, 1, 1])]
)
def test_a_rate_may_rise_before_it_falls(first_epoch: int, risen: list[float]) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1e-2)
    schedule = LatePolyLR(optimizer, 1e-2, 6, first_epoch=first_epoch, warm_up=2)
    rates = []
    for epoch in range(6):
        schedule.step(epoch)
        rates.append(optimizer.param_groups[0]["lr"] / 1e-2)
    fallen = [(1 - max(0, epoch - first_epoch) / (6 - first_epoch)) ** 0.9 for epoch in range(6)]
    assert rates == pytest.approx([up * down for up, down in zip(risen, fallen, strict=True)])


def test_the_plans_record_which_modalities_are_targets(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(AdversarialTrainer)
    assert trainer.plans_manager.plans["crossmod"]["target_modalities"] == ["lge"]
    again = make_trainer(AdversarialTrainer, target_modalities=["lge"])
    assert again.plans_manager.plans["crossmod"]["target_modalities"] == ["lge"]
