"""Real bSSFP → LGE: convert MS-CMRSeg, plan, then compare methods on the held-out patients and write the report.

    python benchmarks/mscmrseg.py -i FOLDER_WITH_patientN_C0.nii.gz

Every row is trained with nnU-Net's own commands on the same plans for the same number of iterations; rows that are
already trained or predicted are not repeated. Data loading uses several processes, so figures do not repeat exactly.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from nnunet_crossmod.commands import device_of, run_logged, use_folders
from nnunet_crossmod.compare import Comparison, read_method, roles_of
from nnunet_crossmod.dataset_conversion import mscmrseg
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.paths import dataset_folder
from nnunet_crossmod.report import write_report

DATASET_ID = 511
# GLUA's segmenter trains in the second half alone: twice the epochs give it as many iterations as the others
ROWS = [
    "SourceOnlyTrainer",
    "JointTrainer",
    "AICLTrainer",
    "AICLTrainer csc_weight=0.1 fpc_weight=0.05",
    "AdvEntTrainer",
    "MPSCLTrainer",
    "EAMTrainer",
    "GLUATrainer num_epochs={twice}",
    "CISFATrainer",
    "SourceOnlyTrainer gin=source",
    "AICLTrainer gin=source",
]


def main() -> None:
    """Prepare, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", dest="input", type=Path, required=True, metavar="FOLDER", help="MS-CMRSeg files")
    parser.add_argument("-o", dest="output", type=Path, default=Path("crossmod_benchmark"), help="work folder")
    parser.add_argument("-tr", dest="rows", nargs="+", default=ROWS, metavar="ROW", help="; ".join(ROWS))
    parser.add_argument("--epochs", type=int, default=20, help="of 50 iterations each (default 20)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("-device", default="cpu", choices=["auto", "cpu", "cuda", "mps"])
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    use_folders(args.output)
    prepare(args.input, args.output)
    methods = [read_method(row.format(twice=2 * args.epochs)) for row in args.rows]
    work, device = args.output / f"comparison_{args.epochs}x50", device_of(args.device)
    comparison = Comparison(
        DATASET_ID,
        "2d",
        methods,
        work,
        seeds=args.seeds,
        settings={"num_epochs": args.epochs},
        preset="cpu",
        device=device,
    )
    comparison.run(roles_of(methods))
    print(f"report: {write_report(DATASET_ID, work, args.output / 'report.html', device=device)}")


def prepare(data: Path, output: Path) -> None:
    """Convert, plan and preprocess, once."""
    try:
        raw = dataset_folder("nnUNet_raw", DATASET_ID)
    except CrossmodError:
        raw = mscmrseg.convert(data, DATASET_ID)
    preprocessed = Path(os.environ["nnUNet_preprocessed"]) / raw.name  # noqa: SIM112 - nnU-Net's spelling
    if not (preprocessed / "gt_segmentations").is_dir():
        command = ["nnUNetv2_plan_and_preprocess", "-d", str(DATASET_ID), "-c", "2d", "-np", "2"]
        run_logged([*command, "--verify_dataset_integrity"], output / "plan_and_preprocess.log", "preprocess")


if __name__ == "__main__":
    try:
        main()
    except CrossmodError as error:
        sys.exit(f"Error: {error}")
