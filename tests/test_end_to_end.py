"""nnU-Net's own commands, as a user types them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from support import tiny

from nnunet_crossmod.cli import main
from nnunet_crossmod.plans import write_plans

pytestmark = pytest.mark.slow
PLANS = "nnUNetPlans_e2e"


def command(*words: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / words[0]
    alone = {**os.environ, "nnUNet_n_proc_DA": "0"}
    return subprocess.run([program, *words[1:]], capture_output=True, text=True, check=False, env=alone)


def plans(dataset: Path, epochs: int) -> None:
    planned = json.loads((dataset / "nnUNetPlans.json").read_text())
    write_plans(tiny(planned, PLANS, num_epochs=epochs, warm_up=0.0), dataset, overwrite=True)


@pytest.fixture(scope="module")
def trained(dataset: Path, nnunet: dict[str, Path]) -> Path:
    """An AICL model of two epochs, trained by nnUNetv2_train."""
    plans(dataset, epochs=2)
    done = command("nnUNetv2_train", "901", "2d", "0", "-tr", "AICLTrainer", "-p", PLANS, "-device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = nnunet["nnUNet_results"] / dataset.name / f"AICLTrainer__{PLANS}__2d"
    return Path(shutil.copytree(folder, nnunet["nnUNet_results"].parent / "kept"))


@pytest.fixture
def results(trained: Path, dataset: Path, nnunet: dict[str, Path]) -> Path:
    folder = nnunet["nnUNet_results"] / dataset.name / f"AICLTrainer__{PLANS}__2d"
    shutil.copytree(trained, folder, dirs_exist_ok=True)
    return folder


def predict(scans: Path, output: Path) -> subprocess.CompletedProcess[str]:
    where = ["-i", str(scans), "-o", str(output), "-d", "901", "-c", "2d", "-f", "0", "-tr", "AICLTrainer", "-p", PLANS]
    return command("nnUNetv2_predict", *where, "-device", "cpu", "--disable_tta", "-npp", "1", "-nps", "1")


def test_training_leaves_what_it_promises(results: Path) -> None:
    fold = results / "fold_0"
    for name in ("checkpoint_final.pth", "checkpoint_best.pth", "losses.jsonl", "losses.png", "progress.png"):
        assert (fold / name).is_file(), name
    for part, modality in (("validation", "cine"), ("validation_hidden", "lge")):
        summary = json.loads((fold / part / "summary.json").read_text())
        assert all(modality in Path(case["prediction_file"]).name for case in summary["metric_per_case"])
    assert not list(fold.glob("*.partial"))


def test_c_continues_and_the_record_goes_on(results: Path, dataset: Path) -> None:
    fold = results / "fold_0"
    first = [json.loads(line) for line in (fold / "losses.jsonl").read_text().splitlines()]
    (fold / "checkpoint_final.pth").rename(fold / "checkpoint_latest.pth")
    plans(dataset, epochs=3)
    words = ("901", "2d", "0", "-tr", "AICLTrainer", "-p", PLANS, "-device", "cpu", "--c")
    done = command("nnUNetv2_train", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (fold / "losses.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert rows[:2] == first
    assert (fold / "checkpoint_final.pth").is_file()
    plans(dataset, epochs=2)


def test_new_scans_are_predicted_by_the_stock_command(
    results: Path, dataset: Path, nnunet: dict[str, Path], tmp_path: Path
) -> None:
    scan = next((nnunet["nnUNet_raw"] / dataset.name / "imagesTs").glob("*lge_0000.nii.gz"))
    (tmp_path / "scans").mkdir()
    shutil.copy(scan, tmp_path / "scans" / "new.nii.gz")
    arguments = ["-i", str(tmp_path / "scans"), "-o", str(tmp_path / "in"), "-m", "lge", "-d", "901"]
    assert main(["modality-channel", *arguments]) == 0
    done = predict(tmp_path / "in", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    image, prediction = (sitk.ReadImage(str(f)) for f in (scan, tmp_path / "out" / "new.nii.gz"))
    assert prediction.GetSize() == image.GetSize()
    np.testing.assert_allclose(prediction.GetOrigin(), image.GetOrigin(), atol=1e-4)


def test_a_wrong_modality_channel_ends_in_one_line_and_no_prediction(
    results: Path, dataset: Path, nnunet: dict[str, Path], tmp_path: Path
) -> None:
    scan = next((nnunet["nnUNet_raw"] / dataset.name / "imagesTs").glob("*lge_0000.nii.gz"))
    (tmp_path / "in").mkdir()
    shutil.copy(scan, tmp_path / "in" / "new_0000.nii.gz")
    image = sitk.ReadImage(str(scan))
    channel = sitk.GetImageFromArray(np.full(image.GetSize()[::-1], 5, dtype=np.uint8))
    channel.CopyInformation(image)
    sitk.WriteImage(channel, str(tmp_path / "in" / "new_0001.nii.gz"))
    done = predict(tmp_path / "in", tmp_path / "out")
    assert done.returncode != 0
    assert "1 (cine), 2 (lge)" in done.stderr
    assert "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("Error: ")]) == 1
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_bad_input_of_a_training_ends_in_one_line_and_writes_nothing(dataset: Path, nnunet: dict[str, Path]) -> None:
    original = (dataset / "dataset.json").read_text()
    broken = json.loads(original)
    del broken["crossmod"]
    (dataset / "dataset.json").write_text(json.dumps(broken))
    try:
        done = command("nnUNetv2_train", "901", "2d", "0", "-tr", "JointTrainer", "-p", PLANS, "-device", "cpu")
    finally:
        (dataset / "dataset.json").write_text(original)
    assert done.returncode == 1
    assert "crossmod convert" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(nnunet["nnUNet_results"].rglob("JointTrainer*"))


def test_scrambled_raw_target_labels_change_no_bit_of_a_training(
    nnunet: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the raw label files on: fingerprint, plans, preprocessing, sampling, losses."""
    import torch
    from support import plan_and_preprocess

    from nnunet_crossmod.dataset_conversion import phantom
    from nnunet_crossmod.paths import load_trainer

    def train(dataset_id: int, scramble: bool) -> dict[str, torch.Tensor]:
        raw = phantom.convert(dataset_id, subjects=4, test_subjects=0, size=48, slices=4)
        if scramble:
            for file in (raw / "labelsTr").glob("*lge*"):
                label = sitk.ReadImage(str(file))
                shape = sitk.GetArrayViewFromImage(label).shape
                noise = sitk.GetImageFromArray(np.random.default_rng(1).integers(0, 4, shape).astype(np.uint8))
                noise.CopyInformation(label)
                sitk.WriteImage(noise, str(file))
        plan_and_preprocess(dataset_id, ("2d",))
        folder = nnunet["nnUNet_preprocessed"] / raw.name
        planned = tiny(json.loads((folder / "nnUNetPlans.json").read_text()), "tiny", warm_up=0.0)
        planned["continue_training"] = False
        dataset_json = json.loads((folder / "dataset.json").read_text())
        with monkeypatch.context() as patch:
            patch.setenv("nnUNet_n_proc_DA", "0")  # one process can be seeded; planning cannot do with none
            trainer = load_trainer("AICLTrainer")(planned, "2d", 0, dataset_json, torch.device("cpu"))
            trainer.run_training()
        return {key: value.clone() for key, value in trainer.network.state_dict().items()}

    honest, scrambled = train(905, scramble=False), train(906, scramble=True)
    for key, value in honest.items():
        assert torch.equal(value, scrambled[key]), key


def test_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Shortened: what counts is that every step follows the last."""
    from nnunet_crossmod.commands import demo

    environment = dict(os.environ)
    monkeypatch.setattr(demo, "EPOCHS", {"2d": 1})
    monkeypatch.setattr(demo, "ITERATIONS", {"2d": 2})
    try:
        assert main(["demo", "-o", str(tmp_path / "demo"), "-device", "cpu"]) == 0
    finally:
        os.environ.clear()
        os.environ.update(environment)
    said = capsys.readouterr().out
    assert all(
        name in said
        for name in ("augmentation=nnunet", "SourceOnlyTrainer", "MeanTeacherTrainer", "lge", "predictions.png")
    )
    assert (tmp_path / "demo" / "predictions.png").stat().st_size > 20_000
    assert main(["demo", "-o", str(tmp_path / "demo")]) == 1
    assert "--overwrite" in capsys.readouterr().err
