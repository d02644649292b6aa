"""``crossmod compare``: what it runs, what it does not run again, and the tables it leaves."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from nnunet_crossmod import compare, nnunet_runs, trained_on
from nnunet_crossmod.cli import main
from nnunet_crossmod.compare import read_method, roles_of
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.paths import load_trainer

ROWS = ["SourceOnlyTrainer", "AICLTrainer fpc_weight=0.1", "TargetSupervisedTrainer"]


class Commands:
    """Stands in for nnU-Net: a training leaves its checkpoint, a prediction the reference with voxels removed."""

    def __init__(self, raw: Path, preprocessed: Path) -> None:
        self.raw, self.preprocessed = raw, preprocessed
        self.done: list[tuple[str, ...]] = []
        self.threads: list[int] = []
        self.failing = ""

    def train(self, dataset: str, configuration: str, trainer: str, plans: str, **how: Any) -> None:
        assert (self.preprocessed / f"{plans}.json").is_file()
        self.done.append(("train", trainer, plans, str(how["fold"]), "--c" if how["resume"] else ""))
        self.threads.append(how["threads"])
        if trainer == self.failing:
            raise CrossmodError(f"train failed; the last lines of {how['log']} say why")
        model = f"{trainer}__{plans}__{configuration}"
        fold = Path(os.environ["nnUNet_results"]) / self.raw.name / model / f"fold_{how['fold']}"  # noqa: SIM112
        fold.mkdir(parents=True, exist_ok=True)
        trained_on.write(fold, trained_on.fingerprint(self.preprocessed, plans))
        (fold / "checkpoint_final.pth").touch()

    def predict(
        self, scans: Path, output: Path, dataset: str, configuration: str, trainer: str, plans: str, **how: Any
    ) -> None:
        self.done.append(("predict", trainer, plans, str(how["fold"]), how["checkpoint"]))
        output.mkdir(parents=True, exist_ok=True)
        lost = {"SourceOnlyTrainer": 4, "AICLTrainer": 2, "TargetSupervisedTrainer": 1}.get(trainer, 3)
        for file in (self.raw / "labelsTs").glob("*.nii.gz"):
            label = sitk.ReadImage(str(file))
            values = sitk.GetArrayFromImage(label)
            values[:, ::5] = np.where(values[:, ::5] == lost % 4, 0, values[:, ::5])
            values[:lost] = 0
            changed = sitk.GetImageFromArray(values)
            changed.CopyInformation(label)
            sitk.WriteImage(changed, str(output / file.name))


@pytest.fixture
def commands(dataset: Path, nnunet: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Commands]:
    fake = Commands(nnunet["nnUNet_raw"] / dataset.name, dataset)
    monkeypatch.setattr(compare, "train", fake.train)
    monkeypatch.setattr(compare, "predict", fake.predict)
    before = set(dataset.iterdir())
    yield fake
    for file in set(dataset.iterdir()) - before:
        file.unlink()
    shutil.rmtree(nnunet["nnUNet_results"])
    nnunet["nnUNet_results"].mkdir()


def call(work: Path, *more: str, rows: list[str] = ROWS) -> int:
    return main(["compare", "-d", "901", "-c", "2d", "-device", "cpu", "-o", str(work), *more, "-tr", *rows])


def test_everything_once_and_nothing_twice(
    commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    assert call(work, "--seeds", "0", "1") == 0
    said = capsys.readouterr().out
    assert len([step for step in commands.done if step[0] == "train"]) == 6
    assert len([step for step in commands.done if step[0] == "predict"]) == 6
    assert {step[2] for step in commands.done if step[1] == "AICLTrainer"} == {
        f"nnUNetPlans_fpc_weight-0.1_seed{seed}" for seed in (0, 1)
    }
    assert "lge, 2d: 1 test scans, 2 run(s)" in said
    assert "gap closed" in said
    table = pd.read_csv(work / "table.csv").set_index(["modality", "method"])
    gap = table.loc["lge"]["gap closed"]
    assert gap["SourceOnlyTrainer"] == 0
    assert gap["TargetSupervisedTrainer"] == 1
    assert 0 < gap["AICLTrainer fpc_weight=0.1"] < 1
    assert len(pd.read_csv(work / "scores.csv")) == 6 * 2 * 3
    assert r"\begin{tabular}" in (work / "table.tex").read_text()
    assert "## lge, 2d" in (work / "table.md").read_text()

    commands.done.clear()
    assert call(work, "--seeds", "0", "1") == 0
    assert commands.done == []
    assert pd.read_csv(work / "table.csv").set_index(["modality", "method"])["dice mean"].equals(table["dice mean"])

    record = json.loads((work / "comparison.json").read_text())
    assert [run["run"] for run in record["runs"]][:2] == ["seed0_fold0", "seed1_fold0"]
    assert record["roles"]["floor"] == "SourceOnlyTrainer"


def test_it_goes_on_where_it_stopped(commands: Commands, nnunet: dict[str, Path], tmp_path: Path) -> None:
    rows = ["SourceOnlyTrainer", "AICLTrainer"]
    assert call(tmp_path, rows=rows) == 0
    folds = {trainer: next(nnunet["nnUNet_results"].rglob(f"{trainer}*/fold_0")) for trainer in rows}
    commands.done.clear()
    (folds["AICLTrainer"] / "checkpoint_final.pth").rename(folds["AICLTrainer"] / "checkpoint_latest.pth")
    time.sleep(0.05)
    assert call(tmp_path, rows=rows) == 0
    assert commands.done == [
        ("train", "AICLTrainer", "nnUNetPlans", "0", "--c"),
        ("predict", "AICLTrainer", "nnUNetPlans", "0", "checkpoint_final.pth"),
    ]


@pytest.mark.parametrize("lost", ["metrics.csv", "summary.json"])
def test_it_measures_again_after_a_kill_between_two_files(lost: str, commands: Commands, tmp_path: Path) -> None:
    rows = ["SourceOnlyTrainer"]
    metrics = tmp_path / "SourceOnlyTrainer" / "fold0" / "metrics.csv"
    assert call(tmp_path, "--tolerance", "1", rows=rows) == 0
    old, written = metrics.read_text(), metrics.stat().st_mtime
    assert call(tmp_path, "--tolerance", "9", rows=rows) == 0
    new = metrics.read_text()
    assert new != old
    metrics.write_text(old)  # as if the second call had died before it was written
    os.utime(metrics, (written, written))
    if lost == "summary.json":
        (metrics.parent / lost).unlink()
    assert call(tmp_path, "--tolerance", "9", rows=rows) == 0
    assert metrics.read_text() == new


def test_another_checkpoint_is_another_run(commands: Commands, nnunet: dict[str, Path], tmp_path: Path) -> None:
    rows = ["SourceOnlyTrainer"]
    assert call(tmp_path, rows=rows) == 0
    (next(nnunet["nnUNet_results"].rglob("fold_0")) / "checkpoint_best.pth").touch()
    commands.done.clear()
    assert call(tmp_path, "-chk", "checkpoint_best.pth", rows=rows) == 0
    assert commands.done == [("predict", "SourceOnlyTrainer", "nnUNetPlans", "0", "checkpoint_best.pth")]
    assert (tmp_path / "SourceOnlyTrainer" / "fold0_best" / "metrics.csv").is_file()


@pytest.mark.parametrize("more", [["--set", "num_epochs=3"], ["--disable_tta"], ["-p", "nnUNetPlans_tiny"]])
def test_predictions_of_another_model_are_made_again(more: list[str], commands: Commands, tmp_path: Path) -> None:
    rows = ["SourceOnlyTrainer"]
    assert call(tmp_path, rows=rows) == 0
    for words in (more, []):
        commands.done.clear()
        assert call(tmp_path, *words, rows=rows) == 0
        assert [step[0] for step in commands.done if step[0] == "predict"] == ["predict"]
    commands.done.clear()
    assert call(tmp_path, rows=rows) == 0
    assert commands.done == []


@pytest.mark.parametrize(
    ("change", "more", "code", "says"),
    [
        ({"phantom000_lge": "all"}, [], 1, "--set forbid_annotated_target=false"),
        ({"phantom000_lge": "all"}, ["--set", "forbid_annotated_target=false"], 0, ""),
        ({}, [], 0, ""),
    ],
)
def test_annotated_target_scans_are_told_before_anything_is_trained(
    change: dict[str, str],
    more: list[str],
    code: int,
    says: str,
    commands: Commands,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = commands.raw / "dataset.json"
    original = file.read_text()
    content = json.loads(original)
    names = [name for name, case in content["crossmod"]["cases"].items() if case["modality"] == "lge"]
    for annotated in change.values():
        content["crossmod"]["cases"][names[0]]["annotated"] = annotated
    file.write_text(json.dumps(content))
    try:
        assert call(tmp_path, *more, rows=["SourceOnlyTrainer"]) == code
    finally:
        file.write_text(original)
    assert says in capsys.readouterr().err
    assert bool(commands.done) == (code == 0)


def test_a_row_without_labels_is_told_before_anything_is_trained(
    commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = commands.raw / "dataset.json"
    original = file.read_text()
    content = json.loads(original)
    for case in content["crossmod"]["cases"].values():
        if case["modality"] == "lge":
            case["labelled"] = False
    file.write_text(json.dumps(content))
    try:
        assert call(tmp_path) == 1
    finally:
        file.write_text(original)
    assert "TargetSupervisedTrainer may use" in capsys.readouterr().err
    assert commands.done == []


@pytest.mark.parametrize(
    ("more", "rows", "says"),
    [
        ([], ["SourceOnlyTrainer", "BestTrainer"], "there is no trainer 'BestTrainer'"),
        ([], ["SourceOnlyTrainer fpc_weight=1"], "which SourceOnlyTrainer does not have"),
        ([], ["SourceOnlyTrainer", "SourceOnlyTrainer"], "two rows alike"),
        ([], ["AICLTrainer fpc_weight=0.5", "AICLTrainer  fpc_weight=0.50"], "two rows alike"),
        (["--seeds", "0", "1"], ["AICLTrainer seed=5"], "has a seed, and so has --seeds"),
        (["--seeds", "0", "--set", "seed=5"], ROWS, "has a seed, and so has --seeds"),
        (["-p", "otherPlans"], ROWS, "otherPlans.json does not exist"),
        (["--ceiling", "nnUNetTrainer"], ROWS, "is not among the rows"),
    ],
)
def test_wrong_rows_are_refused_before_anything_is_trained(
    more: list[str], rows: list[str], says: str, commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(tmp_path, *more, rows=rows) == 1
    assert says in capsys.readouterr().err
    assert commands.done == []


def test_a_row_may_name_a_translator(commands: Commands, tmp_path: Path) -> None:
    """The folders of models hold two underscores in a row, which nnU-Net does not bear in the name of plans."""
    checkpoint = tmp_path / "GLUATrainer__nnUNetPlans__2d" / "fold_0" / "checkpoint_final.pth"
    assert call(tmp_path / "work", rows=[f"GLUATrainer translator_checkpoint={checkpoint}"]) == 0
    plans = commands.done[0][2]
    assert "__" not in plans
    written = json.loads((commands.preprocessed / f"{plans}.json").read_text())
    assert written["crossmod"]["translator_checkpoint"] == str(checkpoint)


def test_plans_of_that_name_made_from_others_are_refused(
    commands: Commands, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(tmp_path, "--set", "num_epochs=3", rows=["SourceOnlyTrainer"]) == 0
    file = dataset / "nnUNetPlans_num_epochs-3.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_reader_writer": "other"}))
    assert call(tmp_path, "--set", "num_epochs=3", rows=["SourceOnlyTrainer"]) == 1
    assert "planned again" in capsys.readouterr().err


def test_a_row_is_a_trainer_and_its_settings() -> None:
    method = read_method("AICLTrainer gin=source fpc_weight=0.5")
    assert (method.trainer, method.settings) == ("AICLTrainer", {"gin": "source", "fpc_weight": 0.5})
    roles = roles_of([read_method(row) for row in ROWS])
    assert roles == ("SourceOnlyTrainer", "TargetSupervisedTrainer", "SourceOnlyTrainer")
    assert roles_of([method]) == (None, None, method.title)
    with pytest.raises(CrossmodError, match="empty row"):
        read_method(" ")


@pytest.mark.slow
def test_with_nnunets_own_commands(dataset: Path, nnunet: dict[str, Path], tmp_path: Path) -> None:
    assert call(tmp_path, "-p", "nnUNetPlans_tiny", "--disable_tta", rows=["TargetSupervisedTrainer"]) == 0
    assert (tmp_path / "table.md").is_file()
    assert len(list(tmp_path.rglob("predictions/*.nii.gz"))) == 2


def test_a_preset_brings_what_the_trainer_has_for_it(commands: Commands, tmp_path: Path) -> None:
    rows = ["SourceOnlyTrainer", "CISFATrainer", "CISFATrainer generator_width=8"]
    assert call(tmp_path / "work", "--preset", "cpu", rows=rows) == 0
    plans = {step[2]: commands.preprocessed / f"{step[2]}.json" for step in commands.done}
    found = {name: json.loads(file.read_text())["crossmod"] for name, file in plans.items()}
    preset = load_trainer("CISFATrainer").presets["cpu"]
    with_preset = [options for options in found.values() if "generator_width" in options]
    assert [options["generator_width"] for options in with_preset] == [preset["generator_width"], 8]
    assert len(found) == 3


def test_a_row_that_fails_costs_no_other_row(
    commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.failing = "AICLTrainer"
    assert call(tmp_path / "work", rows=["SourceOnlyTrainer", "AICLTrainer", "TargetSupervisedTrainer"]) == 1
    captured = capsys.readouterr()
    assert "AICLTrainer, fold0: train failed; the last lines of" in captured.err
    assert "train.log" in captured.err
    table = pd.read_csv(tmp_path / "work" / "table.csv")
    assert set(table["method"]) == {"SourceOnlyTrainer", "TargetSupervisedTrainer"}
    record = json.loads((tmp_path / "work" / "comparison.json").read_text())
    assert [run["method"]["title"] for run in record["runs"]] == ["SourceOnlyTrainer", "TargetSupervisedTrainer"]
    commands.failing = ""
    commands.done.clear()
    assert call(tmp_path / "work", rows=["SourceOnlyTrainer", "AICLTrainer", "TargetSupervisedTrainer"]) == 0
    assert {step[1] for step in commands.done} == {"AICLTrainer"}


def test_rows_side_by_side_share_the_cores_and_give_the_same_table(commands: Commands, tmp_path: Path) -> None:
    for jobs in ("1", "2"):
        shutil.rmtree(Path(os.environ["nnUNet_results"]) / commands.raw.name, ignore_errors=True)  # noqa: SIM112
        assert call(tmp_path / jobs, "--jobs", jobs, "--seeds", "0", "1") == 0
    assert commands.threads == [nnunet_runs.cores()] * 6 + [max(1, nnunet_runs.cores() // 2)] * 6
    tables = [(tmp_path / jobs / "table.csv").read_text() for jobs in ("1", "2")]
    assert tables[0] == tables[1]


@pytest.mark.parametrize("change", ["labels", "block"])
def test_a_model_trained_on_other_annotations_is_refused(
    change: str, commands: Commands, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(tmp_path, rows=["SourceOnlyTrainer"]) == 0
    path = dataset / "dataset.json" if change == "block" else next((dataset / "gt_segmentations").iterdir())
    original = path.read_bytes()
    if change == "block":
        content = json.loads(original)
        next(iter(content["crossmod"]["cases"].values()))["annotated"] = []
        path.write_text(json.dumps(content))
    else:
        path.write_bytes(original + b"0")
    commands.done.clear()
    try:
        assert call(tmp_path, rows=["SourceOnlyTrainer"]) == 1
    finally:
        path.write_bytes(original)
    error = capsys.readouterr().err
    assert "was trained on " in error
    assert "remove " in error
    if change == "labels":
        assert path.name in error
    assert commands.done == []
    assert call(tmp_path, rows=["SourceOnlyTrainer"]) == 0
    assert commands.done == []


def test_what_the_rows_were_trained_with_is_printed(
    commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["SourceOnlyTrainer", "JointTrainer", "JointTrainer optimizer_name=adam num_epochs=7"]
    assert call(tmp_path, "--set", "num_iterations_per_epoch=5", rows=rows) == 0
    lines = capsys.readouterr().out.split("Trained with")[1].splitlines()
    header = next(line for line in lines if "labelled per step" in line)
    assert "optimizer" in header
    assert "schedule" not in header
    last = next(line for line in lines if "num_epochs=7" in line and " 35 " in line)
    assert "0.9, 0.999" in last
    assert "Trained with" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "scans.csv").is_file()


def test_folds_may_be_all(commands: Commands, tmp_path: Path) -> None:
    assert call(tmp_path, "-f", "all", rows=["SourceOnlyTrainer"]) == 0
    assert [step[3] for step in commands.done] == ["all", "all"]
