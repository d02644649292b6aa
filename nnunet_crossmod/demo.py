"""``crossmod demo``: the whole way once, on the phantom, with nnU-Net's own commands."""

from __future__ import annotations

import importlib
import json
import shutil
import time
from pathlib import Path

import pandas as pd

from nnunet_crossmod.commands import FOLDERS, predict, run_logged, train, use_folders
from nnunet_crossmod.data import CrossmodBlock
from nnunet_crossmod.device import device_of
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.evaluation import evaluate_folder, summarise
from nnunet_crossmod.paths import dataset_folder
from nnunet_crossmod.pictures import Row, prediction_grid
from nnunet_crossmod.plans import configure, write_plans

__all__ = ["run_demo"]

DATASET_ID = 900
OWN = {*FOLDERS, "predictions", "predictions.png", "dice.csv"}
TRAINERS = ("SourceOnlyTrainer", "AICLTrainer")
PLANS = "nnUNetPlans_demo"
EPOCHS = {"2d": 10, "3d_fullres": 8}
ITERATIONS = {"2d": 30, "3d_fullres": 25}


def run_demo(output: Path, configuration: str, device: str, *, seed: int = 0, overwrite: bool = False) -> pd.DataFrame:
    """Phantom → plan and preprocess → train → predict → evaluate → table and picture.

    Args:
        output: work folder; gets nnU-Net's three folders, ``dice.csv``, ``predictions.png`` and the logs.
        configuration: ``2d`` or ``3d_fullres``.
        device: ``cpu``, ``cuda``, ``mps`` or ``auto``.
        seed: of the phantom and the trainings.
        overwrite: replace the work folder.

    Returns:
        mean Dice, one row a trainer and modality.

    Raises:
        CrossmodError: the work folder is in use, or a command of nnU-Net fails (the message names its log).
    """
    phantom = importlib.import_module("nnunet_crossmod.dataset_conversion.phantom")

    _make_room(output, overwrite)
    began = time.monotonic()
    device = device_of(device)
    use_folders(output)

    print(f"1/5  phantom: bSSFP-like source with labels, LGE-like target without, in {output}")
    raw = phantom.convert(DATASET_ID, seed=seed)
    dataset_json = json.loads((raw / "dataset.json").read_text())
    block = CrossmodBlock.from_dataset_json(dataset_json)

    print("2/5  plan and preprocess")
    command = ["nnUNetv2_plan_and_preprocess", "-d", str(DATASET_ID), "-c", configuration, "-np", "2"]
    run_logged(command, output / "plan_and_preprocess.log", "preprocess")
    preprocessed = dataset_folder("nnUNet_preprocessed", DATASET_ID)
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    epochs = EPOCHS[configuration]
    schedule = {
        "num_epochs": epochs,
        "num_iterations_per_epoch": ITERATIONS[configuration],
        "num_val_iterations_per_epoch": 2,
        "seed": seed,
    }
    write_plans(configure(plans, PLANS, schedule, preset="cpu"), preprocessed)

    print(f"3/5  train {' and '.join(TRAINERS)}, {epochs * ITERATIONS[configuration]} iterations each on {device}")
    for trainer in TRAINERS:
        log = output / f"train_{trainer}.log"
        train(DATASET_ID, configuration, trainer, PLANS, device=device, log=log, title=trainer, epochs=epochs)

    print("4/5  predict the test scans")
    for trainer in TRAINERS:
        predict(
            raw / "imagesTs",
            output / "predictions" / trainer,
            DATASET_ID,
            configuration,
            trainer,
            PLANS,
            device=device,
            log=output / f"predict_{trainer}.log",
            title=trainer,
            number=len(block.test),
            mirroring=False,
        )

    print("5/5  evaluate")
    scores = []
    modalities = {case.name: case.modality for case in block.test.values()}
    for trainer in TRAINERS:
        found = evaluate_folder(output / "predictions" / trainer, raw / "labelsTs", block.labels, modalities)
        scores.append(found.assign(trainer=trainer))
    pd.concat(scores).to_csv(output / "dice.csv", index=False)
    table = pd.concat({trainer: summarise(found) for trainer, found in zip(TRAINERS, scores, strict=True)})
    picture = prediction_grid(_rows(raw, output, block), block.labels, output / "predictions.png")
    print(f"\nDice on {len(block.test)} test scans, mean over cases\n")
    print(table.rename_axis(["trainer", "modality"]).round(3).to_string())
    print(f"\npicture: {picture}\ntable:   {output / 'dice.csv'}\ntook {(time.monotonic() - began) / 60:.1f} minutes")
    return table


def _make_room(output: Path, overwrite: bool) -> None:
    """Remove an earlier demo, and nothing but a demo."""
    found = list(output.iterdir()) if output.exists() else []
    if found and not overwrite:
        raise CrossmodError(f"{output} is not empty: choose another -o or add --overwrite")
    foreign = [path.name for path in found if path.name not in OWN and path.suffix != ".log"]
    if foreign:
        raise CrossmodError(f"{output} holds {foreign[0]!r}, which no demo wrote: choose another -o")
    for path in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _rows(raw: Path, output: Path, block: CrossmodBlock, per_modality: int = 2) -> list[Row]:
    shown = [
        case
        for modality in block.modalities[::-1]
        for case in [case for case in block.test.values() if case.modality == modality][:per_modality]
    ]
    return [
        Row(
            f"{case.modality}\n{case.name}",
            raw / "imagesTs" / f"{case.name}_0000.nii.gz",
            raw / "labelsTs" / f"{case.name}.nii.gz",
            {trainer: output / "predictions" / trainer / f"{case.name}.nii.gz" for trainer in TRAINERS},
        )
        for case in shown
    ]
