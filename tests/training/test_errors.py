"""Bad input: one line that names what, where and the remedy, and nothing written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.plans import write_plans

MakeTrainer = Callable[..., Any]


def drop_block(dataset_json: dict[str, Any]) -> None:
    del dataset_json["crossmod"]


def drop_case(dataset_json: dict[str, Any]) -> None:
    dataset_json["crossmod"]["cases"].pop(sorted(dataset_json["crossmod"]["cases"])[0])


def add_case(dataset_json: dict[str, Any]) -> None:
    dataset_json["crossmod"]["cases"]["ghost_lge"] = {"modality": "lge", "annotated": [], "subject": "ghost"}


def unknown_modality(dataset_json: dict[str, Any]) -> None:
    next(iter(dataset_json["crossmod"]["cases"].values()))["modality"] = "PET"


def unknown_label(dataset_json: dict[str, Any]) -> None:
    next(iter(dataset_json["crossmod"]["cases"].values()))["annotated"] = ["Aorta"]


def annotate_target(dataset_json: dict[str, Any]) -> None:
    cases = dataset_json["crossmod"]["cases"]
    next(case for case in cases.values() if case["modality"] == "lge")["annotated"] = "all"


def regions(dataset_json: dict[str, Any]) -> None:
    dataset_json["labels"]["heart"] = [1, 2, 3]


def no_modality_channel(dataset_json: dict[str, Any]) -> None:
    dataset_json["channel_names"] = {"0": "MR"}


def cascade(plans: dict[str, Any]) -> None:
    plans["configurations"]["2d"]["previous_stage"] = "3d_lowres"


def three_targets(dataset_json: dict[str, Any]) -> None:
    """More target modalities than a batch of two can hold."""
    block = dataset_json["crossmod"]
    block["modalities"], block["target"] = ["cine", "lge", "t1", "t2"], ["lge", "t1", "t2"]
    targets = [case for case in block["cases"].values() if case["modality"] == "lge"]
    for position, case in enumerate(targets):
        case["modality"] = block["target"][position % 3]


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        ({"change_dataset": drop_block}, CrossmodError, "crossmod convert"),
        ({"change_dataset": drop_case}, CrossmodError, 'not in the "crossmod" block'),
        ({"change_dataset": add_case}, CrossmodError, "ghost_lge"),
        ({"change_dataset": unknown_modality}, CrossmodError, "'PET'"),
        ({"change_dataset": unknown_label}, CrossmodError, "'Aorta'"),
        ({"change_dataset": regions}, NotImplementedError, "stock nnU-Net trainer"),
        ({"change_plans": cascade}, NotImplementedError, "3d_fullres or 2d"),
        ({"change_dataset": three_targets}, CrossmodError, "at least 3"),
        ({"configuration": "4d"}, CrossmodError, "3d_fullres"),
        ({"change_dataset": no_modality_channel}, CrossmodError, "noNorm"),
        ({"fpc_wait": 1}, CrossmodError, "fpc_weight"),
        ({"patch_size": [16, 16, 16]}, CrossmodError, "2 positive numbers"),
        ({"csc_stage": 9}, CrossmodError, "csc_stage = 9"),
        ({"warm_up": 30}, CrossmodError, "warm_up = 30; it must be a number at least 0 and at most 1"),
        ({"fpc_weight": -1}, CrossmodError, "fpc_weight = -1"),
        ({"fpc_temperature": 0}, CrossmodError, "above 0"),
        ({"num_epochs": 0}, CrossmodError, "at least 1"),
        ({"fpc_weight": "much"}, CrossmodError, "a number"),
        (
            {"change_dataset": annotate_target, "forbid_annotated_target": True},
            CrossmodError,
            "forbid_annotated_target=false",
        ),
    ],
)
def test_refused_before_anything_is_written(
    arguments: dict[str, Any], kind: type[Exception], says: str, make_trainer: MakeTrainer, nnunet: dict[str, Path]
) -> None:
    configuration = arguments.pop("configuration", "2d")
    with pytest.raises(kind, match=says) as error:
        make_trainer("AICLTrainer", configuration, **arguments)
    assert "\n" not in str(error.value)
    assert not list(nnunet["nnUNet_results"].iterdir())


def test_source_only_forbids_annotated_targets_and_can_be_told_not_to(make_trainer: MakeTrainer) -> None:
    with pytest.raises(CrossmodError, match="SourceOnlyTrainer forbids"):
        make_trainer("SourceOnlyTrainer", change_dataset=annotate_target)
    make_trainer("SourceOnlyTrainer", change_dataset=annotate_target, forbid_annotated_target=False)


def test_data_that_is_not_preprocessed_names_the_command(make_trainer: MakeTrainer) -> None:
    def elsewhere(plans: dict[str, Any]) -> None:
        plans["configurations"]["2d"]["data_identifier"] = "nowhere"

    with pytest.raises(CrossmodError, match="run nnUNetv2_preprocess -d 901 -plans_name nnUNetPlans_tiny -c 2d first"):
        make_trainer("AICLTrainer", change_plans=elsewhere)


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("factor", [1.02, 1.1])
def test_data_of_plans_with_another_spacing_is_told(
    factor: float, configuration: str, make_trainer: MakeTrainer, nnunet: dict[str, Path]
) -> None:
    """As after nnUNetv2_move_plans_between_datasets."""

    def moved(plans: dict[str, Any]) -> None:
        planned = plans["configurations"][configuration]
        planned["spacing"] = [factor * length for length in planned["spacing"]]

    with pytest.raises(CrossmodError, match=r"at the plans' spacing of .* nnUNetv2_preprocess -d 901"):
        make_trainer("JointTrainer", configuration, change_plans=moved)
    assert not list(nnunet["nnUNet_results"].iterdir())


def test_data_of_plans_with_another_normalisation_is_told(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    load = nnUNetDatasetBlosc2.load_case

    def scaled(self: Any, name: str) -> Any:
        data, *others = load(self, name)
        return data[:] * 0.2 + 0.5, *others

    monkeypatch.setattr(nnUNetDatasetBlosc2, "load_case", scaled)
    with pytest.raises(CrossmodError, match="the plans want z-scores"):
        make_trainer("JointTrainer")

    def add_channel(plans: dict[str, Any]) -> None:
        plans["configurations"]["2d"]["normalization_schemes"].append("NoNormalization")

    with pytest.raises(CrossmodError, match="2 channels there, 3 in the plans"):
        make_trainer("JointTrainer", change_plans=add_channel)


@pytest.mark.parametrize("fold", [5, 17])
def test_a_fold_that_does_not_exist_is_refused(fold: int, make_trainer: MakeTrainer, nnunet: dict[str, Path]) -> None:
    with pytest.raises(CrossmodError, match=r"fold 0 … \d or all"):
        make_trainer("JointTrainer", fold=fold)
    assert not list(nnunet["nnUNet_results"].iterdir())


def test_half_written_preprocessing_is_told(make_trainer: MakeTrainer, dataset: Path) -> None:
    (dataset / "half").mkdir()

    def elsewhere(plans: dict[str, Any]) -> None:
        plans["configurations"]["2d"]["data_identifier"] = "half"

    with pytest.raises(CrossmodError, match="half-written"):
        make_trainer("JointTrainer", change_plans=elsewhere)
    (dataset / "half").rmdir()


def test_a_fold_without_a_modality_is_refused(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer("AICLTrainer")
    training, validation = trainer.do_split()
    source = [name for name in training if "cine" in name]
    monkeypatch.setattr(trainer, "do_split", lambda: (source, validation))
    with pytest.raises(CrossmodError, match="no training case of lge"):
        trainer.get_tr_and_val_datasets()


def test_a_fold_without_annotated_validation_is_refused(make_trainer: MakeTrainer) -> None:
    def hide(dataset_json: dict[str, Any]) -> None:
        for case in dataset_json["crossmod"]["cases"].values():
            case["annotated"] = []

    trainer = make_trainer("JointTrainer", change_dataset=hide)
    with pytest.raises(CrossmodError, match="no annotated training case"):
        trainer.on_train_start()


def test_a_term_that_is_not_a_number_names_player_and_term_and_keeps_the_checkpoint(
    make_trainer: MakeTrainer,
) -> None:
    trainer = make_trainer("JointTrainer")
    trainer.on_train_start()
    file = Path(trainer.output_folder) / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(file))
    good = file.read_bytes()
    trainer.on_train_epoch_start()
    output = trainer.train_step(next(trainer.dataloader_train))
    output["terms"]["segmenter/sup"] = output["terms"]["segmenter/sup"] * float("nan")
    with pytest.raises(CrossmodError, match="'sup' of player 'segmenter' is nan in epoch 0"):
        trainer.on_train_epoch_end([output])
    assert file.read_bytes() == good


def test_inference_needs_the_plans_of_the_results_folder(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("AICLTrainer")
    del trainer.plans_manager.plans["crossmod"]["modalities"]
    with pytest.raises(CrossmodError, match="results folder"):
        trainer.initialize()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_is_told_in_one_line(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    trainer = make_trainer("SourceOnlyTrainer")
    trainer.initialize()
    training, validation = trainer.get_dataloaders()
    try:
        next(training)
        for worker in training._processes:
            worker.kill()
        with pytest.raises(CrossmodError, match=r"augments has died.*nnUNet_n_proc_DA.*--c"):
            deque(training, maxlen=1)  # what the worker had made before, then the end
    finally:
        validation._finish()


def test_sigterm_ends_a_training_in_one_line_and_its_workers(dataset: Path, nnunet: dict[str, Path]) -> None:
    plans = json.loads((dataset / "nnUNetPlans_tiny.json").read_text())
    plans["crossmod"] |= {"num_epochs": 1000, "save_every": 1}
    write_plans(plans | {"plans_name": "long"}, dataset)
    command = [sys.executable, "-m", "nnunet_crossmod.nnunet_runs", "train", dataset.name, "2d", "0"]
    command += ["--threads", "1", "-tr", "SourceOnlyTrainer", "-p", "long", "-device", "cpu"]
    environment = {**os.environ, "nnUNet_n_proc_DA": "1"}
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )
    results = nnunet["nnUNet_results"] / dataset.name / "SourceOnlyTrainer__long__2d"
    checkpoint = results / "fold_0" / "checkpoint_latest.pth"
    try:
        while not checkpoint.is_file() and process.poll() is None:
            time.sleep(0.1)
        process.terminate()
        _, said = process.communicate(timeout=60)
        last = said.strip().splitlines()[-1]
        assert last.startswith("Error: told to stop (SIGTERM) in epoch ")
        assert last.endswith(f"{checkpoint} is whole: continue with --c")
        assert "Traceback" not in said
        assert process.returncode == 1
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
        torch.load(checkpoint, weights_only=False)
    finally:
        process.kill()
        shutil.rmtree(results, ignore_errors=True)
        (dataset / "long.json").unlink()
