"""One word chooses the augmentation; its parts have switches; presets of the papers; mixed precision on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import started

from nnunet_crossmod import precision
from nnunet_crossmod.paths import load_trainer, trainer_names
from nnunet_crossmod.plans import PRESETS
from nnunet_crossmod.training.hyperparameters import resolve, unbounded
from nnunet_crossmod.training.input_check import mixed_orientations

MakeTrainer = Callable[..., Any]
PAPERS = ["AICLTrainer", "AdvEntTrainer", "MPSCLTrainer", "EAMTrainer", "CISFATrainer", "GLUATrainer"]
STRAIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
FLIPPED = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)


def transforms(trainer: Any) -> list[Any]:
    return list(trainer.dataloader_train.data_loader.transforms.transforms)


def names(trainer: Any) -> list[str]:
    return [type(transform).__name__ for transform in transforms(trainer)]


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_the_strong_base_is_the_default(configuration: str, make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("SourceOnlyTrainer", configuration))
    assert "MirrorTransform" not in names(trainer)
    assert "RandomTransform" not in names(trainer)
    assert trainer.inference_allowed_mirroring_axes is None
    spatial = next(t for t in transforms(trainer) if type(t).__name__ == "SpatialTransform")
    assert np.rad2deg(spatial.rotation) == pytest.approx((-30, 30))
    recorded = json.loads((Path(trainer.output_folder_base) / "plans.json").read_text())["crossmod"]
    expected = {
        "augmentation": "strong",
        "curve_probability": 0.5,
        "gin": "all",
        "rotation_degrees": 30,
        "mirror": False,
    }
    assert {name: recorded[name] for name in expected} == expected


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_one_word_brings_nnunets_augmentation_back(configuration: str, make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("SourceOnlyTrainer", configuration, augmentation="nnunet"))
    assert "MirrorTransform" in names(trainer)
    assert "RandomTransform" in names(trainer)
    assert trainer.inference_allowed_mirroring_axes == ((0, 1) if configuration == "2d" else (0, 1, 2))
    loaded = next(trainer.dataloader_train)
    trainer.train_step(loaded)
    assert torch.equal(trainer.last_batch.images, loaded["data"])


def test_parts_have_switches_of_their_own(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("SourceOnlyTrainer", mirror=True, rotation_degrees=180, gin="off"))
    assert "MirrorTransform" in names(trainer)
    assert trainer.inference_allowed_mirroring_axes == (0, 1)
    assert trainer.curve_probability == 0.5
    trainer = make_trainer("SourceOnlyTrainer", augmentation="nnunet", curve_probability=1.0)
    assert (trainer.gin, trainer.mirror, trainer.curve_probability) == ("off", True, 1.0)


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_settings_are_one_preset(name: str, make_trainer: MakeTrainer) -> None:
    kind = load_trainer(name)
    settings = {**PRESETS["paper"][0], **kind.presets["paper"]}
    assert settings["augmentation"] == "nnunet"
    values = resolve(kind, kind._hyperparameter_types, json.loads(json.dumps(settings)), "paper")
    assert all(values[key] == value for key, value in settings.items())
    sizes = {"generator_width": 4, "generator_blocks": 2, "discriminator_width": 4, "style_width": 4}
    small = {key: value for key, value in sizes.items() if key in kind._hyperparameter_types}
    trainer = started(make_trainer(name, **{**settings, **small}))
    terms = trainer.train_step(next(trainer.dataloader_train))["terms"]
    assert all(torch.isfinite(value) for value in terms.values())


@pytest.mark.parametrize("name", trainer_names())
def test_every_number_has_bounds(name: str) -> None:
    assert unbounded(load_trainer(name)._hyperparameter_types) == []


@pytest.mark.parametrize(
    ("option", "has", "used"), [("auto", True, True), ("auto", False, False), ("on", False, True), ("off", True, False)]
)
def test_bfloat16_on_the_cpu_follows_the_processor_unless_told(
    option: str,
    has: bool,
    used: bool,
    make_trainer: MakeTrainer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("nnunet_crossmod.training.trainer.processor_has_bf16", lambda: has)
    trainer = started(make_trainer("SourceOnlyTrainer", cpu_bf16=option))
    assert ("bfloat16 mixed" in capsys.readouterr().out) == used
    kinds = []
    handle = trainer.network.encoder.stages[0].register_forward_hook(lambda *given: kinds.append(given[-1].dtype))
    output = trainer.train_step(next(trainer.dataloader_train))
    handle.remove()
    assert kinds == [torch.bfloat16 if used else torch.float32]
    assert output["loss"].dtype == torch.float32


def test_autocast_is_for_devices_that_gain_by_it() -> None:
    for asked in (True, False):
        with precision.autocast(torch.device("cpu"), asked):
            assert torch.is_autocast_enabled("cpu") == asked
    assert isinstance(precision.processor_has_bf16(), bool)


def test_mixed_orientations_are_said_in_one_line() -> None:
    def properties(*directions: tuple[float, ...]) -> dict[str, Any]:
        return {f"case{i}": {"sitk_stuff": {"direction": d}} for i, d in enumerate(directions)}

    assert mixed_orientations(properties(STRAIGHT, STRAIGHT)) == ""
    assert mixed_orientations({"a": {}}) == ""
    line = mixed_orientations(properties(STRAIGHT, FLIPPED, STRAIGHT))
    assert "2 LPS (as case0), 1 RAS (as case1)" in line
    assert "mirror=true" in line
    assert "\n" not in line
