"""nnU-Net's own commands on a cross-modal data set, beside the same commands on a stock trainer: one line each.

    python benchmarks/nnunet_flow.py -o nnunet_flow

Trains networks of a few thousand parameters on a phantom for seconds: the figures mean nothing, the verdicts do.
``ok``: the command works, or refuses in one line what would be wrong. All else is named, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunet_crossmod.dataset_conversion import phantom
from nnunet_crossmod.nnunet_runs import use_folders
from nnunet_crossmod.paths import trainers_folder
from nnunet_crossmod.plans import configure, write_plans

DATASET, OTHER = 920, 921
PLANS = "nnUNetPlans_flow"
OURS, STOCK = "AICLTrainer", "FlowStockTrainer"
STOCK_TRAINER = f"""
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
class {STOCK}(nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, 2, 1
"""


class Flow:
    """Runs commands and keeps their verdicts.

    Args:
        folder: gets nnU-Net's folders and the commands' logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bad: list[str] = []
        self.number = 0

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """One command, as a user types it."""
        self.number += 1
        log = self.folder / "logs" / f"{self.number:02d}_{words[0]}.log"
        log.parent.mkdir(exist_ok=True)
        program = Path(sys.executable).parent / str(words[0])
        done = subprocess.run([program, *map(str, words[1:])], capture_output=True, text=True, check=False)
        log.write_text(f"{' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}")
        return done

    def line(
        self,
        title: str,
        ours: Sequence[str | Path],
        stock: Sequence[str | Path] | None = None,
        *,
        refused: str = "",
        check: Callable[[str], bool] = lambda said: True,
    ) -> str:
        """Run both side by side, print a line; returns what ours said.

        Args:
            title: of the line.
            ours: the command on the cross-modal model.
            stock: the same on the stock model, where there is such a thing.
            refused: what the one line of the error must hold, where ours must refuse.
            check: of what ours said, where it must work.
        """
        began = time.monotonic()
        with ThreadPoolExecutor() as pool:
            running = [pool.submit(self.run, *words) for words in (ours, stock) if words is not None]
            done, *others = (future.result() for future in running)
        seconds = time.monotonic() - began
        said = done.stdout + done.stderr
        errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
        if refused:
            good = done.returncode != 0 and len(errors) == 1 and refused in errors[0] and "Traceback" not in done.stderr
            outcome = "refused" if done.returncode else "SILENT"
        else:
            good = done.returncode == 0 and check(said)
            outcome = "failed" if done.returncode else "works"
        beside = "–"
        for other in others:
            beside = "works" if other.returncode == 0 else "fails"
        verdict = "ok" if good else f"WRONG, see {self.folder / 'logs'}/{self.number - len(others):02d}"
        if not good:
            self.bad.append(title)
        print(f"{title:<58} ours {outcome:<8} stock {beside:<6} {seconds:4.0f} s  {verdict}", flush=True)
        return said


def main() -> int:
    """Prepare, run every command, say how many verdicts are not ok."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", dest="output", type=Path, default=Path("nnunet_flow"), help="work folder (nnunet_flow)")
    args = parser.parse_args()
    shutil.rmtree(args.output, ignore_errors=True)
    args.output.mkdir(parents=True)
    folders(args.output)
    flow = Flow(args.output.resolve())
    raw = phantom.convert(DATASET, subjects=5, test_subjects=1, size=48, slices=5, seed=1)
    flow.line("plan_and_preprocess", ["nnUNetv2_plan_and_preprocess", "-d", str(DATASET), "-c", "2d", "3d_fullres"])
    preprocessed = Path(os.environ["nnUNet_preprocessed"]) / raw.name  # noqa: SIM112 - nnU-Net's spelling
    results = Path(os.environ["nnUNet_results"]) / raw.name  # noqa: SIM112 - nnU-Net's spelling
    write_tiny_plans(preprocessed)
    training_commands(flow, results)
    choosing_commands(flow, preprocessed, results)
    predicting_commands(flow, raw, results)
    refusals(flow, raw, preprocessed)
    print(f"{len(flow.bad)} verdicts are not ok" + (f": {', '.join(flow.bad)}" if flow.bad else ""))
    return bool(flow.bad)


def folders(output: Path) -> None:
    """nnU-Net's folders and variables, few processes, and the stock trainer."""
    use_folders(output)
    (output / "trainers").mkdir()
    (output / "trainers" / "flow_trainer.py").write_text(STOCK_TRAINER)
    os.environ |= {
        "nnUNet_extTrainer": os.pathsep.join([str(trainers_folder()), str((output / "trainers").resolve())]),
        "nnUNet_def_n_proc": "1",
        "nnUNet_n_proc_DA": "1",
        "nnUNet_compile": "f",
        "OMP_NUM_THREADS": "1",
    }


def write_tiny_plans(preprocessed: Path) -> None:
    """Networks and schedules that take seconds."""
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    settings = {"num_epochs": 1, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1, "seed": 0}
    small = configure(plans, PLANS, settings, preset="cpu", batch_size=2)
    for planned in small["configurations"].values():
        if "architecture" in planned:
            network = planned["architecture"]["arch_kwargs"]
            network["features_per_stage"] = [4, 6, 8, 8, 8][: network["n_stages"]]
    write_plans(small, preprocessed)


def train(trainer: str, configuration: str = "2d", *more: str | Path, fold: str = "0") -> list[str | Path]:
    """The words of a training."""
    return [
        "nnUNetv2_train", str(DATASET), configuration, fold, "-tr", trainer, "-p", PLANS, "-device", "cpu", *more,
    ]  # fmt: skip


def model(results: Path, trainer: str, configuration: str = "2d") -> Path:
    """The folder of a model."""
    return results / f"{trainer}__{PLANS}__{configuration}"


def training_commands(flow: Flow, results: Path) -> None:
    """Train, validate, continue, begin from other weights."""
    for configuration in ("2d", "3d_fullres"):
        words = [train(trainer, configuration, "--npz") for trainer in (OURS, STOCK)]
        flow.line(f"train {configuration} --npz", *words, check=lambda said: "validation_hidden/" in said)
    flow.line("train --val --npz", *(train(trainer, "2d", "--val", "--npz") for trainer in (OURS, STOCK)))
    flow.line("train --c", *(train(trainer, "2d", "--c", "--npz") for trainer in (OURS, STOCK)))
    weights, start = model(results, STOCK) / "fold_0" / "checkpoint_final.pth", flow.folder / "start.pth"
    pretrained = [train(trainer, "2d", "-pretrained_weights", weights, fold="1") for trainer in (OURS, STOCK)]
    flow.line("train -pretrained_weights, of a stock model as it is", *pretrained, refused="crossmod adapt-weights")
    shutil.rmtree(model(results, OURS) / "fold_1", ignore_errors=True)
    adapt = ["crossmod", "adapt-weights", "-i", weights, "-o", start, "-d", str(DATASET), "-c", "2d"]
    flow.line("adapt-weights", [*adapt, "-tr", OURS, "-p", PLANS])
    flow.line("train -pretrained_weights, adapted", train(OURS, "2d", "-pretrained_weights", start, fold="1"))


def choosing_commands(flow: Flow, preprocessed: Path, results: Path) -> None:
    """Configuration and postprocessing, with and without other target labels."""
    both = ["-c", "2d", "3d_fullres", "-p", PLANS]
    best = ["nnUNetv2_find_best_configuration", str(DATASET), *both, "-f", "0", "-np", "1"]
    said = flow.line("find_best_configuration", [*best, "-tr", OURS], [*best, "-tr", STOCK])
    summary = model(results, OURS) / "crossval_results_folds_0" / "summary.json"
    before = summary.read_text(), chosen(said)
    labels = [preprocessed / "gt_segmentations", Path(os.environ["nnUNet_raw"]) / results.name / "labelsTr"]  # noqa: SIM112
    kept = {file: file.read_bytes() for folder in labels for file in folder.glob("*lge*")}
    for file in kept:
        image = sitk.ReadImage(str(file))
        other = sitk.GetImageFromArray(np.ones_like(sitk.GetArrayViewFromImage(image)))
        other.CopyInformation(image)
        sitk.WriteImage(other, str(file))

    flow.line(
        "find_best_configuration, target labels overwritten",
        [*best, "-tr", OURS],
        check=lambda said: before == (summary.read_text(), chosen(said)),
    )
    for file, content in kept.items():
        file.write_bytes(content)
    words = []
    for trainer in (OURS, STOCK):
        validation = model(results, trainer) / "fold_0" / "validation"
        shutil.copy(model(results, trainer) / "plans.json", validation)
        shutil.copy(model(results, trainer) / "dataset.json", validation)
        words.append(["nnUNetv2_determine_postprocessing", "-i", validation, "-ref", labels[0], "-np", "1"])
    flow.line("determine_postprocessing", *words)
    folds = ["-c", "2d", "-p", PLANS, "-f", "0"]
    accumulate = ["nnUNetv2_accumulate_crossval_results", str(DATASET), *folds]
    flow.line("accumulate_crossval_results", [*accumulate, "-tr", OURS], [*accumulate, "-tr", STOCK])
    choose = ["crossmod", "choose", "-d", str(DATASET), *both, "-tr", OURS, "-f", "0"]
    flow.line("crossmod choose", choose, check=lambda said: "Highest criterion" in said)


def chosen(said: str) -> list[str]:
    """What ``nnUNetv2_find_best_configuration`` chose, with the scores."""
    words = ("*Best*", "Removing all but the largest", "Results were improved", "Old: ")
    return [line for line in said.splitlines() if line.startswith((*words, OURS))]


def predicting_commands(flow: Flow, raw: Path, results: Path) -> None:
    """New scans: predict, ensemble, postprocess, evaluate, share."""
    scans, out = flow.folder / "scans", flow.folder / "out"
    scans.mkdir()
    for file in (raw / "imagesTs").glob("*lge_0000.nii.gz"):
        shutil.copy(file, scans)
    ours = model(results, OURS)
    channel = ["crossmod", "modality-channel", "-i", scans, "-o", flow.folder / "in", "-m", "lge", "-d", str(DATASET)]
    flow.line("modality-channel", [*channel, "-c", "2d", "-tr", OURS, "-p", PLANS])
    for configuration in ("2d", "3d_fullres"):
        words = [
            predict(
                trainer, flow.folder / "in", out / f"{trainer}_{configuration}", configuration, "--save_probabilities"
            )
            for trainer in (OURS, STOCK)
        ]
        flow.line(f"predict {configuration}", *words, check=lambda said: "constant over" not in said)
    flow.line("predict, modality channel a constant", *constant(flow), check=lambda said: "empty border" in said)
    members = [[out / f"{trainer}_{c}" for c in ("2d", "3d_fullres")] for trainer in (OURS, STOCK)]
    flow.line("ensemble", *(["nnUNetv2_ensemble", "-i", *m, "-o", f"{m[0]}_ensemble", "-np", "1"] for m in members))
    words = []
    for trainer in (OURS, STOCK):
        folder = model(results, trainer) / "fold_0" / "validation"
        files = ["-pp_pkl_file", folder / "postprocessing.pkl", "-plans_json", folder / "plans.json"]
        where = ["-i", out / f"{trainer}_2d", "-o", out / f"{trainer}_pp", *files, "-np", "1"]
        words.append(["nnUNetv2_apply_postprocessing", *where, "-dataset_json", folder / "dataset.json"])
    flow.line("apply_postprocessing", *words)
    described = ["-djfile", ours / "dataset.json", "-pfile", ours / "plans.json", "-np", "1", "--chill"]
    evaluate = [["nnUNetv2_evaluate_folder", raw / "labelsTs", out / f"{t}_2d", *described] for t in (OURS, STOCK)]
    flow.line("evaluate_folder", *evaluate)
    zips = [flow.folder / f"{trainer}.zip" for trainer in (OURS, STOCK)]
    of_model = ["-d", str(DATASET), "-c", "2d", "-f", "0", "-p", PLANS]
    words = [["nnUNetv2_export_model_to_zip", *of_model, "-o", zips[i], "-tr", t] for i, t in enumerate((OURS, STOCK))]
    flow.line("export_model_to_zip", *words)
    flow.line("install_pretrained_model", *(["nnUNetv2_install_pretrained_model_from_zip", file] for file in zips))


def predict(trainer: str, scans: Path, output: Path, configuration: str, *more: str | Path) -> list[str | Path]:
    """The words of a prediction."""
    words: list[str | Path] = ["nnUNetv2_predict", "-i", scans, "-o", output, "-d", str(DATASET), "-c", configuration]
    words += ["-f", "0", "-tr", trainer, "-p", PLANS, "-device", "cpu", "--disable_tta", "-npp", "1", "-nps", "1"]
    return [*words, *more]


def constant(flow: Flow) -> list[list[str | Path]]:
    """A prediction of scans whose modality channel fills the whole array."""
    folder = flow.folder / "constant"
    shutil.copytree(flow.folder / "in", folder)
    for file in folder.glob("*_0001.nii.gz"):
        image = sitk.ReadImage(str(file))
        filled = sitk.GetImageFromArray(np.full_like(sitk.GetArrayViewFromImage(image), 2))
        filled.CopyInformation(image)
        sitk.WriteImage(filled, str(file))
    return [predict(trainer, folder, flow.folder / "out" / f"{trainer}_constant", "2d") for trainer in (OURS, STOCK)]


def refusals(flow: Flow, raw: Path, preprocessed: Path) -> None:
    """What would be wrong, silently, or end in forty lines of frames."""
    out = flow.folder / "out" / "previous"
    previous = ["-prev_stage_predictions", flow.folder / "out" / f"{OURS}_2d"]
    words = predict(OURS, flow.folder / "in", out, "2d", *previous)
    flow.line("predict -prev_stage_predictions", words, refused="leave out -prev_stage_predictions")
    flow.line("train fold 17", train(OURS, fold="17"), train(STOCK, fold="17"), refused="no fold 17")
    flow.line(
        "train a configuration that is not planned", train(OURS, "3d_cascade_fullres"), refused="3d_cascade_fullres"
    )
    phantom.convert(OTHER, subjects=4, test_subjects=0, size=48, slices=5, seed=5)
    other = str(OTHER)
    flow.run("nnUNetv2_plan_and_preprocess", "-d", other, "-c", "2d")
    planned = preprocessed / "nnUNetPlans.json"
    before = planned.read_bytes()
    flow.run("nnUNetv2_move_plans_between_datasets", "-s", other, "-t", str(DATASET), "-sp", "nnUNetPlans")
    words = ["nnUNetv2_train", str(DATASET), "2d", "0", "-tr", OURS, "-device", "cpu"]
    flow.line("train with plans moved from another data set", words, refused="was not preprocessed with")
    planned.write_bytes(before)
    content = json.loads((raw / "dataset.json").read_text())
    content["crossmod"]["modalities"].reverse()
    (raw / "dataset.json").write_text(json.dumps(content))
    scans: list[Any] = ["-i", flow.folder / "scans", "-o", flow.folder / "in2", "-m", "lge", "-d", str(DATASET)]
    flow.line(
        "modality-channel -d, order changed since", ["crossmod", "modality-channel", *scans], refused="-tr, -p and -c"
    )
    write_again = json.loads((preprocessed / "dataset.json").read_text())
    next(iter(write_again["crossmod"]["cases"].values()))["annotated"] = []
    (preprocessed / "dataset.json").write_text(json.dumps(write_again))
    flow.line("train --c with other annotations", train(OURS, "2d", "--c"), refused="was trained on another")


if __name__ == "__main__":
    sys.exit(main())
