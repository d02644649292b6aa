"""Print scans, labels, voxels and spacings of each modality, and draw one slice per scan with its labels."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_crossmod.paths import dataset_folder, read_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``crossmod inspect``."""
    parser.add_argument("-d", dest="dataset", required=True, metavar="DATASET", help="data set id or name")
    parser.add_argument("-o", dest="output", type=Path, metavar="FILE", help="the sheet (default: DATASET.png, here)")


def run(args: argparse.Namespace) -> None:
    """Carry out ``crossmod inspect``."""
    folder = dataset_folder("nnUNet_raw", args.dataset)
    dataset_json_path = folder / "dataset.json"
    dataset_json = read_json(dataset_json_path, "convert the data set again")

    from tqdm import tqdm

    from nnunet_crossmod.dataset_conversion.overview import contact_sheet, examine_scan, overview_table
    from nnunet_crossmod.dataset_conversion.raw_files import raw_files, read_case
    from nnunet_crossmod.raw.block import CrossmodBlock

    block = CrossmodBlock.from_dataset_json(dataset_json, str(dataset_json_path))
    cases = {**block.cases, **block.test}
    facts = []
    for name, files in tqdm(
        raw_files(folder, dataset_json).items(), desc=f"Reading {folder.name}", unit="scan", disable=None
    ):
        image, label = read_case(files)
        facts.append(examine_scan(name, image, label if cases[name].labelled else None))
    print(f"{folder}: {overview_table(facts, block, dataset_json.get('conversion', {}).get('left_out', []))}")
    sheet = Path(f"{folder.name}.png") if args.output is None else args.output
    sheet.parent.mkdir(parents=True, exist_ok=True)
    print(f"To check by eye: {contact_sheet(facts, block, sheet)}")
    print(f"Next: nnUNetv2_plan_and_preprocess -d {args.dataset} -c 2d 3d_fullres")
