"""What only a GPU can show, in one go: every trainer in 2D and 3D under mixed precision, compiled and not.

    python benchmarks/gpu.py                                 # at most ten minutes; writes gpu.json and gpu.md
    python benchmarks/gpu.py -device cpu --preset cpu --steps 2 --no-compile -tr SourceOnlyTrainer     # dry run

A row is ``--steps`` training steps on random images of the planned patch and batch size: whether all losses are finite,
the median time of a step against the stock trainer's, the peak memory, and the time to predict a million voxels. Rows
that do not fit into ``--minutes`` any more are named.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from overhead import STOCK, batch_of, prepare

from nnunet_crossmod.data import CrossmodBlock
from nnunet_crossmod.paths import load_trainer, trainer_names
from nnunet_crossmod.plans import configure

WARM_UP = 5  # steps that are not timed: compilation, choice of algorithms
COLUMNS = {
    "configuration": "configuration",
    "trainer": "trainer",
    "compiled": "compiled",
    "step_ms": "step, ms",
    "ratio": "of stock",
    "peak_gib": "peak, GiB",
    "predict_ms": "prediction of 10⁶ voxels, ms",
    "finite": "finite",
}


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", dest="configurations", nargs="+", default=["2d", "3d_fullres"])
    parser.add_argument("-tr", dest="trainers", nargs="+", default=trainer_names(), metavar="TRAINER")
    parser.add_argument("-device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument(
        "-o", dest="output", type=Path, default=Path(), metavar="FOLDER", help="of gpu.json, gpu.md (.)"
    )
    parser.add_argument("--steps", type=int, default=50, help="training steps a row (50)")
    parser.add_argument("--minutes", type=float, default=9.5, help="no row begins after that (9.5)")
    parser.add_argument("--preset", choices=["cpu"], help="small networks and batches")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    args = parser.parse_args()
    rows = list(measured(args))
    device = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    record = {"device": device, "torch": torch.__version__, "steps": args.steps, "preset": args.preset, "rows": rows}
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "gpu.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    table = markdown(rows, f"{device}, PyTorch {torch.__version__}, {args.steps} steps a row")
    (args.output / "gpu.md").write_text(table, encoding="utf-8")
    print(table)


def measured(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows, stock trainer first, since the others are compared with it."""
    end = time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory() as folder:
        preprocessed = prepare(Path(folder))
        stock: dict[tuple[str, bool], float] = {}
        compiled = [False] if args.no_compile else [False, True]
        for configuration, compiles, name in product(args.configurations, compiled, [STOCK, *args.trainers]):
            row = {"configuration": configuration, "trainer": name, "compiled": compiles}
            if time.monotonic() > end:
                yield row | {"left_out": "no time left"}
                continue
            try:
                row |= one_row(preprocessed, configuration, name, compiles, args)
            except Exception as error:  # one failing row must not cost the others
                row |= {"left_out": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
            if name == STOCK and "step_ms" in row:
                stock[configuration, compiles] = row["step_ms"]
            if "step_ms" in row and (configuration, compiles) in stock:
                row["ratio"] = row["step_ms"] / stock[configuration, compiles]
            print(row, flush=True)
            yield row


def one_row(
    preprocessed: Path, configuration: str, name: str, compiles: bool, args: argparse.Namespace
) -> dict[str, Any]:
    """Train one trainer for some steps, then predict with it."""
    os.environ["nnUNet_compile"] = "t" if compiles else "f"  # noqa: SIM112 - nnU-Net's spelling
    torch._dynamo.reset()
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    dataset_json = json.loads((preprocessed / "dataset.json").read_text())
    kind = nnUNetTrainer if name == STOCK else load_trainer(name)
    settings: dict[str, Any] = {}
    if name != STOCK:
        # every term plays from the first step on; two epochs, where a method has two stages
        options = kind._hyperparameter_types
        early = {"warm_up": 0.0, "adversary_start": 0.0, "adaptation_ramp": 0.0, "teacher_start": 0.0}
        settings = {option: value for option, value in early.items() if option in options}
        settings |= dict(kind.presets.get(args.preset or "", {}))
        settings |= {"num_epochs": 2, "num_iterations_per_epoch": args.steps}
    plans = configure(plans, "gpu", settings, preset=args.preset) | {"continue_training": False}
    device = torch.device(args.device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with contextlib.redirect_stdout(io.StringIO()):
        trainer: Any = kind(plans, configuration, 0, dataset_json, device)
        trainer.initialize()
    trainer.network.train()
    losses, seconds = train(trainer, name, dataset_json, args.steps)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    return {
        "step_ms": 1000 * statistics.median(seconds[min(WARM_UP, len(seconds) - 1) :]),
        "peak_gib": peak,
        "predict_ms": 1000 * predict(trainer),
        "finite": all(bool(torch.isfinite(loss).all()) for loss in losses),
    }


def train(trainer: Any, name: str, dataset_json: dict[str, Any], steps: int) -> tuple[list[torch.Tensor], list[float]]:
    """Losses and seconds of every step; a method of two stages takes half of the steps in each."""
    everything = CrossmodBlock.from_dataset_json(dataset_json).cases
    n = trainer.batch_size
    of_modality = [[c for c in everything if everything[c].modality == m] for m in ("cine", "lge")]
    loaded = batch_of(trainer, n, [of_modality[i % 2][0] for i in range(n)])
    first = 0
    if name != STOCK:
        loaded["data"] = loaded["data"][:, :1]
        trainer.seen = {c: seen for c in everything if (seen := trainer.see(everything[c])) is not None}
        if len({case.modality for case in trainer.seen.values()}) == 1:
            loaded["keys"] = [next(iter(trainer.seen))] * n
        first = trainer.segmenter.first_epoch
    losses, seconds = [], []
    for step in range(steps):
        if name != STOCK:
            trainer.current_epoch = first if step >= steps // 2 else 0
        began = time.perf_counter()
        output = trainer.train_step({**loaded, "target": list(loaded["target"])})
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        losses.append(torch.as_tensor(output["loss"]).detach())
    return losses, seconds


def predict(trainer: Any) -> float:
    """Seconds to predict a million voxels, tile by tile, without test-time augmentation."""
    trainer.set_deep_supervision_enabled(False)
    network = trainer.network.eval()
    size = trainer.configuration_manager.patch_size
    image = torch.randn(1, 1, *size, device=trainer.device)
    x = torch.cat((image, torch.ones_like(image)), 1)
    voxels = image.numel()
    with torch.inference_mode(), torch.autocast(trainer.device.type, enabled=trainer.device.type == "cuda"):
        taken = []
        for _ in range(6):
            began = time.perf_counter()
            network(x)
            if trainer.device.type == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - began)
    return statistics.median(taken[3:]) * 1e6 / voxels


def markdown(rows: list[dict[str, Any]], caption: str) -> str:
    """The table, and what was left out."""

    def cell(value: Any) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        return f"{value:.2f}" if isinstance(value, float) else "–" if value is None else str(value)

    done = [row for row in rows if "left_out" not in row]
    lines = [f"{caption}\n", f"| {' | '.join(COLUMNS.values())} |", "|" + "---|" * len(COLUMNS)]
    lines += [f"| {' | '.join(cell(row.get(column)) for column in COLUMNS)} |" for row in done]
    left = [row for row in rows if "left_out" in row]
    lines += [f"\nLeft out: {row['configuration']} {row['trainer']}: {row['left_out']}" for row in left]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
