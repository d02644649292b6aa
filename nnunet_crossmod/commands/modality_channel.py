"""Give new scans the modality channel that the networks read, for nnUNetv2_predict. Modalities are numbered as the
model numbers them; where only a data set is named, all models of it must agree.

  crossmod modality-channel -i scans -o in -m LGE -d 511 -c 3d_fullres -tr AICLTrainer
  crossmod modality-channel -i scans -o in -m LGE -d 511
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_crossmod.commands.arguments import add_modality_arguments, add_model_arguments, chosen_folders
from nnunet_crossmod.paths import find_dataset_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``crossmod modality-channel``."""
    parser.add_argument("-i", dest="input", type=Path, required=True, metavar="FOLDER", help="the new scans")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="FOLDER", help="what nnU-Net will read")
    add_modality_arguments(parser)
    data = add_model_arguments(parser)
    data.add_argument("--dataset-json", type=Path, metavar="FILE", help="the dataset.json of a trained model instead")
    parser.add_argument("--overwrite", action="store_true", help="replace the channels of an earlier call")


def run(args: argparse.Namespace) -> None:
    """Carry out ``crossmod modality-channel``."""
    names_model = args.model_folder is not None or args.trainer is not None or args.configuration is not None
    if names_model:
        dataset_json = chosen_folders(args)[0] / "dataset.json"
    else:
        dataset_json = args.dataset_json or find_dataset_json(args.dataset)

    from nnunet_crossmod.inference.modality_channel import Contract, add_modality_channel, check_models
    from nnunet_crossmod.inference.scans import find_cases, modalities_of, unused_files

    contract = Contract.read(dataset_json)
    if args.dataset is not None and not names_model:
        check_models(args.dataset, contract.modalities, dataset_json)
    cases = find_cases(args.input, contract.ending, contract.channels)
    names = sorted(cases)
    if unused := unused_files(args.input, cases):
        print(f"Note: {unused}")
    modalities = modalities_of(args, names, contract.modalities, str(dataset_json))
    add_modality_channel(args.input, args.output, modalities, dataset_json, overwrite=args.overwrite)
    for modality in sorted(set(modalities.values())):
        number = sum(name == modality for name in modalities.values())
        print(f"{args.output}: {modality} scans ready for nnUNetv2_predict: {number}")
    if args.model_folder is not None:
        print(f"Next: nnUNetv2_predict_from_modelfolder -i {args.output} -o OUT -m {args.model_folder}")
        return
    words = {"-d": args.dataset or "DATASET", "-c": args.configuration or "CONFIGURATION"}
    words |= {"-f": " ".join(map(str, args.folds or [0])), "-tr": args.trainer or "TRAINER", "-p": args.plans}
    print(f"Next: nnUNetv2_predict -i {args.output} -o OUT {' '.join(f'{k} {v}' for k, v in words.items())}")
