"""``--c``: rates, decay and schedules are those of the plans; what cannot go on is refused before the first step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import started

from nnunet_crossmod.errors import CrossmodError

MakeTrainer = Callable[..., Any]


def stopped(make_trainer: MakeTrainer, name: str, **settings: Any) -> str:
    """The checkpoint of a training after its first epoch."""
    trainer = started(make_trainer(name, num_epochs=4, **settings))
    trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train))])
    file = Path(trainer.output_folder) / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(file))
    return str(file)


def test_every_player_takes_the_rates_and_the_decay_of_the_plans(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    file = stopped(make_trainer, "MPSCLTrainer", optimizer_name="adamw")
    changed = {"initial_lr": 0.007, "weight_decay": 0.5, "adam_betas": [0.5, 0.6], "discriminator_lr": 0.003}
    trainer = make_trainer("MPSCLTrainer", num_epochs=8, optimizer_name="adam", **changed)
    trainer.load_checkpoint(file)
    started(trainer)
    segmenter, *opponents = (player.optimizer for player in trainer.players)
    fall = (1 - 1 / 8) ** 0.9
    assert [group["lr"] for group in segmenter.param_groups] == pytest.approx([0.007 * fall] * 2)
    assert [group["weight_decay"] for group in segmenter.param_groups] == [0.5, 0]
    assert segmenter.param_groups[0]["betas"] == (0.5, 0.6)
    assert segmenter.state
    for optimizer in opponents:
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.003)
        assert optimizer.state
    trainer.train_step(next(trainer.dataloader_train))
    again = tmp_path / "again.pth"
    trainer.save_checkpoint(str(again))
    import torch

    recorded = torch.load(again, weights_only=False)["init_args"]["plans"]["crossmod"]
    assert recorded["initial_lr"] == 0.007


@pytest.mark.parametrize(
    ("now", "says"),
    [
        ({"optimizer_name": "sgd"}, 'another optimizer of the segmenter (optimizer_name was "adamw", now "sgd")'),
        ({"conditioning": "none"}, 'other networks (conditioning was "encoder", now "none")'),
        ({"teacher": True}, "training without a teacher (teacher was false, now true)"),
    ],
)
def test_what_cannot_go_on_is_refused(now: dict[str, Any], says: str, make_trainer: MakeTrainer) -> None:
    file = stopped(make_trainer, "JointTrainer")
    trainer = make_trainer("JointTrainer", num_epochs=4, **now)
    with pytest.raises(CrossmodError) as error:
        trainer.load_checkpoint(file)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_other_players_are_refused(make_trainer: MakeTrainer) -> None:
    file = stopped(make_trainer, "JointTrainer")
    trainer = make_trainer("AdvEntTrainer", num_epochs=4)
    with pytest.raises(CrossmodError, match="with other players"):
        trainer.load_checkpoint(file)


def test_other_annotations_are_refused_before_anything_is_overwritten(make_trainer: MakeTrainer, dataset: Path) -> None:
    file = stopped(make_trainer, "JointTrainer")
    record = Path(file).parent / "trained_on.json"
    assert record.is_file()
    kept = record.read_bytes()
    original = (dataset / "dataset.json").read_text()
    content = json.loads(original)
    next(iter(content["crossmod"]["cases"].values()))["annotated"] = []
    trainer = make_trainer("JointTrainer", num_epochs=4)
    trainer.load_checkpoint(file)
    (dataset / "dataset.json").write_text(json.dumps(content))
    try:
        with pytest.raises(CrossmodError, match="was trained on another"):
            trainer.on_train_start()
    finally:
        (dataset / "dataset.json").write_text(original)
    assert record.read_bytes() == kept
