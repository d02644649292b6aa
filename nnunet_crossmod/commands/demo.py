"""Make a phantom data set, plan and preprocess it, train briefly on the labelled modality (with nnU-Net's
augmentation, then with this package's) and with a teacher on the unlabelled one, predict the test scans, print
the Dice table and draw image, reference and predictions.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from nnunet_crossmod.commands.arguments import add_device_argument
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.nnunet_runs import FOLDERS, cores, plan_and_preprocess, predict, train, use_folders
from nnunet_crossmod.paths import dataset_folder, device_of, read_json
from nnunet_crossmod.plans import configure, write_plans

if TYPE_CHECKING:
    import pandas as pd

    from nnunet_crossmod.pictures import Row
    from nnunet_crossmod.raw.block import CrossmodBlock

__all__ = ["add_arguments", "run", "run_demo"]

DATASET_ID = 900
OWN = {*FOLDERS, "predictions", "predictions.png", "dice.csv"}
NNUNET = {"augmentation": "nnunet"}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "SourceOnlyTrainer augmentation=nnunet": ("SourceOnlyTrainer", "nnUNetPlans_demo_nnunet", NNUNET),
    "SourceOnlyTrainer": ("SourceOnlyTrainer", "nnUNetPlans_demo", {}),
    "MeanTeacherTrainer": ("MeanTeacherTrainer", "nnUNetPlans_demo", {}),
}
"""Row of the table → trainer, plans, hyper-parameters: two floors, then adaptation."""
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
        mean Dice, one row per model and modality.

    Raises:
        CrossmodError: the work folder is in use, or a step of nnU-Net fails (the message names its log).
    """
    _make_room(output, overwrite)
    began = time.monotonic()
    device = device_of(device)
    use_folders(output)

    import pandas as pd

    from nnunet_crossmod.evaluation import evaluate_folder, summarise
    from nnunet_crossmod.pictures import prediction_grid
    from nnunet_crossmod.raw.block import CrossmodBlock

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
        "target_batch_size": 6,
        "seed": seed,
    }
    for name, settings in {plans_name: settings for _, plans_name, settings in MODELS.values()}.items():
        write_plans(configure(plans, name, {**schedule, **settings}, preset="cpu"), preprocessed)

    jobs = min(cores(), len(MODELS)) if device == "cpu" else 1
    iterations = epochs * ITERATIONS[configuration]
    print(f"3/5  train {len(MODELS)} models, {iterations} iterations each, {jobs} at a time on {device}")

    def train_and_predict(title: str) -> None:
        trainer, plans_name, _ = MODELS[title]
        alone = jobs == 1
        options: dict[str, Any] = {"device": device, "threads": max(1, cores() // jobs), "show_progress": alone}
        log = output / f"train_{_file_name(title)}.log"
        train(DATASET_ID, configuration, trainer, plans_name, log=log, title=title, epochs=epochs, **options)
        predict(
            raw / "imagesTs",
            output / "predictions" / _file_name(title),
            DATASET_ID,
            configuration,
            trainer,
            plans_name,
            log=output / f"predict_{_file_name(title)}.log",
            title=title,
            number=len(block.test),
            mirroring=False,
            **options,
        )

    with (
        ThreadPoolExecutor(jobs) as pool,
        tqdm(total=len(MODELS), desc="     trained, test scans predicted", unit="model", disable=None) as bar,
    ):
        for _ in pool.map(train_and_predict, reversed(MODELS)):  # the teacher takes longest: it begins
            bar.update()

    print("4/5  evaluate")
    scores: dict[str, pd.DataFrame] = {}
    modalities = {case.name: case.modality for case in block.test.values()}
    for title in MODELS:
        predictions = output / "predictions" / _file_name(title)
        scores[title] = evaluate_folder(predictions, raw / "labelsTs", block.labels, modalities)
    pd.concat([rows.assign(model=title) for title, rows in scores.items()]).to_csv(output / "dice.csv", index=False)
    table = pd.concat({title: summarise(rows) for title, rows in scores.items()})
    print("5/5  draw")
    picture = prediction_grid(_rows(raw, output, block), block.labels, output / "predictions.png")
    print(f"\nDice on {len(block.test)} test scans, mean over cases\n")
    print(table.rename_axis(["model", "modality"]).round(3).to_string())
    print(f"\npicture: {picture}\ntable:   {output / 'dice.csv'}\ntook {(time.monotonic() - began) / 60:.1f} minutes")
    print("Next, with scans of your own: crossmod convert folders --help")
    return table


def _file_name(title: str) -> str:
    return title.replace(" ", "_")


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
            {title: output / "predictions" / _file_name(title) / f"{case.name}.nii.gz" for title in MODELS},
        )
        for case in shown
    ]
