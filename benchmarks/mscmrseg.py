"""Real bSSFP → LGE: convert MS-CMRSeg, plan, train, predict the held-out patients, print Dice per structure.

    python benchmarks/mscmrseg.py -i FOLDER_WITH_patientN_C0.nii.gz

Every row is trained with nnU-Net's own commands on the same plans for the same number of iterations; rows that are
already trained or predicted are not repeated. Data loading uses several processes, so figures do not repeat exactly.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import pandas as pd

from nnunet_crossmod.commands import predict, run_logged, train, use_folders
from nnunet_crossmod.data import CrossmodBlock
from nnunet_crossmod.dataset_conversion import mscmrseg
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.evaluation import Row, evaluate_folder, prediction_grid
from nnunet_crossmod.paths import dataset_folder
from nnunet_crossmod.plans import configure, write_plans

DATASET_ID = 511
ROWS = {
    "SourceOnlyTrainer": ("SourceOnlyTrainer", {}),
    "JointTrainer": ("JointTrainer", {}),
    "AICLTrainer": ("AICLTrainer", {}),
    "AICLTrainer-gentle": ("AICLTrainer", {"csc_weight": 0.1, "fpc_weight": 0.05}),
    "SourceOnlyTrainer+GIN": ("SourceOnlyTrainer", {"gin": "source"}),
    "AICLTrainer+GIN": ("AICLTrainer", {"gin": "source"}),
}


def main() -> None:
    """Run the rows asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", dest="input", type=Path, required=True, metavar="FOLDER", help="MS-CMRSeg files")
    parser.add_argument("-o", dest="output", type=Path, default=Path("crossmod_benchmark"), help="work folder")
    parser.add_argument(
        "--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW", help=", ".join(ROWS)
    )
    parser.add_argument("--epochs", type=int, default=20, help="of 50 iterations each (default 20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-device", default="cpu", choices=["cpu", "cuda", "mps"])
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    use_folders(args.output)
    preprocessed = prepare(args.input, args.output)
    raw = dataset_folder("nnUNet_raw", DATASET_ID)
    block = CrossmodBlock.from_dataset_json(json.loads((raw / "dataset.json").read_text()))
    scores = pd.concat([run(row, args, preprocessed, raw, block) for row in args.rows])
    scores.to_csv(args.output / "dice.csv", index=False)
    print(f"\nMean Dice, {args.epochs * 50} iterations, seed {args.seed}\n{table(scores).round(3).to_string()}")
    picture = draw(args, raw, block)
    print(f"\npicture: {picture}\ncases:   {args.output / 'dice.csv'}")


def prepare(data: Path, output: Path) -> Path:
    """Convert, plan and preprocess, once."""
    try:
        raw = dataset_folder("nnUNet_raw", DATASET_ID)
    except CrossmodError:
        raw = mscmrseg.convert(data, DATASET_ID)
    preprocessed = Path(os.environ["nnUNet_preprocessed"]) / raw.name  # noqa: SIM112 - nnU-Net's spelling
    if not (preprocessed / "gt_segmentations").is_dir():
        command = ["nnUNetv2_plan_and_preprocess", "-d", str(DATASET_ID), "-c", "2d", "-np", "2"]
        run_logged([*command, "--verify_dataset_integrity"], output / "plan_and_preprocess.log", "preprocess")
    return preprocessed


def run(row: str, args: argparse.Namespace, preprocessed: Path, raw: Path, block: CrossmodBlock) -> pd.DataFrame:
    """Train, predict and evaluate one row."""
    trainer, settings = ROWS[row]
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    name = f"nnUNetPlans_cpu_{args.epochs}x50_seed{args.seed}" + "".join(f"_{k}-{v}" for k, v in settings.items())
    schedule = {"num_epochs": args.epochs, "seed": args.seed, **settings}
    write_plans(configure(plans, name, schedule, preset="cpu"), preprocessed, overwrite=True)
    results = Path(os.environ["nnUNet_results"]) / raw.name / f"{trainer}__{name}__2d" / "fold_0"  # noqa: SIM112
    began = time.monotonic()
    if not (results / "validation" / "summary.json").is_file():
        log = args.output / f"train_{row}.log"
        train(DATASET_ID, "2d", trainer, name, device=args.device, log=log, title=row, epochs=args.epochs)
        print(f"{row}: trained in {(time.monotonic() - began) / 60:.1f} minutes")
    predictions = folder_of(args, row)
    if len(list(predictions.glob("*.nii.gz"))) < len(block.test):
        log, title, number = args.output / f"predict_{row}.log", f"{row} predict", len(block.test)
        scans = raw / "imagesTs"
        predict(
            scans, predictions, DATASET_ID, "2d", trainer, name, device=args.device, log=log, title=title, number=number
        )
    modalities = {case.name: case.modality for case in block.test.values()}
    return evaluate_folder(predictions, raw / "labelsTs", block.labels, modalities).assign(row=row)


def folder_of(args: argparse.Namespace, row: str) -> Path:
    """Where a row's predictions lie."""
    folder: Path = args.output / f"predictions_{args.epochs}x50_seed{args.seed}" / row
    return folder


def table(scores: pd.DataFrame) -> pd.DataFrame:
    """One line a row and modality, one column a structure."""
    wide = scores.pivot_table(index=["modality", "row"], columns="structure", values="dice", sort=False)
    wide["mean"] = wide.mean(axis=1)
    return wide


def draw(args: argparse.Namespace, raw: Path, block: CrossmodBlock) -> Path:
    """Image, reference and all predictions of the LGE test scans."""
    rows = [
        Row(
            case.name,
            raw / "imagesTs" / f"{case.name}_0000.nii.gz",
            raw / "labelsTs" / f"{case.name}.nii.gz",
            {row: folder_of(args, row) / f"{case.name}.nii.gz" for row in args.rows},
        )
        for case in block.test.values()
        if case.modality in block.target
    ]
    return prediction_grid(rows, block.labels, args.output / "predictions.png")


if __name__ == "__main__":
    try:
        main()
    except CrossmodError as error:
        sys.exit(f"Error: {error}")
