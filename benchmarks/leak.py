"""Train on other target labels, and look for a bit that has changed.

    python benchmarks/leak.py                        # every trainer that must not see them
    python benchmarks/leak.py -tr AICLTrainer EAMTrainer

A phantom is preprocessed once, and copied: in the copy the label of every target voxel is drawn anew, in preprocessed
files, in the places that nnU-Net lists of every class, and in the label maps that nnU-Net scores its validation by.
Both are trained by nnUNetv2_train with a worker process that loads and augments. Weights of all players, optimisers,
checkpoints, losses, the log and the scores that nnU-Net's commands choose by must be alike to the last bit. At the end
the ceiling, which does read these labels, must differ.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from batchgenerators.utilities.file_and_folder_operations import write_pickle
from kill_and_resume import small_plans
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from overhead import prepare
from tqdm import tqdm

from nnunet_crossmod.paths import trainer_names, trainers_folder

TARGET = "lge"
CEILING = "TargetSupervisedTrainer"
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")


def main() -> None:
    """Train twice, compare."""
    names = [name for name in trainer_names() if name != CEILING]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-tr", dest="trainers", nargs="+", default=names, metavar="TRAINER")
    parser.add_argument("-c", dest="configuration", default="2d")
    args = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        honest = prepare(Path(folder))
        names = [*args.trainers, CEILING]
        for name in names:
            small_plans(name, honest, {"num_epochs": 4, "label_free_selection": True})
        other = Path(folder) / "other" / honest.name
        shutil.copytree(honest, other)
        changed = scramble(other)
        print(f"{changed} files of the target's labels were drawn anew")
        for name in tqdm(names, unit="trainer"):
            results = [train(name, data, args.configuration) for data in (honest, other)]
            differences = list(compare(*results))
            failed |= bool(differences) != (name == CEILING)
            told = "; ".join(differences[:3]) + (f"; {len(differences)} in all" if len(differences) > 3 else "")
            tqdm.write(f"{name:<24} {told or 'no bit differs'}")
    sys.exit(failed)


def scramble(preprocessed: Path) -> int:
    """Draw the labels of all target scans anew, wherever they stand; the number of files that were changed."""
    rng, changed = np.random.default_rng(0), 0
    for file in sorted(preprocessed.glob(f"*/*{TARGET}*_seg.b2nd")):
        name = file.name.removesuffix("_seg.b2nd")
        data, seg, _, properties = nnUNetDatasetBlosc2(str(file.parent), [name]).load_case(name)
        drawn = rng.integers(0, 4, size=seg.shape).astype(np.int8)
        places = properties["class_locations"]
        for value in places:
            found = np.argwhere(drawn == value) if isinstance(value, int) else np.argwhere(drawn > 0)
            places[value] = found[:1000]
        image = np.asarray(data[:])
        for old in (file, file.with_name(f"{name}.b2nd")):
            old.unlink()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # chunks that fit a patch do not matter here
            nnUNetDatasetBlosc2.save_case(image, drawn, properties, str(file.with_name(name)))
        write_pickle(properties, str(file.with_name(f"{name}.pkl")))
        changed += 2
    for file in sorted(preprocessed.glob(f"gt_segmentations/*{TARGET}*.nii.gz")):
        labels = sitk.ReadImage(str(file))
        drawn_map = sitk.GetImageFromArray(rng.integers(0, 4, size=labels.GetSize()[::-1]).astype(np.uint8))
        drawn_map.CopyInformation(labels)
        sitk.WriteImage(drawn_map, str(file))
        changed += 1
    return changed


def train(name: str, preprocessed: Path, configuration: str) -> Path:
    """Train by nnU-Net's own command; the folder of the fold."""
    results = preprocessed.parent / "results"
    results.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "nnUNet_preprocessed": str(preprocessed.parent),
        "nnUNet_results": str(results),
        "nnUNet_extTrainer": str(trainers_folder()),
        "nnUNet_n_proc_DA": "1",
        "nnUNet_def_n_proc": "1",
        "nnUNet_compile": "f",
        "OMP_NUM_THREADS": "1",
    }
    command = [str(Path(sys.executable).with_name("nnUNetv2_train")), preprocessed.name, configuration, "0"]
    command += ["-tr", name, "-p", f"small_{name}", "-device", "cpu"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(f"{name} did not train:\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}")
    return results / preprocessed.name / f"{name}__small_{name}__{configuration}" / "fold_0"


def compare(a: Path, b: Path) -> Iterator[str]:
    """What differs between two trainings."""
    checkpoints = sorted({file.name for fold in (a, b) for file in fold.glob("checkpoint_*.pth")})
    if not set(CHECKPOINTS) <= set(checkpoints):
        yield f"checkpoints are missing: there are {', '.join(checkpoints)}"
    for name in checkpoints:
        one, two = (torch.load(fold / name, map_location="cpu", weights_only=False) for fold in (a, b))
        for part in ("network_weights", "optimizer_state", "crossmod"):
            yield from (f"{name}: {path}" for path in unlike(one[part], two[part], part))
    for name in ("losses.jsonl", "validation/summary.json"):
        if comparable(a / name, a) != comparable(b / name, b):
            yield f"{name} differs"
    logs = [min(fold.glob("training_log_*.txt")) for fold in (a, b)]
    if lines_of(logs[0]) != lines_of(logs[1]):
        yield "the log differs"


def unlike(a: Any, b: Any, path: str) -> Iterator[str]:
    """Where two nested collections of tensors differ."""
    if isinstance(a, torch.Tensor):
        if not torch.equal(a, b):
            yield path
    elif isinstance(a, Mapping):
        if a.keys() != b.keys():
            yield path
        for key in a.keys() & b.keys():
            yield from unlike(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        for i, (one, two) in enumerate(zip(a, b, strict=True)):
            yield from unlike(one, two, f"{path}.{i}")
    elif a != b:
        yield path


def comparable(file: Path, fold: Path) -> str:
    """A file's text without the folder that it lies in."""
    text = file.read_text()
    for folder in (fold, fold.parents[3]):
        text = text.replace(str(folder), "")
    return text


def lines_of(log: Path) -> list[str]:
    """A training's log without times, folders and what it says of the scans that were hidden from it."""
    lines = [re.sub(r"^\d{4}-\S+ \S+ ", "", line) for line in log.read_text().splitlines()]
    return [line for line in lines if not re.search(r"[Ee]poch time|/|hidden", line)]


if __name__ == "__main__":
    main()
