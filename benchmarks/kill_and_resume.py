"""Kill trainings at random moments, go on with ``--c``, and count what was lost.

    python benchmarks/kill_and_resume.py                        # every trainer, six kills each
    python benchmarks/kill_and_resume.py -tr CISFATrainer --kills 10 --seed 1

Every trainer learns the phantom with a tiny network and writes a checkpoint after every epoch. Its process is killed
(SIGKILL) at a random moment of an epoch, of a checkpoint or of what lies between two stages, and started again with
``--c``. A trainer passes if every start goes on at the epoch of the last checkpoint (no iteration lost beyond it), all
files that were left can be read, and the training goes on after the last kill.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from overhead import prepare
from tqdm import tqdm

from nnunet_crossmod.paths import load_trainer, trainer_names
from nnunet_crossmod.plans import configure, write_plans

EPOCHS = 1000  # more than any run reaches before its last kill
LAST = 3  # epochs after the last kill
LOGS = "training_log_*.txt"


def main() -> None:
    """Kill, resume, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-tr", dest="trainers", nargs="+", default=trainer_names(), metavar="TRAINER")
    parser.add_argument("-c", dest="configuration", default="2d")
    parser.add_argument("--kills", type=int, default=6, help="per trainer (6)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    args = parser.parse_args()
    random.seed(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        preprocessed = prepare(Path(folder))
        rows = [killed(name, preprocessed, Path(folder), args) for name in tqdm(args.trainers, unit="trainer")]
    print(f"{'trainer':<24} kills  lost  damaged  finished")
    for name, kills, lost, damaged, finished in rows:
        print(f"{name:<24} {kills:5} {lost:5} {len(damaged):8}  {'yes' if finished else 'NO'}  {' '.join(damaged)}")
    kills, lost, damaged = (sum(x) for x in zip(*((k, i, len(d)) for _, k, i, d, _ in rows), strict=True))
    print(f"{'all':<24} {kills:5} {lost:5} {damaged:8}")
    sys.exit(bool(lost or damaged or not all(row[-1] for row in rows)))


def killed(
    name: str, preprocessed: Path, base: Path, args: argparse.Namespace
) -> tuple[str, int, int, list[str], bool]:
    """One trainer: kills, iterations lost beyond the last checkpoint, damaged files, whether it went on afterwards."""
    small_plans(name, preprocessed, {"num_epochs": EPOCHS})
    plans_name = f"small_{name}"
    fold = base / "nnUNet_results" / preprocessed.name / f"{name}__{plans_name}__{args.configuration}" / "fold_0"
    command = [sys.executable, "-m", "nnunet_crossmod.nnunet_runs", "train", preprocessed.name, args.configuration, "0"]
    command += ["--threads", "1", "-tr", name, "-p", plans_name, "-device", "cpu"]
    lost, kills = 0, 0
    damaged: list[str] = []
    while kills <= args.kills:
        checkpoint = fold / "checkpoint_latest.pth"
        saved, earlier = epoch_of(checkpoint), set(fold.glob(LOGS))
        process = subprocess.Popen(
            [*command, *(["--resume"] if saved else [])],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "nnUNet_n_proc_DA": "0", "OMP_NUM_THREADS": "1"},
        )
        try:
            first = wait_for_epoch(process, fold, earlier)
            if first is None:
                return name, kills, lost, [*damaged, "it did not start again"], False
            lost += 2 * abs(first - saved)
            if kills == args.kills:
                finished = wait_for_checkpoint(process, checkpoint, saved + LAST)
                return name, kills, lost, damaged, finished
            # an epoch takes about as long as its checkpoint: either may be hit
            wait_for_checkpoint(process, checkpoint, saved + random.randint(1, 2))
            time.sleep(random.uniform(0, 0.5))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        kills += 1
        damaged += [file.name for file in sorted(fold.glob("*")) if not readable(file)]
    raise AssertionError("unreachable")


def small_plans(name: str, preprocessed: Path, settings: dict[str, Any]) -> None:
    """Write plans ``small_TRAINER``: a tiny network, and everything that a trainer begins later within three epochs."""
    kind = load_trainer(name)
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    settings = {
        "num_iterations_per_epoch": 2,
        "num_val_iterations_per_epoch": 1,
        "save_every": 1,
        "seed": 0,
        **settings,
    }
    settings |= kind.presets.get("cpu", {})
    early = dict.fromkeys(("stage_1", "warm_up", "teacher_start"), min(0.5, 3 / settings["num_epochs"]))
    settings |= {option: value for option, value in early.items() if option in kind._hyperparameter_types}
    small = configure(plans, f"small_{name}", settings, preset="cpu", batch_size=2)
    for planned in small["configurations"].values():
        if "architecture" in planned:
            network = planned["architecture"]["arch_kwargs"]
            network["features_per_stage"] = [4] * network["n_stages"]
    write_plans(small, preprocessed, overwrite=True)


def wait_for_epoch(process: subprocess.Popen[bytes], fold: Path, earlier: set[Path]) -> int | None:
    """The first epoch that the log of this start names; ``None`` where the process ends before."""
    while process.poll() is None:
        for log in set(fold.glob(LOGS)) - earlier:  # every start has a log of its own
            if found := re.search(r": Epoch (\d+)", log.read_text()):
                return int(found[1])
        time.sleep(0.05)
    return None


def wait_for_checkpoint(process: subprocess.Popen[bytes], checkpoint: Path, epoch: int) -> bool:
    """Whether the training writes the checkpoint of an epoch, within a minute."""
    end = time.time() + 60
    while process.poll() is None and time.time() < end:
        if epoch_of(checkpoint) >= epoch:
            return True
        time.sleep(0.05)
    return False


def epoch_of(checkpoint: Path) -> int:
    """The epoch at which a checkpoint goes on; 0 where there is none."""
    if not checkpoint.is_file():
        return 0
    return int(torch.load(checkpoint, map_location="cpu", weights_only=False)["current_epoch"])


def readable(file: Path) -> bool:
    """Whether a file that a killed training left can be read; those that are still being written have other names."""
    try:
        if file.suffix == ".pth":
            torch.load(file, map_location="cpu", weights_only=False)
        elif file.suffix == ".json":
            json.loads(file.read_text())
    except Exception:
        return False
    return True


if __name__ == "__main__":
    main()
