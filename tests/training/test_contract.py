"""What every trainer promises, whatever its method."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from support import at_full_strength, phases, residual, scramble_target_labels, started, swin_unetr
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from nnunet_crossmod.paths import trainer_names

MakeTrainer = Callable[..., Any]
TRAINERS = pytest.mark.parametrize("name", trainer_names())
CONFIGURATIONS = pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
HIDDEN_FROM = [name for name in trainer_names() if name != "TargetSupervisedTrainer"]


def parameters(player: Any) -> dict[str, torch.Tensor]:
    """What a player trains: not all that its modules hold, where another player owns a part."""
    trained = {id(parameter) for parameter in player.parameters()}
    return {
        f"{i}.{name}": parameter
        for i, module in enumerate(player.modules)
        for name, parameter in module.named_parameters()
        if id(parameter) in trained
    }


@TRAINERS
def test_nnunet_finds_it(name: str, nnunet: dict[str, Path]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        found = recursive_find_trainer_class_by_name(name)
    assert found.__name__ == name


@TRAINERS
@CONFIGURATIONS
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_a_step_moves_every_player_and_every_parameter_of_it(
    name: str, configuration: str, deep_supervision: bool, make_trainer: MakeTrainer
) -> None:
    trainer = started(
        make_trainer(name, configuration, enable_deep_supervision=deep_supervision, **at_full_strength(name))
    )
    idle = (
        ()
        if deep_supervision
        else tuple(f"decoder.seg_layers.{i}." for i in range(len(unet(trainer).decoder.stages) - 1))
    )
    played = set()
    for _ in phases(trainer):
        before = {p.name: {k: v.detach().clone() for k, v in parameters(p).items()} for p in trainer.players}
        output = trainer.train_step(next(trainer.dataloader_train))
        assert output["terms"]
        for term, value in output["terms"].items():
            assert torch.isfinite(value), term
            assert term.split("/")[0] in before
        playing = [player.name for player in trainer.playing()]
        played.update(playing)
        for player in trainer.players:
            moved = [not torch.equal(before[player.name][k], v) for k, v in parameters(player).items()]
            assert any(moved) == (player.name in playing), player.name
            for key, parameter in parameters(player).items():
                # nnU-Net keeps idle heads only to load checkpoints
                if player.name in playing and not any(part in key for part in idle):
                    assert parameter.grad is not None, key
                    assert torch.isfinite(parameter.grad).all(), key
    assert played == {player.name for player in trainer.players}


WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal")


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for the device: values read by Python, shapes that depend on values."""

    optimising = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        masked = name in ("index", "index_put_", "index_put") and any(
            t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1]
        )
        if not self.optimising and (masked or name.rstrip("_").startswith(WAITS)):
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


@TRAINERS
def test_a_step_does_not_wait_for_the_device(name: str, make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer(name, **at_full_strength(name)))
    waiting = NoWaiting()
    # an optimiser counts its steps in tensors on the host
    before = register_optimizer_step_pre_hook(lambda *_: setattr(waiting, "optimising", True))
    after = register_optimizer_step_post_hook(lambda *_: setattr(waiting, "optimising", False))
    try:
        for _ in phases(trainer):
            loaded = next(trainer.dataloader_train)
            with waiting:
                trainer.train_step(loaded)
    finally:
        before.remove()
        after.remove()
    with pytest.raises(AssertionError, match="waits"), waiting:
        float(torch.ones(1))


def unet(trainer: Any) -> Any:
    return trainer.bare_network


@pytest.mark.parametrize(
    ("name", "configuration", "network"),
    [
        *((name, configuration, residual) for name in trainer_names() for configuration in ("2d", "3d_fullres")),
        *((name, "2d", swin_unetr) for name in trainer_names()),
        *((name, "3d_fullres", swin_unetr) for name in ("AICLTrainer", "EAMTrainer")),  # 27 times a U-Net's cost
    ],
)
def test_it_trains_other_networks(
    name: str, configuration: str, network: Callable[[dict[str, Any]], None], make_trainer: MakeTrainer
) -> None:
    trainer = started(make_trainer(name, configuration, change_plans=network, **at_full_strength(name)))
    for _ in phases(trainer):
        output = trainer.train_step(next(trainer.dataloader_train))
        assert all(torch.isfinite(value) for value in output["terms"].values())


@pytest.mark.parametrize("name", HIDDEN_FROM)
@CONFIGURATIONS
def test_scrambled_target_labels_change_no_bit(
    name: str, configuration: str, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(scramble: bool) -> dict[str, torch.Tensor]:
        with monkeypatch.context() as patch:
            if scramble:
                scramble_target_labels(patch)
            trainer = started(make_trainer(name, configuration, **at_full_strength(name)))
            seen = []
            for _ in phases(trainer):
                for _ in range(3):
                    loaded = next(trainer.dataloader_train)
                    seen.append(loaded["data"])
                    trainer.train_step(loaded)
            trainer.validation_step(next(trainer.dataloader_val))
        return {
            f"{p.name}.{key}": value.detach().clone() for p in trainer.players for key, value in parameters(p).items()
        } | {"images": torch.stack(seen), "random": torch.rand(3), "numpy": torch.from_numpy(np.random.random(3))}

    honest, other = train(scramble=False), train(scramble=True)
    for key, value in honest.items():
        assert torch.equal(value, other[key]), key


def test_the_ceiling_does_read_target_labels(make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = started(make_trainer("TargetSupervisedTrainer"))
    assert "READS THE LABELS OF THE TARGET" in capsys.readouterr().out
    assert all("lge" in name for name in trainer.seen)
    batch = next(trainer.dataloader_train)
    assert max(int(level.max()) for level in batch["target"]) > 0


@TRAINERS
def test_save_load_and_the_next_step_is_identical(name: str, make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = started(make_trainer(name, **at_full_strength(name)))
    batches = [next(trainer.dataloader_train) for _ in range(3)]
    for batch in batches[:2]:
        trainer.train_step(batch)
    trainer.current_epoch = 0
    trainer.on_train_epoch_end([trainer.train_step(batches[0])])
    file = tmp_path / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(file))
    assert list(tmp_path.iterdir()) == [file]
    trainer.current_epoch = 1
    restored = make_trainer(name, **at_full_strength(name))
    restored.load_checkpoint(str(file))
    assert restored.current_epoch == 1
    started(restored)
    outcomes = []
    for one in (trainer, restored):
        one.on_train_epoch_start()
        torch.manual_seed(7)
        outcomes.append(one.train_step(batches[2]))
    assert torch.equal(outcomes[0]["loss"], outcomes[1]["loss"])
    for mine, theirs in zip(trainer.players, restored.players, strict=True):
        for key, value in parameters(mine).items():
            assert torch.equal(value, parameters(theirs)[key]), key


@TRAINERS
@pytest.mark.parametrize(
    ("configuration", "network"), [("2d", lambda plans: None), ("3d_fullres", lambda plans: None), ("2d", swin_unetr)]
)
def test_stock_predictor_loads_it_strictly_and_predicts(
    name: str,
    configuration: str,
    network: Callable[[dict[str, Any]], None],
    make_trainer: MakeTrainer,
    dataset: Path,
) -> None:
    trainer = started(make_trainer(name, configuration, change_plans=network, **at_full_strength(name)))
    trainer.inference_allowed_mirroring_axes = (0, 1)
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,), "checkpoint_final.pth")
    images = np.random.default_rng(0).normal(size=(2, 6, 48, 48)).astype(np.float32)
    images[1] = 2
    spacing = json.loads((dataset / "nnUNetPlans.json").read_text())["original_median_spacing_after_transp"]
    prediction = predictor.predict_single_npy_array(images, {"spacing": spacing})
    assert prediction.shape == (6, 48, 48)


def test_batches_are_interleaved_and_hold_no_modality_channel(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("AICLTrainer"))
    loaded = next(trainer.dataloader_train)
    assert [key.rsplit("_", 1)[-1] for key in loaded["keys"]] == ["cine", "lge"] * 2
    assert loaded["data"].shape[1] == 1
    assert next(trainer.dataloader_val)["data"].shape[1] == 2


def test_target_labels_of_the_batch_are_blank(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("AICLTrainer"))
    for _ in range(5):
        loaded = next(trainer.dataloader_train)
        assert not loaded["target"][0][1::2].any()
    assert loaded["target"][0][0::2].any()


def test_online_validation_sees_only_what_training_may_see(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("AICLTrainer"))
    _, validation = trainer.get_tr_and_val_datasets()
    assert validation.identifiers
    assert all("cine" in name for name in validation.identifiers)
    _, all_of_them = trainer.do_split()
    assert any("lge" in name for name in all_of_them)


def test_source_only_sees_the_source_alone(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("SourceOnlyTrainer"))
    assert trainer.seen
    assert all("cine" in name for name in trainer.seen)
