"""Plans of one's own: a copy under a new name that carries hyper-parameters and, where asked for, a smaller network.

A copy with the same ``data_identifier`` needs no new preprocessing and gets a results folder of its own.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.paths import write_whole

__all__ = [
    "NETWORKS",
    "PRESETS",
    "configure",
    "new_plans_file",
    "read_setting",
    "reader_reorients",
    "resolved_configuration",
    "write_plans",
]

CPU_HYPERPARAMETERS: dict[str, Any] = {
    "num_epochs": 20,
    "num_iterations_per_epoch": 50,
    "num_val_iterations_per_epoch": 4,
    "save_every": 5,
    "optimizer_name": "adamw",
    "initial_lr": 2e-3,
    "weight_decay": 1e-4,
    "adam_betas": [0.9, 0.999],
    "lr_schedule": "polynomial",
}

PAPER_HYPERPARAMETERS: dict[str, Any] = {
    "augmentation": "nnunet",
    "adaptation_share": None,
    "adaptation_ramp": 0.0,
    "shared_norms": False,
}

OPTIMISATION = ("optimizer_name", "initial_lr", "weight_decay", "adam_betas", "lr_schedule")
"""Hyper-parameters that the paper's preset leaves to the trainer, whatever the plans copied say."""


def _shrink_for_cpu(configuration: dict[str, Any]) -> None:
    """A network, patch and batch that two cores train in minutes."""
    axes = len(configuration["patch_size"])
    stages, base, widest, batch, most = (5, 16, 96, 12, 128**2) if axes == 2 else (4, 8, 64, 2, 16 * 64**2)
    network = configuration["architecture"]["arch_kwargs"]
    if "features_per_stage" not in network:
        name = configuration["architecture"]["network_class_name"].rpartition(".")[2]
        raise CrossmodError(
            f"--preset cpu shrinks nnU-Net's own networks, not {name}: copy nnU-Net's own plans with it"
        )
    stages = min(stages, network["n_stages"])
    network["n_stages"] = stages
    network["features_per_stage"] = [min(base * 2**i, widest) for i in range(stages)]
    for name in ("kernel_sizes", "strides"):
        network[name] = network[name][:stages]
    for name in ("n_conv_per_stage", "n_blocks_per_stage"):
        if name in network:
            network[name] = [min(n, 2) for n in network[name][:stages]]
    network["n_conv_per_stage_decoder"] = [1] * (stages - 1)
    configuration["batch_size"] = batch
    multiple = [math.prod(axis) for axis in zip(*network["strides"], strict=True)]
    patch = [max(m, size // m * m) for size, m in zip(configuration["patch_size"], multiple, strict=True)]
    while math.prod(patch) > most:
        axis = max(range(axes), key=lambda i: patch[i] / multiple[i])
        if patch[axis] == multiple[axis]:
            break
        patch[axis] -= multiple[axis]
    configuration["patch_size"] = patch


def _as_planned(configuration: dict[str, Any]) -> None:
    """The network, patch and batch that nnU-Net planned."""


SIZES = ("architecture", "patch_size", "batch_size")
"""What a preset changes of a configuration."""

PRESETS: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], None]]] = {
    "cpu": (CPU_HYPERPARAMETERS, _shrink_for_cpu),
    "paper": (PAPER_HYPERPARAMETERS, _as_planned),
}
"""Name → hyper-parameters of all trainers, and what is done to a configuration; trainers add their own ``presets``."""


def _swin_unetr(configuration: dict[str, Any], preset: str | None) -> None:
    """MONAI's SwinUNETR, and a patch of whole multiples of its 32 voxels."""
    axes = len(configuration["patch_size"])
    configuration["architecture"] = {
        "network_class_name": "nnunet_crossmod.nn.swin_unetr.SwinUNETR",
        "arch_kwargs": {
            "n_dims": axes,
            "n_stages": 6,
            "strides": [[1] * axes] + [[2] * axes] * 5,
            "feature_size": 24 if preset == "cpu" else 48,
            "depths": [2, 2, 2, 2],
            "num_heads": [3, 6, 12, 24],
            "window_size": 7,
        },
        "_kw_requires_import": [],
    }
    planned = configuration["patch_size"]
    patch = [max(1, int(size / 32 + 0.5)) * 32 for size in planned]
    if max(patch) == 32:  # its lowest scale would be a single voxel, which nothing can normalise
        patch[planned.index(max(planned))] = 64
    configuration["patch_size"] = patch


NETWORKS: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any], str | None], None]]] = {
    "swin_unetr": (
        {
            "enable_deep_supervision": False,
            "optimizer_name": "adamw",
            "initial_lr": 5e-4,
            "weight_decay": 1e-5,
            "adam_betas": [0.9, 0.999],
            "lr_schedule": "polynomial",
            "lr_warm_up": 0.05,
        },
        _swin_unetr,
    ),
}
"""Name → hyper-parameters that make the network train, and what puts it in the place of a configuration's own."""


def reader_reorients(reader: str | None) -> bool:
    """Whether nnU-Net's reader of that name turns all scans to RAS, as after ``crossmod convert --reorient``."""
    return (reader or "").endswith("WithReorient")


def read_setting(text: str, where: str = "--set") -> tuple[str, Any]:
    """``name=value`` with the value in JSON, or a bare word: ``fpc_weight=0.25``, ``gin=source``, ``seed=null``."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise CrossmodError(f"{where} takes NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def configure(
    plans: Mapping[str, Any],
    name: str,
    settings: Mapping[str, Any],
    *,
    preset: str | None = None,
    network: str | None = None,
    batch_size: int | None = None,
    patch_size: Sequence[int] | None = None,
    configurations: Sequence[str] = (),
) -> dict[str, Any]:
    """Copy plans under a new name.

    Args:
        plans: the plans to copy.
        name: ``plans_name`` of the copy.
        settings: hyper-parameters; they come on top of those of ``plans`` and of the preset.
        preset: a key of :data:`PRESETS`: ``cpu`` shrinks the configurations, ``paper`` gives optimiser, rate and
            decay back to the trainer.
        network: a key of :data:`NETWORKS`, in place of the planned one; its hyper-parameters come on top of the
            preset's.
        batch_size: of the ``configurations``.
        patch_size: of the ``configurations``, in voxels.
        configurations: which ones ``batch_size`` and ``patch_size`` are for; all of the right dimension if empty.

    Raises:
        CrossmodError: an unfit name, an unknown preset or configuration, or a patch that the network cannot halve.
    """
    if not re.fullmatch(r"[\w.-]+", name) or "__" in name or name == plans["plans_name"]:
        raise CrossmodError(
            f"--name {name!r} must differ from {plans['plans_name']} and hold letters, digits, . _ - only, no two _ in "
            "a row: nnU-Net separates trainer, plans and configuration by them"
        )
    copy = deepcopy(dict(plans))
    unknown = [c for c in configurations if c not in copy["configurations"]]
    if unknown:
        raise CrossmodError(
            f"{plans['plans_name']} has no configuration {unknown[0]!r}; it has {', '.join(copy['configurations'])}"
        )
    hyperparameters: dict[str, Any] = {}
    if preset is not None:
        if preset not in PRESETS:
            raise CrossmodError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
        hyperparameters, adapt = PRESETS[preset]
        _change_configurations(copy, adapt)
    if network is not None:
        if network not in NETWORKS:
            raise CrossmodError(f"no network {network!r}; there are {', '.join(NETWORKS)}")
        of_network, put_in = NETWORKS[network]
        hyperparameters = hyperparameters | of_network
        _change_configurations(copy, lambda configuration: put_in(configuration, preset))
    copy["plans_name"] = name
    inherited = {k: v for k, v in copy.get("crossmod", {}).items() if preset != "paper" or k not in OPTIMISATION}
    copy["crossmod"] = {**inherited, **hyperparameters, **settings}
    if batch_size is not None and batch_size < 1:
        raise CrossmodError(f"-b {batch_size} must be at least 1")
    fitting = []
    for key, planned in copy["configurations"].items():
        resolved = resolved_configuration(copy, key)
        axes = len(resolved["patch_size"])
        if configurations and key not in configurations:
            continue
        if "previous_stage" in resolved:
            if configurations:
                raise CrossmodError(f"{key} is a cascade, which cross-modal trainers do not do: leave it out of -c")
            continue
        if batch_size is not None and (configurations or "batch_size" in planned):
            planned["batch_size"] = batch_size
        if patch_size is not None and len(patch_size) == axes:
            planned["patch_size"] = _checked_patch(patch_size, resolved, key)
            fitting.append(key)
        elif patch_size is not None and configurations:
            raise CrossmodError(f"--patch-size {list(patch_size)} must be {axes} numbers for {key}")
    if patch_size is not None and not fitting:
        raise CrossmodError(
            f"--patch-size {list(patch_size)} fits no configuration of {plans['plans_name']}: give 2 numbers for 2d or "
            "3 for 3d_fullres"
        )
    return copy


def _change_configurations(plans: dict[str, Any], change: Callable[[dict[str, Any]], None]) -> None:
    """Change network, patch and batch of every configuration that has them, not of one that inherits them."""
    inherited = {key: resolved_configuration(plans, key) for key in plans["configurations"]}
    for key, before in inherited.items():
        if "architecture" not in before:
            raise CrossmodError(f"configuration {key} of {plans['plans_name']} has no network: plan it again")
        after = deepcopy(before)
        change(after)
        planned = plans["configurations"][key]
        if after != before and any(name in planned for name in SIZES):
            planned.update({name: after[name] for name in SIZES})


def resolved_configuration(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """One configuration of the plans, with what it inherits.

    Raises:
        CrossmodError: it inherits from a configuration that the plans do not have, or from itself.
    """
    planned = dict(plans["configurations"][configuration])
    ancestors = [configuration]
    while (parent := planned.pop("inherits_from", None)) is not None:
        if parent not in plans["configurations"] or parent in ancestors:
            raise CrossmodError(
                f"configuration {ancestors[-1]} of {plans['plans_name']} cannot inherit from {parent!r}"
            )
        ancestors.append(parent)
        planned = {**plans["configurations"][parent], **planned}
    return planned


def _checked_patch(patch_size: Sequence[int], planned: Mapping[str, Any], key: str) -> list[int]:
    strides = planned["architecture"]["arch_kwargs"]["strides"]
    multiple = [math.prod(axis) for axis in zip(*strides, strict=True)]
    if any(size <= 0 or size % m for size, m in zip(patch_size, multiple, strict=True)):
        raise CrossmodError(
            f"the network of {key} needs a patch size in multiples of {multiple}, got {list(patch_size)}"
        )
    if list(patch_size) == multiple:
        raise CrossmodError(f"a patch of {multiple} is a single voxel at the lowest scale of {key}: double an axis")
    return list(patch_size)


def new_plans_file(folder: Path, name: str, *, overwrite: bool = False) -> Path:
    """Where plans of a name are written.

    Raises:
        CrossmodError: plans of that name exist.
    """
    file = folder / f"{name}.json"
    if file.exists() and not overwrite:
        raise CrossmodError(f"{file} exists: choose another --name or add --overwrite")
    return file


def write_plans(plans: Mapping[str, Any], folder: Path, *, overwrite: bool = False) -> Path:
    """Write plans beside the others of the data set, whole or not at all.

    Raises:
        CrossmodError: plans of that name exist.
    """
    file = new_plans_file(folder, plans["plans_name"], overwrite=overwrite)
    write_whole(file, json.dumps(plans, indent=2))
    return file
