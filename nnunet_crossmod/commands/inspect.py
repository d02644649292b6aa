"""Print scans, labels, voxels and spacings of each modality, and draw one slice per scan with its labels."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.paths import check_output_file, dataset_folder, read_json
from nnunet_crossmod.plans import reader_reorients

PICTURES = (".png", ".pdf", ".svg", ".jpg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``crossmod inspect``."""
    parser.add_argument("-d", dest="dataset", required=True, metavar="DATASET", help="data set id or name")
    parser.add_argument("-o", dest="output", type=Path, metavar="FILE", help="the sheet (default: DATASET.png, here)")


def run(args: argparse.Namespace) -> None:
    """Carry out ``crossmod inspect``."""
    folder = dataset_folder("nnUNet_raw", args.dataset)
    sheet = Path(f"{folder.name}.png") if args.output is None else args.output
    if sheet.suffix.lower() not in PICTURES:
        raise CrossmodError(f"-o {sheet} must end in one of {', '.join(PICTURES)}")
    check_output_file(sheet)
    dataset_json_path = folder / "dataset.json"
    dataset_json = read_json(dataset_json_path, "convert the data set again")

    from tqdm import tqdm

    from nnunet_crossmod.dataset_conversion.overview import (
        contact_sheet,
        examine_scan,
        overview_table,
        overview_warnings,
    )
    from nnunet_crossmod.dataset_conversion.raw_files import cases_of, raw_files, read_case
    from nnunet_crossmod.raw.block import CrossmodBlock, entry_of

    where = str(dataset_json_path)
    block = CrossmodBlock.from_dataset_json(dataset_json, where)
    if "dataset" not in dataset_json:  # nnU-Net would train on whatever lies there
        block.check_files(cases_of(folder / "imagesTr", entry_of(dataset_json, "file_ending", where)), str(folder))
    cases = {**block.cases, **block.test}
    facts = []
    for name, files in tqdm(
        raw_files(folder, dataset_json).items(), desc=f"Reading {folder.name}", unit="scan", disable=None
    ):
        image, label = read_case(files)
        facts.append(examine_scan(name, image, label if cases[name].labelled else None))
    print(f"{folder}: {overview_table(facts, block, dataset_json.get('conversion', {}).get('left_out', []))}")
    reorients = reader_reorients(dataset_json.get("overwrite_image_reader_writer"))
    for warning in overview_warnings(facts, block, reorients):
        print(f"Warning: {warning}")
    sheet.parent.mkdir(parents=True, exist_ok=True)
    print(f"To check by eye: {contact_sheet(facts, block, sheet)}")
    print(f"Next: nnUNetv2_plan_and_preprocess -d {args.dataset} -c 2d 3d_fullres")
