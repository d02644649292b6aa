"""Make a phantom data set, plan and preprocess it, train SourceOnlyTrainer and AICLTrainer briefly, predict
the test scans with nnU-Net, print the Dice table and draw image, reference and predictions.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_crossmod.commands.arguments import add_device_argument
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.nnunet_runs import FOLDERS, plan_and_preprocess, predict, train, use_folders
from nnunet_crossmod.paths import dataset_folder, device_of, read_json
from nnunet_crossmod.plans import configure, write_plans

if TYPE_CHECKING:
    import pandas as pd

    from nnunet_crossmod.data import CrossmodBlock
    from nnunet_crossmod.pictures import Row

__all__ = ["add_arguments", "run", "run_demo"]

DATASET_ID = 900
OWN = {*FOLDERS, "predictions", "predictions.png", "dice.csv"}
TRAINERS = ("SourceOnlyTrainer", "AICLTrainer")
PLANS = "nnUNetPlans_demo"
EPOCHS = {"2d": 10, "3d_fullres": 8}
ITERATIONS = {"2d": 30, "3d_fullres": 25}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``crossmod demo``."""
    parser.add_argument(
        "-o", dest="output", type=Path, default=Path("crossmod_demo"), metavar="FOLDER", help="work folder"
    )
    parser.add_argument("-c", dest="configuration", default="2d", choices=["2d", "3d_fullres"], help="default 2d")
    add_device_argument(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the phantom and the trainings")
    parser.add_argument("--overwrite", action="store_true", help="replace the work folder")


def run(args: argparse.Namespace) -> None:
    """Carry out ``crossmod demo``."""
    if args.seed < 0:
        raise CrossmodError(f"--seed {args.seed} must be 0 or more")
    run_demo(args.output, args.configuration, args.device, seed=args.seed, overwrite=args.overwrite)


def run_demo(output: Path, configuration: str, device: str, *, seed: int = 0, overwrite: bool = False) -> pd.DataFrame:
    """Phantom → plan and preprocess → train → predict → evaluate → table and picture.

    Args:
        output: work folder; gets nnU-Net's three folders, ``dice.csv``, ``predictions.png`` and the logs.
        configuration: ``2d`` or ``3d_fullres``.
        device: ``cpu``, ``cuda``, ``mps`` or ``auto``.
        seed: of the phantom and the trainings.
        overwrite: replace the work folder.

    Returns:
        mean Dice, one row per trainer and modality.

    Raises:
        CrossmodError: the work folder is in use, or a step of nnU-Net fails (the message names its log).
    """
    _make_room(output, overwrite)
    began = time.monotonic()
    device = device_of(device)
    use_folders(output)

    import pandas as pd

    from nnunet_crossmod.data import CrossmodBlock
    from nnunet_crossmod.evaluation import evaluate_folder, summarise
    from nnunet_crossmod.pictures import prediction_grid

    # by its name: the package's own modules import neither trainers nor conversions
    phantom = importlib.import_module("nnunet_crossmod.dataset_conversion.phantom")

    print(f"1/5  phantom: bSSFP-like source with labels, LGE-like target without, in {output}")
    raw = phantom.convert(DATASET_ID, seed=seed)
    dataset_json = read_json(raw / "dataset.json", "run the demo again with --overwrite")
    block = CrossmodBlock.from_dataset_json(dataset_json)

    print("2/5  plan and preprocess")
    plan_and_preprocess(DATASET_ID, [configuration], log=output / "plan_and_preprocess.log")
    preprocessed = dataset_folder("nnUNet_preprocessed", DATASET_ID)
    plans = read_json(preprocessed / "nnUNetPlans.json", "run the demo again with --overwrite")
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
        scores_per_case = evaluate_folder(output / "predictions" / trainer, raw / "labelsTs", block.labels, modalities)
        scores.append(scores_per_case.assign(trainer=trainer))
    pd.concat(scores).to_csv(output / "dice.csv", index=False)
    table = pd.concat({trainer: summarise(rows) for trainer, rows in zip(TRAINERS, scores, strict=True)})
    picture = prediction_grid(_rows(raw, output, block), block.labels, output / "predictions.png")
    print(f"\nDice on {len(block.test)} test scans, mean over cases\n")
    print(table.rename_axis(["trainer", "modality"]).round(3).to_string())
    print(f"\npicture: {picture}\ntable:   {output / 'dice.csv'}\ntook {(time.monotonic() - began) / 60:.1f} minutes")
    print("Next, with scans of your own: crossmod convert --help")
    return table


def _make_room(output: Path, overwrite: bool) -> None:
    """Remove an earlier demo, and nothing but a demo."""
    present = list(output.iterdir()) if output.exists() else []
    if present and not overwrite:
        raise CrossmodError(f"{output} is not empty: choose another -o or add --overwrite")
    foreign = [path.name for path in present if path.name not in OWN and path.suffix != ".log"]
    if foreign:
        raise CrossmodError(f"{output} holds {foreign[0]!r}, which no demo wrote: choose another -o")
    for path in present:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _rows(raw: Path, output: Path, block: CrossmodBlock, per_modality: int = 2) -> list[Row]:
    from nnunet_crossmod.pictures import Row

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
