"""Phantom cine → lge: make it, plan, then compare methods, with floor and ceiling, and write the report.

    python benchmarks/phantom.py --gap moderate
    python benchmarks/phantom.py --gap severe --shots 3 -tr JointTrainer EAMTrainer

As ``benchmarks/mscmrseg.py``, on data that the project makes itself.
"""

from __future__ import annotations

import sys

from real_pair import arguments, benchmark

from nnunet_crossmod.dataset_conversion import phantom
from nnunet_crossmod.errors import CrossmodError

ROWS = [
    "SourceOnlyTrainer augmentation=nnunet",
    "SourceOnlyTrainer",
    "MeanTeacherTrainer",
    "JointTrainer",
    "AICLTrainer",
    "AdvEntTrainer",
    "MPSCLTrainer",
    "EAMTrainer",
    "GLUATrainer num_epochs={twice} local_alignment=false global_alignment=false",
    "GLUATrainer num_epochs={twice} global_alignment=false",
    "GLUATrainer num_epochs={twice}",
    "CISFATrainer",
    "TargetSupervisedTrainer",
]


def main() -> None:
    """Prepare, compare, report."""
    parser = arguments(__doc__, ROWS, epochs=12, output="crossmod_phantom", groups=False)
    parser.add_argument("--gap", choices=["moderate", "severe"], default="moderate", help="between the modalities")
    parser.add_argument("--shots", type=int, default=0, metavar="N", help="target scans with labels (default 0)")
    args = parser.parse_args()
    args.output = args.output / f"{args.gap}_{args.shots}"
    # the floor leaves target scans out, annotated or not
    few_shot = {"forbid_annotated_target": False} if args.shots else {}
    benchmark(args, 900, lambda: phantom.convert(900, gap=args.gap, shots=args.shots), few_shot)


if __name__ == "__main__":
    try:
        main()
    except CrossmodError as error:
        sys.exit(f"Error: {error}")
