"""A small phantom data set, planned and preprocessed once a session by nnU-Net itself."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import plan_and_preprocess, tiny

from nnunet_crossmod.dataset_conversion import phantom
from nnunet_crossmod.paths import load_trainer, trainers_folder
from nnunet_crossmod.plans import write_plans

DATASET_ID = 901
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


# where the tests run side by side, each process and its children get their share of the cores
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    THREADS = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    torch.set_num_threads(THREADS)
    os.environ.update({f"{library}_NUM_THREADS": str(THREADS) for library in ("OMP", "MKL", "OPENBLAS")})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a planned data set is no quick test."""
    for item in items:
        if "dataset" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def nnunet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """nnU-Net's three folders, set in the environment; one process loads and augments, which can be seeded."""
    base = tmp_path_factory.mktemp("nnunet")
    folders = {name: base / name for name in FOLDERS}
    for folder in folders.values():
        folder.mkdir()
    # a process more would import PyTorch for seconds, and is worth nothing on scans as small as these
    changed = {
        "nnUNet_def_n_proc": "1",
        **{name: str(folder) for name, folder in folders.items()},
        "nnUNet_extTrainer": str(trainers_folder()),
    }
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    yield folders
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="session")
def dataset(nnunet: dict[str, Path]) -> Path:
    """The preprocessed folder of the phantom, with ``nnUNetPlans_tiny``."""
    phantom.convert(DATASET_ID, subjects=6, test_subjects=1, size=48, slices=6, seed=1)
    plan_and_preprocess(DATASET_ID)
    folder = next(nnunet["nnUNet_preprocessed"].glob(f"Dataset{DATASET_ID}_*"))
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    write_plans(tiny(plans, "nnUNetPlans_tiny"), folder)
    return folder


MakeTrainer = Callable[..., Any]


@pytest.fixture
def make_trainer(dataset: Path, nnunet: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeTrainer]:
    """Build a trainer on the tiny plans: ``make_trainer("AICLTrainer", "2d", fpc_weight=1.0)``."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")

    def make(
        name: str | type,
        configuration: str = "2d",
        *,
        change_plans: Callable[[dict[str, Any]], None] | None = None,
        change_dataset: Callable[[dict[str, Any]], None] | None = None,
        fold: int | str = 0,
        **settings: Any,
    ) -> Any:
        plans = json.loads((dataset / "nnUNetPlans_tiny.json").read_text())
        dataset_json = json.loads((dataset / "dataset.json").read_text())
        plans["crossmod"].update(settings)
        if change_plans is not None:
            change_plans(plans)
        if change_dataset is not None:
            change_dataset(dataset_json)
        plans["continue_training"] = False
        kind = load_trainer(name) if isinstance(name, str) else name
        return kind(plans, configuration, fold, dataset_json, torch.device("cpu"))

    yield make
    shutil.rmtree(nnunet["nnUNet_results"])
    nnunet["nnUNet_results"].mkdir()
