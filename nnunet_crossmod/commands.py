"""nnU-Net's own commands, run for the user: their words in a log, their progress in a bar."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.paths import trainers_folder

__all__ = ["FOLDERS", "predict", "run_logged", "train", "use_folders"]

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def use_folders(base: Path) -> None:
    """Make nnU-Net's three folders below ``base`` where they are missing, and set its variables for this process."""
    for name in FOLDERS:
        folder = (base / name).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(folder)
    os.environ["nnUNet_extTrainer"] = str(trainers_folder())  # noqa: SIM112 - nnU-Net's spelling


def train(
    dataset: int | str,
    configuration: str,
    trainer: str,
    plans: str,
    *,
    device: str,
    log: Path,
    title: str,
    epochs: int,
    fold: int = 0,
    resume: bool = False,
) -> None:
    """``nnUNetv2_train``; ``resume`` continues from the last checkpoint."""
    model = ["-tr", trainer, "-p", plans, "-device", device, *(["--c"] if resume else [])]
    run_logged(["nnUNetv2_train", str(dataset), configuration, str(fold), *model], log, title, epochs, "Epoch time")


def predict(
    scans: Path,
    output: Path,
    dataset: int | str,
    configuration: str,
    trainer: str,
    plans: str,
    *,
    device: str,
    log: Path,
    title: str,
    number: int,
    mirroring: bool = True,
    fold: int = 0,
    checkpoint: str = "checkpoint_final.pth",
    resume: bool = False,
) -> None:
    """``nnUNetv2_predict`` with the model of one fold; ``resume`` keeps the predictions that are there."""
    command = ["nnUNetv2_predict", "-i", str(scans), "-o", str(output), "-d", str(dataset), "-c", configuration]
    command += ["-f", str(fold), "-tr", trainer, "-p", plans, "-chk", checkpoint, "-device", device]
    command += ["-npp", "1", "-nps", "1", *([] if mirroring else ["--disable_tta"])]
    run_logged(command + (["--continue_prediction"] if resume else []), log, title, number, "done with")


def _executable(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise CrossmodError(f"{name} is not on the PATH: pip install nnunetv2 into this environment")
    return found


def run_logged(
    command: Sequence[str], log: Path, title: str, steps: int | None = None, step: str = r"\d+/\d+ \["
) -> None:
    """Run a command with its output in a log and a bar that moves with every line that matches ``step``."""
    with (
        log.open("w", buffering=1, encoding="utf-8") as file,
        tqdm(total=steps, desc=f"     {title}", unit="step", disable=None) as bar,
        subprocess.Popen(
            [_executable(command[0]), *command[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},  # or the bar would wait for a full pipe
        ) as process,
    ):
        update: Callable[[], object] = bar.update
        for line in process.stdout or ():
            file.write(line)
            if re.search(step, line):
                update()
    if process.returncode != 0:
        raise CrossmodError(f"{command[0]} failed; its last words stand in {log}")
