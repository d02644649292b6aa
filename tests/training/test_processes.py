"""Two processes, as nnU-Net's ``-num_gpus 2`` starts them, train what one process with the whole batch trains."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as stock
from support import at_full_strength, phases, started
from torch import distributed as dist
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel

from nnunet_crossmod.paths import load_trainer, trainer_names

WORLD = 2
STEPS = 10
BATCH = 4

CASES = trainer_names()


def settings_of(name: str) -> dict[str, Any]:
    """Every term from the first step on, nothing that differs by the process's own random numbers."""
    known = load_trainer(name)._hyperparameter_types
    plain: dict[str, Any] = {"augmentation": "nnunet", "optimizer_name": "sgd", "initial_lr": 1e-3}
    if "raw_share" in known:
        plain["raw_share"] = 0.0
    return {**at_full_strength(name), **plain, "adaptation_ramp": 0.0, "conditioning": "encoder"}


def build(name: str, plans: dict[str, Any], dataset_json: dict[str, Any]) -> Any:
    plans = json.loads(json.dumps(plans))
    plans["crossmod"] |= settings_of(name)
    for planned in plans["configurations"].values():
        if "batch_size" in planned:
            planned["batch_size"] = BATCH
            planned["batch_dice"] = True
    trainer = load_trainer(name)(plans | {"continue_training": False}, "2d", 0, dataset_json, CPU)
    if dist.is_initialized():  # nnU-Net takes for granted that several processes have a GPU each
        trainer.device, trainer.grad_scaler = CPU, None
    trainer.augmented = lambda batch: batch  # draws for each sample in turn
    started(trainer)
    for player in trainer.players:
        if player.optimizer is not trainer.optimizer:  # Adam makes whole steps of gradients that are rounding errors
            player.optimizer = torch.optim.SGD(player.parameters(), 1e-3)
            player.scheduler = None
    return trainer


CPU = torch.device("cpu")


def part(loaded: dict[str, Any], rank: int, world: int) -> dict[str, Any]:
    """The samples of a process: the batch alternates between the roles, and so do its parts."""
    size = len(loaded["data"]) // world
    rows = slice(rank * size, (rank + 1) * size)
    return {
        "data": loaded["data"][rows].clone(),
        "target": [level[rows].clone() for level in loaded["target"]],
        "keys": loaded["keys"][rows],
    }


def train(trainer: Any, batches: list[dict[str, Any]], rank: int, world: int) -> dict[str, Any]:
    """Terms and weights after one step of every phase, and weights after ten more of each."""
    out: dict[str, Any] = {"terms": {}, "before": weights(trainer)}
    for _ in phases(trainer):
        torch.manual_seed(0)
        output = trainer.train_step(part(batches[0], rank, world))
        phase = trainer.phase() or "training"
        out["terms"] |= {f"{phase}, {name}": float(value) for name, value in output["terms"].items()}
    out["first"] = weights(trainer)
    trainer.logger = SimpleNamespace(log=lambda *_: None)  # which does not begin an epoch twice
    for _ in phases(trainer):
        for step in range(STEPS):
            trainer.train_step(part(batches[step % len(batches)], rank, world))
    out["last"] = weights(trainer)
    return out


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    """Parameters and buffers of all players, and the teacher's."""
    named = {}
    for player in trainer.players:
        for i, module in enumerate(player.modules):
            bare = getattr(module, "module", module)
            named |= {f"{player.name}.{i}.{key}": value.clone() for key, value in bare.state_dict().items()}
    if trainer.teaching is not None:
        named |= {f"teacher.{key}": value.clone() for key, value in trainer.teaching.network.state_dict().items()}
    return named


def process(rank: int, folder: str, plans: dict[str, Any], dataset_json: dict[str, Any]) -> None:
    """What each of the processes does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    stock.DDP = lambda module, device_ids: DistributedDataParallel(module)
    outcomes: dict[str, Any] = {}
    for name in CASES:
        batches = torch.load(f"{folder}/{name}.pt", weights_only=False)
        try:
            outcomes[name] = train(build(name, plans, dataset_json), batches, rank, WORLD)
        except Exception:  # told by the test of its trainer; the others go on
            outcomes[name] = traceback.format_exc()
    torch.save(outcomes, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def outcomes(
    dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[dict[str, Any], list[Any]]]:
    """For every case what one process found, and what each of the two did."""
    folder = tmp_path_factory.mktemp("processes")
    plans = json.loads((dataset / "nnUNetPlans_tiny.json").read_text())
    dataset_json = json.loads((dataset / "dataset.json").read_text())
    patch = pytest.MonkeyPatch()
    patch.setenv("nnUNet_n_proc_DA", "0")
    alone = {}
    for name in CASES:
        trainer = build(name, plans, dataset_json)
        batches = [next(trainer.dataloader_train) for _ in range(3)]
        torch.save(batches, folder / f"{name}.pt")
        alone[name] = train(trainer, batches, 0, 1)
    multiprocessing.start_processes(process, (str(folder), plans, dataset_json), nprocs=WORLD, start_method="spawn")
    patch.undo()
    found = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]
    return lambda name: (alone[name], [one[name] for one in found])


PER_PROCESS = ("variance", "valid_")
"""Figures for the log alone, that each process takes of its own samples."""


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_what_one_trains(name: str, outcomes: Any) -> None:
    alone, both = outcomes(name)
    for one in both:
        assert isinstance(one, dict), one
    assert len(alone["terms"]) == len(both[0]["terms"]) > 0
    for term, value in alone["terms"].items():
        if not any(figure in term for figure in PER_PROCESS):
            mean = sum(one["terms"][term] for one in both) / WORLD
            assert mean == pytest.approx(value, rel=1e-5, abs=1e-5), term
    for key, value in alone["first"].items():
        # the way that a rate of 1e-3 went, so that what is compared is as long as a gradient
        before = alone["before"][key].double()
        ways = [1e3 * (after.double() - before) for after in (both[0]["first"][key], value)]
        torch.testing.assert_close(*ways, rtol=1e-3, atol=1e-3, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("name", CASES)
def test_every_player_is_in_step_after_ten_iterations(name: str, outcomes: Any) -> None:
    _, both = outcomes(name)
    for one in both:
        assert isinstance(one, dict), one
    for key, value in both[0]["last"].items():
        assert torch.equal(value, both[1]["last"][key]), key
    moved = [not torch.equal(value, both[0]["first"][key]) for key, value in both[0]["last"].items()]
    assert any(moved)
