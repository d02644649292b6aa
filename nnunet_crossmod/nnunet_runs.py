"""nnU-Net's planning, training and prediction, run for the user: output in a log, progress in a bar, as many processes
and threads as the machine has room for.

``nnUNetv2_train`` takes every core on the CPU, whatever ``OMP_NUM_THREADS`` says, and two such trainings side by side
slow each other down several-fold. Training and prediction therefore run as ``python -m nnunet_crossmod.nnunet_runs``,
which sets the number of threads and calls the functions behind nnU-Net's commands with the same arguments.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.paths import FINAL, trainers_folder

__all__ = ["FOLDERS", "cores", "plan_and_preprocess", "predict", "preprocess", "train", "use_folders"]

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def use_folders(base: Path) -> None:
    """Make nnU-Net's three folders below ``base`` where they are missing, and set its variables for this process."""
    for name in FOLDERS:
        folder = (base / name).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(folder)
    os.environ["nnUNet_extTrainer"] = str(trainers_folder())  # noqa: SIM112 - nnU-Net's spelling


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def plan_and_preprocess(dataset: int | str, configurations: Sequence[str], *, log: Path, verify: bool = False) -> None:
    """``nnUNetv2_plan_and_preprocess`` with as many processes as there are cores.

    Args:
        dataset: id.
        configurations: to preprocess.
        log: gets the command's output.
        verify: check the raw data set first.

    Raises:
        CrossmodError: the command is not installed, or failed.
    """
    processes = str(min(8, cores()))
    command = [
        _executable("nnUNetv2_plan_and_preprocess"),
        "-d",
        str(dataset),
        "-c",
        *configurations,
        "-npfp",
        processes,
    ]
    command += ["-np", *[processes] * len(configurations), *(["--verify_dataset_integrity"] if verify else [])]
    _run_logged(command, _preparing(processes), log, "preprocess", None, r"\d+/\d+ \[")


def preprocess(dataset: int, configuration: str, plans: str, *, preprocessed: Path, log: Path) -> None:
    """``nnUNetv2_preprocess`` with as many processes as there are cores.

    Args:
        dataset: id.
        configuration: to preprocess.
        plans: name of the plans.
        preprocessed: stands in for ``$nnUNet_preprocessed``; holds the data set's folder with plans.
        log: gets the command's output.

    Raises:
        CrossmodError: the command is not installed, or failed.
    """
    processes = str(min(8, cores()))
    command = [_executable("nnUNetv2_preprocess"), "-d", str(dataset), "-plans_name", plans, "-c", configuration]
    environment = {**_preparing(processes), "nnUNet_preprocessed": str(preprocessed)}
    _run_logged([*command, "-np", processes], environment, log, "preprocess", None, r"\d+/\d+ \[")


def _preparing(processes: str) -> dict[str, str]:
    """The environment of planning and preprocessing."""
    environment = {**_threads(1), "nnUNet_def_n_proc": processes}
    if os.environ.get("nnUNet_n_proc_DA") == "0":  # noqa: SIM112 - nnU-Net's spelling
        environment["nnUNet_n_proc_DA"] = processes  # the planner sets that number of threads, which cannot be 0
    return environment


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
    fold: int | str = 0,
    resume: bool = False,
    threads: int | None = None,
    show_progress: bool = True,
) -> None:
    """As ``nnUNetv2_train``; ``resume`` continues from the last checkpoint.

    Args:
        dataset: id or name.
        configuration: as planned.
        trainer: name of the class.
        plans: name of the plans.
        device: ``cpu``, ``cuda`` or ``mps``.
        log: gets what the training prints.
        title: of the bar.
        epochs: length of the bar.
        fold: number, or ``all``.
        resume: continue from the last checkpoint.
        threads: of PyTorch on the CPU, or processes that load data for a GPU; all cores by default.
        show_progress: show the bar, where the output is a terminal.

    Raises:
        CrossmodError: the training failed; the message names its log.
    """
    model = [str(dataset), configuration, str(fold), "-tr", trainer, "-p", plans]
    resumed = ["--resume"] if resume else []
    threads = threads or cores()
    _run_logged(
        _child("train", threads, [*model, "-device", device, *resumed]),
        _workers(threads, device),
        log,
        title,
        epochs,
        "Epoch time",
        show_progress,
    )


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
    fold: int | str = 0,
    checkpoint: str = FINAL,
    resume: bool = False,
    threads: int | None = None,
    show_progress: bool = True,
) -> None:
    """As ``nnUNetv2_predict`` with the model of one fold, in one process.

    Args:
        scans: folder of cases with their modality channel.
        output: gets the label maps.
        dataset: id or name.
        configuration: as trained.
        trainer: name of the class.
        plans: name of the plans.
        device: ``cpu``, ``cuda`` or ``mps``.
        log: gets what the prediction prints.
        title: of the bar.
        number: of cases, the length of the bar.
        mirroring: test-time augmentation.
        fold: number, or ``all``.
        checkpoint: file name.
        resume: keep the predictions that are there.
        threads: of PyTorch; all cores by default.
        show_progress: show the bar, where the output is a terminal.

    Raises:
        CrossmodError: the prediction failed; the message names its log.
    """
    model = [str(dataset), configuration, str(fold), "-tr", trainer, "-p", plans]
    options = ["-i", str(scans), "-o", str(output), "-chk", checkpoint]
    options += [*([] if mirroring else ["--disable_tta"]), *(["--resume"] if resume else [])]
    threads = threads or cores()
    _run_logged(
        _child("predict", threads, [*model, "-device", device, *options]),
        _workers(threads, device),
        log,
        title,
        number,
        "perform_everything_on_device",  # nnU-Net prints that for every case
        show_progress,
    )


def _threads(number: int) -> dict[str, str]:
    return {f"{library}_NUM_THREADS": str(number) for library in ("OMP", "MKL", "OPENBLAS")}


def _workers(threads: int, device: str) -> dict[str, str]:
    """nnU-Net's own variables, where the user has not set them."""
    # on the CPU a worker would take its core from the training, and seconds to start
    loaders = 0 if device == "cpu" else min(12, threads)
    wanted = {"nnUNet_n_proc_DA": str(loaders), "nnUNet_def_n_proc": str(min(8, threads))}
    return {**_threads(threads), **{name: os.environ.get(name, value) for name, value in wanted.items()}}


def _child(command: str, threads: int, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "nnunet_crossmod.nnunet_runs", command, "--threads", str(threads), *arguments]


def _executable(name: str) -> str:
    beside = Path(sys.executable).parent / name
    path = str(beside) if beside.exists() else shutil.which(name)
    if path is None:
        raise CrossmodError(f"{name} is not on the PATH: pip install nnunetv2 into this environment")
    return path


def _run_logged(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    title: str,
    steps: int | None,
    step: str,
    show_progress: bool = True,
) -> None:
    """Run a command with its output in a log and a bar that moves with every line that matches ``step``."""
    from tqdm import tqdm

    with (
        log.open("w", buffering=1, encoding="utf-8") as file,
        tqdm(total=steps, desc=f"     {title}", unit="step", disable=None if show_progress else True) as bar,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # unbuffered, or the bar would wait for a full pipe
            env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
        ) as process,
    ):
        for line in process.stdout or ():
            file.write(line)
            if re.search(step, line):
                bar.update()
    if process.returncode != 0:
        raise CrossmodError(f"{title} failed; the last lines of {log} say why")


def _main() -> None:
    """Train or predict in this process, with the number of threads given."""
    parser = argparse.ArgumentParser(prog="python -m nnunet_crossmod.nnunet_runs", description=_main.__doc__)
    parser.add_argument("command", choices=["train", "predict"])
    parser.add_argument("--threads", type=int, required=True)
    for name in ("dataset", "configuration", "fold"):
        parser.add_argument(name)
    for flag, name in (("-tr", "trainer"), ("-p", "plans"), ("-device", "device")):
        parser.add_argument(flag, dest=name, required=True)
    for flag, name in (("-i", "scans"), ("-o", "output"), ("-chk", "checkpoint")):
        parser.add_argument(flag, dest=name)
    parser.add_argument("--disable_tta", action="store_true")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()

    import torch

    # as nnU-Net's commands: on a GPU, threads of the CPU only get into each other's way
    torch.set_num_threads(args.threads if args.device == "cpu" else 1)
    if args.command == "train":
        _train(args)
    else:
        _predict(args)


def _train(args: argparse.Namespace) -> None:
    import torch
    from nnunetv2.run.run_training import run_training

    run_training(
        args.dataset,
        args.configuration,
        args.fold,
        args.trainer,
        args.plans,
        continue_training=args.resume,
        device=torch.device(args.device),
    )


def _predict(args: argparse.Namespace) -> None:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.file_path_utilities import get_output_folder

    dataset = int(args.dataset) if args.dataset.isdigit() else args.dataset
    folder = get_output_folder(dataset, args.trainer, args.plans, args.configuration)
    predictor = nnUNetPredictor(
        use_mirroring=not args.disable_tta, device=torch.device(args.device), allow_tqdm=False, verbose=False
    )
    fold = args.fold if args.fold == "all" else int(args.fold)
    predictor.initialize_from_trained_model_folder(folder, (fold,), args.checkpoint)
    Path(args.output).mkdir(parents=True, exist_ok=True)
    predictor.predict_from_files_sequential(args.scans, args.output, overwrite=not args.resume)


if __name__ == "__main__":
    _main()
