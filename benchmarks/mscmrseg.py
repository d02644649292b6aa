"""Real bSSFP → LGE: convert MS-CMRSeg, plan, then compare methods on the held-out patients and write the report.

    python benchmarks/mscmrseg.py -i FOLDER_WITH_patientN_C0.nii.gz [FOLDER_WITH_MORE_LGE …] --jobs 2

Settings may be chosen on the development patients 1, 8, 17, 30 and 35; all others are only looked at.
"""

from __future__ import annotations

import sys
from pathlib import Path

from real_pair import arguments, benchmark

from nnunet_crossmod.dataset_conversion import mscmrseg
from nnunet_crossmod.errors import CrossmodError

# GLUA's segmenter trains in the second half alone: twice the epochs give it as many iterations as the others
ROWS = [
    "SourceOnlyTrainer augmentation=nnunet",
    "SourceOnlyTrainer",
    "MeanTeacherTrainer target_batch_size=8",
    "AICLTrainer csc_weight=0 fpc_weight=0",
    "AICLTrainer",
    "AdvEntTrainer",
    "MPSCLTrainer",
    "EAMTrainer",
    "GLUATrainer num_epochs={twice}",
    "CISFATrainer",
]
DEVELOPMENT = {f"patient{number}_LGE" for number in (1, 8, 17, 30, 35)}


def main() -> None:
    """Prepare, compare, report."""
    parser = arguments(__doc__, ROWS, epochs=20, output="crossmod_benchmark")
    parser.add_argument(
        "-i", dest="input", type=Path, nargs="+", required=True, metavar="FOLDER", help="MS-CMRSeg files"
    )
    args = parser.parse_args()
    benchmark(args, 511, lambda: mscmrseg.convert(args.input, 511), development=DEVELOPMENT)


if __name__ == "__main__":
    try:
        main()
    except CrossmodError as error:
        sys.exit(f"Error: {error}")
