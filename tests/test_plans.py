"""Plans of one's own: hyper-parameters, the CPU preset, atomic writing."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from support import architecture

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.nn import build_unet
from nnunet_crossmod.plans import OPTIMISATION, configure, read_setting, write_plans
from nnunet_crossmod.training.input_check import planned_configuration


def network(axes: int, kind: str = "PlainConvUNet") -> dict[str, Any]:
    strides = [[1] * axes] + [[2] * axes] * 3 + [[1] * (axes - 2) + [2, 2]] * 3
    return architecture(kind, axes, [32, 64, 128, 256, 320, 320, 320], strides, [1, 3, 4, 6, 6, 6, 6])


PLANS: dict[str, Any] = {
    "plans_name": "nnUNetPlans",
    "dataset_name": "Dataset001_X",
    "configurations": {
        "2d": {"batch_size": 49, "patch_size": [512, 448], "architecture": network(2), "data_identifier": "p_2d"},
        "3d_fullres": {
            "batch_size": 4,
            "patch_size": [64, 192, 160],
            "architecture": network(3, "ResidualEncoderUNet"),
            "data_identifier": "p_3d",
        },
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    },
}


def test_a_copy_keeps_the_data_and_leaves_the_original() -> None:
    before = deepcopy(PLANS)
    copy = configure(PLANS, "mine", {"fpc_weight": 0.25})
    assert before == PLANS
    assert copy["plans_name"] == "mine"
    assert copy["crossmod"] == {"fpc_weight": 0.25}
    assert copy["configurations"] == PLANS["configurations"]


def test_settings_add_up_over_copies_and_win_over_the_preset() -> None:
    first = configure(PLANS, "a", {"fpc_weight": 0.25, "num_epochs": 3}, preset="cpu")
    second = configure(first, "b", {"fpc_weight": 0.5})
    assert first["crossmod"]["num_epochs"] == 3
    assert second["crossmod"]["fpc_weight"] == 0.5
    assert second["crossmod"]["num_epochs"] == 3


@pytest.mark.parametrize(("key", "axes"), [("2d", 2), ("3d_fullres", 3)])
def test_cpu_preset_gives_a_small_network_that_runs_on_its_patch(key: str, axes: int) -> None:
    planned = configure(PLANS, "cpu", {}, preset="cpu")["configurations"][key]
    patch = planned["patch_size"]
    assert planned["batch_size"] >= 2
    assert math.prod(patch) <= (128**2 if axes == 2 else 16 * 64**2)
    assert planned["data_identifier"] == PLANS["configurations"][key]["data_identifier"]
    unet = build_unet(planned["architecture"], 2, 4, ("A", "B"))
    assert sum(p.numel() for p in unet.parameters()) < 2e6
    logits = unet(torch.randn(1, 1, *patch), torch.tensor([0]))
    assert logits[0].shape == (1, 4, *patch)


@pytest.mark.parametrize("preset", [None, "cpu"])
def test_another_network_brings_its_patch_and_its_optimiser(preset: str | None) -> None:
    copy = configure(PLANS, "swin", {"initial_lr": 1e-4}, preset=preset, network="swin_unetr")
    assert PLANS["configurations"]["2d"]["patch_size"] == [512, 448]
    for key, axes in (("2d", 2), ("3d_fullres", 3)):
        planned = copy["configurations"][key]
        assert all(size % 32 == 0 and size > 0 for size in planned["patch_size"])
        assert planned["architecture"]["arch_kwargs"]["feature_size"] == (24 if preset else 48)
        assert planned["architecture"]["arch_kwargs"]["n_dims"] == axes
    assert copy["configurations"]["3d_cascade_fullres"] == PLANS["configurations"]["3d_cascade_fullres"]
    assert copy["crossmod"]["optimizer_name"] == "adamw"
    assert copy["crossmod"]["enable_deep_supervision"] is False
    assert copy["crossmod"]["initial_lr"] == 1e-4
    assert copy["crossmod"].get("num_epochs") == (20 if preset else None)


def test_no_patch_is_a_single_voxel_at_the_lowest_scale() -> None:
    plans = deepcopy(PLANS)
    plans["configurations"]["2d"]["patch_size"] = [24, 40]
    copy = configure(plans, "swin", {}, network="swin_unetr")
    assert copy["configurations"]["2d"]["patch_size"] == [32, 64]
    with pytest.raises(CrossmodError, match="single voxel at the lowest scale of 2d"):
        configure(copy, "smaller", {}, patch_size=[32, 32])


def test_the_preset_shrinks_nnunets_networks_alone() -> None:
    swin = configure(PLANS, "swin", {}, network="swin_unetr")
    with pytest.raises(CrossmodError, match="not SwinUNETR: copy nnU-Net's own plans"):
        configure(swin, "small", {}, preset="cpu")


@pytest.mark.parametrize(("planned", "expected"), [(112, 128), (100, 96), (10, 32), (64, 64), (40, 32)])
def test_a_patch_goes_to_the_nearest_multiple_of_32(planned: int, expected: int) -> None:
    plans = deepcopy(PLANS)
    plans["configurations"]["2d"]["patch_size"] = [64, planned]
    copy = configure(plans, "swin", {}, network="swin_unetr")
    assert copy["configurations"]["2d"]["patch_size"] == [64, expected]


def test_batch_and_patch_size_of_chosen_configurations() -> None:
    copy = configure(PLANS, "mine", {}, batch_size=2, patch_size=[64, 64, 64], configurations=["3d_fullres"])
    assert copy["configurations"]["3d_fullres"]["batch_size"] == 2
    assert copy["configurations"]["3d_fullres"]["patch_size"] == [64, 64, 64]
    assert copy["configurations"]["2d"] == PLANS["configurations"]["2d"]


def test_a_configuration_that_inherits_gets_its_own_batch_and_patch() -> None:
    plans = deepcopy(PLANS)
    plans["configurations"]["2d_small"] = {"inherits_from": "2d", "batch_size": 6}
    copy = configure(plans, "mine", {}, batch_size=3, patch_size=[128, 64], configurations=["2d_small"])
    assert copy["configurations"]["2d_small"] == {"inherits_from": "2d", "batch_size": 3, "patch_size": [128, 64]}
    assert copy["configurations"]["2d"] == PLANS["configurations"]["2d"]
    plans["configurations"]["2d"]["inherits_from"] = "2d_small"
    with pytest.raises(CrossmodError, match="cannot inherit from"):
        configure(plans, "mine", {})


def test_a_preset_shrinks_what_a_configuration_that_inherits_has_of_its_own() -> None:
    plans = deepcopy(PLANS)
    plans["configurations"]["2d_wide"] = {"inherits_from": "2d", "patch_size": [1024, 1024], "batch_size": 20}
    plans["configurations"]["2d_same"] = {"inherits_from": "2d_wide", "spacing": [1, 1]}
    shrunk = configure(plans, "cpu", {}, preset="cpu")["configurations"]
    assert math.prod(shrunk["2d_wide"]["patch_size"]) <= 128**2
    assert shrunk["2d_wide"]["batch_size"] == shrunk["2d"]["batch_size"]
    assert shrunk["2d_wide"]["architecture"] == shrunk["2d"]["architecture"]
    assert shrunk["2d_same"] == plans["configurations"]["2d_same"]
    assert configure(plans, "paper", {}, preset="paper")["configurations"] == plans["configurations"]


def test_the_papers_preset_gives_optimiser_and_rate_of_small_plans_back_to_the_trainer() -> None:
    small = configure(PLANS, "cpu", {"seed": 3}, preset="cpu")
    kept = configure(small, "paper", {}, preset="paper")["crossmod"]
    assert small["crossmod"]["optimizer_name"] == "adamw"
    assert not set(OPTIMISATION) & set(kept)
    assert (kept["num_epochs"], kept["seed"]) == (small["crossmod"]["num_epochs"], 3)
    assert configure(small, "own", {"initial_lr": 0.1}, preset="paper")["crossmod"]["initial_lr"] == 0.1


@pytest.mark.parametrize("key", ["3d_cascade_fullres", "3d_cascade_large"])
def test_a_cascade_is_refused_where_it_is_named(key: str) -> None:
    plans = deepcopy(PLANS)
    plans["configurations"]["3d_cascade_large"] = {"inherits_from": "3d_cascade_fullres", "batch_size": 8}
    with pytest.raises(CrossmodError, match=f"{key} is a cascade"):
        configure(plans, "mine", {}, batch_size=2, configurations=[key])
    with pytest.raises(CrossmodError, match=f"{key} is a cascade"):
        planned_configuration(plans, key)


@pytest.mark.parametrize("name", ["nnUNetPlans", "a b", "a__b"])
def test_names_that_nnunet_could_not_take_apart_are_refused(name: str) -> None:
    with pytest.raises(CrossmodError, match="--name"):
        configure(PLANS, name, {})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"preset": "gpu"}, "no preset 'gpu'; there are cpu"),
        ({"network": "vit"}, "no network 'vit'; there are swin_unetr"),
        ({"configurations": ["4d"]}, "no configuration '4d'; it has 2d, 3d_fullres"),
        ({"patch_size": [100, 128]}, r"multiples of \[64, 64\], got \[100, 128\]"),
        ({"patch_size": [64]}, "2 numbers for 2d or 3 for 3d_fullres"),
        ({"patch_size": [64, 64], "configurations": ["3d_fullres"]}, "must be 3 numbers for 3d_fullres"),
        ({"batch_size": 0}, "-b 0 must be at least 1"),
    ],
)
def test_wrong_wishes_are_told_in_one_line(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(CrossmodError, match=says):
        configure(PLANS, "mine", {}, **arguments)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("fpc_weight=0.25", ("fpc_weight", 0.25)),
        ("gin=source", ("gin", "source")),
        ("seed=null", ("seed", None)),
        ("on=true", ("on", True)),
        ("patch_size=[16, 16]", ("patch_size", [16, 16])),
        ("note=a=b", ("note", "a=b")),
    ],
)
def test_settings_on_the_command_line(text: str, read: tuple[str, Any]) -> None:
    assert read_setting(text) == read


@pytest.mark.parametrize("text", ["fpc_weight", "=3"])
def test_settings_need_a_name_and_a_value(text: str) -> None:
    with pytest.raises(CrossmodError, match="NAME=VALUE"):
        read_setting(text)


def test_plans_are_written_whole_and_never_overwritten_by_accident(tmp_path: Path) -> None:
    file = write_plans(configure(PLANS, "mine", {}), tmp_path)
    assert json.loads(file.read_text())["plans_name"] == "mine"
    with pytest.raises(CrossmodError, match="--overwrite"):
        write_plans(configure(PLANS, "mine", {"seed": 1}), tmp_path)
    assert json.loads(file.read_text())["crossmod"] == {}
    write_plans(configure(PLANS, "mine", {"seed": 1}), tmp_path, overwrite=True)
    assert json.loads(file.read_text())["crossmod"] == {"seed": 1}
    assert list(tmp_path.iterdir()) == [file]
