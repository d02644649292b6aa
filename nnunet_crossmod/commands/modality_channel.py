"""Give new scans the modality channel that the networks read, for nnUNetv2_predict.

crossmod modality-channel -i scans -o in -m LGE -d 511
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_crossmod.commands.arguments import add_modality_arguments
from nnunet_crossmod.paths import find_dataset_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``crossmod modality-channel``."""
    parser.add_argument("-i", dest="input", type=Path, required=True, metavar="FOLDER", help="the new scans")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="FOLDER", help="what nnU-Net will read")
    add_modality_arguments(parser)
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("-d", dest="dataset", metavar="DATASET", help="id or name of the data set the model knows")
    data.add_argument("--dataset-json", type=Path, metavar="FILE", help="the dataset.json of a trained model instead")
    parser.add_argument("--overwrite", action="store_true", help="replace the channels of an earlier call")


def run(args: argparse.Namespace) -> None:
    """Carry out ``crossmod modality-channel``."""
    dataset_json = args.dataset_json or find_dataset_json(args.dataset)

    from nnunet_crossmod.inference.modality_channel import Contract, add_modality_channel
    from nnunet_crossmod.inference.scans import find_cases, modalities_of, unused_files

    contract = Contract.read(dataset_json)
    cases = find_cases(args.input, contract.ending, contract.channels)
    names = sorted(cases)
    if unused := unused_files(args.input, cases):
        print(f"Note: {unused}")
    modalities = modalities_of(args, names, contract.modalities, str(dataset_json))
    add_modality_channel(args.input, args.output, modalities, dataset_json, overwrite=args.overwrite)
    for modality in sorted(set(modalities.values())):
        number = sum(name == modality for name in modalities.values())
        print(f"{args.output}: {modality} scans ready for nnUNetv2_predict: {number}")
    dataset = args.dataset or "DATASET"
    print(f"Next: nnUNetv2_predict -i {args.output} -o OUT -d {dataset} -c CONFIGURATION -f 0 -tr TRAINER")
