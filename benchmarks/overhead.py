"""What a training step and a prediction cost, against the stock ``nnUNetTrainer`` on the same plans and images.

    python benchmarks/overhead.py                # 2D and 3D, on CUDA where there is one
    python benchmarks/overhead.py -c 2d -device cpu --steps 30
    python benchmarks/overhead.py --network swin_unetr -tr SourceOnlyTrainer AICLTrainer --steps 3

With ``--network`` the trainers' rows have that network; the stock row has the planned one, on the same images. What is
held for the backward pass is counted once in a step of its own: the part of the memory that grows with the batch.

Rows alternate within one process and medians are compared, so that a slow minute of the machine hits all rows alike.
Batches are random images of the planned patch size; data loading is not timed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor

from nnunet_crossmod.data import CrossmodBlock
from nnunet_crossmod.dataset_conversion import phantom
from nnunet_crossmod.nnunet_runs import plan_and_preprocess, use_folders
from nnunet_crossmod.paths import load_trainer, trainer_names
from nnunet_crossmod.plans import NETWORKS, configure

STOCK = "nnUNetTrainer"
BATCH = {"2d": 12, "3d_fullres": 2}
CIN = "CIN alone"


def main() -> None:
    """Time every trainer and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", dest="configurations", nargs="+", default=["2d", "3d_fullres"], choices=list(BATCH))
    parser.add_argument("-tr", dest="trainers", nargs="+", default=trainer_names(), metavar="TRAINER")
    parser.add_argument("-device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--steps", type=int, default=20, help="timed steps a row")
    parser.add_argument("--network", choices=list(NETWORKS), help="of the trainers' rows, instead of the planned one")
    parser.add_argument("--full", action="store_true", help="the planned network instead of the CPU preset")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        preprocessed = prepare(Path(folder))
        for configuration in args.configurations:
            measure(configuration, preprocessed, args)


def prepare(base: Path) -> Path:
    """A phantom data set of ordinary size, planned."""
    use_folders(base)
    with contextlib.redirect_stdout(io.StringIO()):
        raw = phantom.convert(902, subjects=4, test_subjects=0, size=128, slices=16)
    plan_and_preprocess(902, ["2d", "3d_fullres"], log=base / "log")
    return base / "nnUNet_preprocessed" / raw.name


def measure(configuration: str, preprocessed: Path, args: argparse.Namespace) -> None:
    """Time one configuration."""
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    plans["configurations"][configuration]["batch_size"] = BATCH[configuration]
    preset = None if args.full else "cpu"
    other = configure(plans, "other", {}, preset=preset, network=args.network)
    plans = configure(plans, "planned", {}, preset=preset)
    plans["configurations"][configuration]["patch_size"] = other["configurations"][configuration]["patch_size"]
    of_network = NETWORKS[args.network][0] if args.network else {}
    dataset_json = json.loads((preprocessed / "dataset.json").read_text())
    device = torch.device(args.device)

    def build(kind: type, **settings: Any) -> Any:
        own = json.loads(json.dumps(plans if kind is nnUNetTrainer else other)) | {"continue_training": False}
        own["crossmod"] = {**of_network, **settings}
        with contextlib.redirect_stdout(io.StringIO()):
            trainer = kind(own, configuration, 0, dataset_json, device)
            trainer.initialize()
        trainer.network.train()
        return trainer

    everything = CrossmodBlock.from_dataset_json(dataset_json).cases
    source, target = ([c for c in everything if everything[c].modality == m] for m in ("cine", "lge"))
    n = plans["configurations"][configuration]["batch_size"]
    stock = build(nnUNetTrainer)
    loaded = batch_of(stock, n, [(source, target)[i % 2][0] for i in range(n)])
    rows: dict[str, Callable[[], Any]] = {}
    levels = 1 if of_network.get("enable_deep_supervision") is False else None
    image = {**loaded, "data": loaded["data"][:, :1], "target": loaded["target"][:levels]}
    rows[STOCK] = stepping(stock, loaded)
    conditional = build(load_trainer("SourceOnlyTrainer"), conditioning="encoder")
    conditional.seen = dict(everything)
    rows[CIN] = stepping(conditional, {**image, "keys": [source[0]] * n})
    for name in args.trainers:
        kind = load_trainer(name)
        small = {} if args.full else dict(kind.presets.get("cpu", {}))
        early = {"warm_up": 0.0, "adaptation_ramp": 0.0, "teacher_start": 0.0, "teacher_ramp": 0.0}
        warm = {name: value for name, value in early.items() if name in kind._hyperparameter_types}
        first = build(kind, **small, **warm)
        for epoch in sorted({0, first.segmenter.first_epoch}):
            trainer = build(kind, **small, **warm) if epoch else first
            trainer.current_epoch = epoch
            trainer.seen = {c: seen for c in everything if (seen := trainer.see(everything[c])) is not None}
            only = {case.modality for case in trainer.seen.values()}
            keys = loaded["keys"] if len(only) > 1 else [next(iter(trainer.seen))] * n
            phase = f", {trainer.phase()}" if trainer.phase() else ""
            rows[name + phase] = stepping(trainer, {**image, "keys": keys})
    report(f"{configuration}: training step, {n} images of {list(loaded['data'].shape[2:])}", rows, args.steps, device)

    def predicting(trainer: Any) -> Callable[[], Any]:
        x = loaded["data"][:1].to(device)
        trainer.set_deep_supervision_enabled(False)
        network = trainer.network.eval()

        def predict() -> None:
            with torch.inference_mode():
                network(x)

        return predict

    report(
        f"{configuration}: prediction of one tile", {STOCK: predicting(stock), CIN: predicting(conditional)},
        args.steps * 3, device,
    )  # fmt: skip


def batch_of(stock: Any, n: int, keys: list[str]) -> dict[str, Any]:
    """Random images with a modality channel and blocky labels at all deep-supervision levels."""
    size = stock.configuration_manager.patch_size
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n, 1, *size, generator=generator)
    channel = torch.ones(n, 1, *size)
    coarse = torch.randint(0, 4, (n, 1, *[max(1, s // 16) for s in size]), generator=generator).float()
    levels = [
        [round(s * f) for s, f in zip(size, scale, strict=True)] for scale in stock._get_deep_supervision_scales()
    ]
    target = [torch.nn.functional.interpolate(coarse, level).to(torch.int16) for level in levels]
    return {"data": torch.cat((images, channel), 1), "target": target, "keys": keys}


def stepping(trainer: Any, loaded: dict[str, Any]) -> Callable[[], Any]:
    """One training step on the given batch."""

    def step() -> None:
        trainer.train_step({**loaded, "target": list(loaded["target"])})

    return step


def report(title: str, rows: dict[str, Callable[[], Any]], repetitions: int, device: torch.device) -> None:
    """Alternate the rows and print medians and ratios, and what a step holds for its backward pass."""
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for repetition in range(repetitions + 3):
        for name, run in rows.items():
            began = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if repetition >= 3:
                seconds[name].append(time.perf_counter() - began)
    print(f"\n{title}, median of {repetitions} on {device.type}")
    reference = seconds[STOCK]
    for name, taken in seconds.items():
        paired = statistics.median(mine / theirs for mine, theirs in zip(taken, reference, strict=True))
        held = held_for_backward(rows[name])
        memory = f"   {held / 2**20:7.0f} MiB held" if held else ""
        print(f"  {name:<26} {1000 * statistics.median(taken):9.1f} ms   {paired:5.2f} x{memory}")


def held_for_backward(run: Callable[[], Any]) -> int:
    """Bytes of the tensors that a step keeps for its backward passes, each counted once."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(storages.values())


if __name__ == "__main__":
    main()
