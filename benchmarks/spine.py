"""Real lumbar spine, T2 → water-fat MR: convert, plan, compare methods and write the report.

    python benchmarks/spine.py -i FOLDER [FOLDER_WITH_MORE_WATER …] --jobs 2

The folder holds ``t2_NN.nii.gz`` and ``water_NN.nii.gz``, labels beside them as ``…_label.nii.gz`` (1 = vertebral
bodies). All ``t2`` but 05, 11 and 16 are the labelled source; the ``water`` scans without labels are the target; those
with labels in the first folder are the development scans, those of the other folders are only looked at. As
``benchmarks/mscmrseg.py`` otherwise.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from real_pair import arguments, benchmark

from nnunet_crossmod.cli import main as crossmod
from nnunet_crossmod.errors import CrossmodError

DATASET_ID = 512
IN_DOMAIN = ("t2_05", "t2_11", "t2_16")
ROWS = [
    "SourceOnlyTrainer augmentation=nnunet",
    "SourceOnlyTrainer",
    "MeanTeacherTrainer target_batch_size=8",
    "MeanTeacherTrainer target_batch_size=8 teacher_cut_mix=1",
    "AICLTrainer",
    "MPSCLTrainer",
]


def main() -> None:
    """Prepare, compare, report."""
    parser = arguments(__doc__, ROWS, epochs=12, output="crossmod_spine")
    parser.add_argument("-i", dest="input", type=Path, nargs="+", required=True, metavar="FOLDER", help="the scans")
    args = parser.parse_args()
    labelled = [sorted(folder.glob("water_*_label.nii.gz")) for folder in args.input]
    names = [[path.name.removesuffix("_label.nii.gz") for path in paths] for paths in labelled]
    if not names[0]:
        raise CrossmodError(
            f"{args.input[0]} holds no water_*_label.nii.gz: name the folder with the development scans"
        )

    def convert() -> Path:
        command = [
            "convert",
            "folders",
            "-d",
            str(DATASET_ID),
            "--name",
            "Spine",
            "--source",
            "T2",
            "--target",
            "water",
        ]
        command += ["--images", f"T2={args.input[0]}/t2_*.nii.gz"]
        command += [f"water={folder}/water_*.nii.gz" for folder in args.input]
        command += ["--label-files", f"T2={args.input[0]}/t2_*_label.nii.gz"]
        command += [f"water={folder}/water_*_label.nii.gz" for folder in args.input]
        command += ["--labels", "vertebrae=1", "--test", *IN_DOMAIN, *(name for group in names for name in group)]
        if crossmod(command):
            raise CrossmodError("the conversion failed; the line above says why")
        return next(Path(os.environ["nnUNet_raw"]).glob(f"Dataset{DATASET_ID}_*"))  # noqa: SIM112 - nnU-Net's spelling

    benchmark(args, DATASET_ID, convert, development=names[0])


if __name__ == "__main__":
    try:
        main()
    except CrossmodError as error:
        sys.exit(f"Error: {error}")
