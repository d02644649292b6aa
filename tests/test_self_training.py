"""``crossmod self-train``: what it trains, keeps and writes, what it does not do twice, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from PIL import Image

from nnunet_crossmod import compare, nnunet_runs, pseudo_dataset, self_training
from nnunet_crossmod.cli import main
from nnunet_crossmod.data import CrossmodBlock
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.paths import load_trainer
from nnunet_crossmod.pictures.kept_labels import KeptSlice

PSEUDO = ["Dataset902_Phantom_pseudo1", "Dataset903_Phantom_pseudo2"]


class Machine:
    """Stands in for nnU-Net: a model labels by brightness, a little otherwise with every seed and round."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failing = ""

    def train(self, dataset: str, configuration: str, trainer: str, plans: str, **how: Any) -> None:
        self._do(f"train {trainer} {plans} {dataset}")
        planned = json.loads((folder("nnUNet_preprocessed", dataset) / f"{plans}.json").read_text())
        assert planned["dataset_name"] == dataset
        fold = folder("nnUNet_results", dataset) / f"{trainer}__{plans}__{configuration}" / f"fold_{how['fold']}"
        fold.mkdir(parents=True, exist_ok=True)
        for name in ("final", "best"):
            (fold / f"checkpoint_{name}.pth").touch()

    def predict(
        self, scans: Path, output: Path, dataset: str, configuration: str, trainer: str, plans: str, **how: Any
    ) -> None:
        self._do(f"predict {plans} {dataset}")
        output.mkdir(parents=True, exist_ok=True)
        shift = 0.3 * int(plans[-1]) if plans[-1].isdigit() else 0.3
        shift /= 3 if "pseudo" in dataset else 1
        for file in scans.glob("*_0000.nii.gz"):
            if how["resume"] and (output / file.name.replace("_0000", "")).is_file():
                continue
            image = sitk.ReadImage(str(file))
            voxels = sitk.GetArrayFromImage(image)
            voxels = (voxels - voxels.mean()) / voxels.std()
            label = sitk.GetImageFromArray(np.digitize(voxels, [1 + shift, 1.5 + shift, 2.5]).astype(np.uint8))
            label.CopyInformation(image)
            sitk.WriteImage(label, str(output / file.name.replace("_0000", "")))

    def preprocess(self, dataset: int, configuration: str, plans: str, *, preprocessed: Path, log: Path) -> None:
        self._do(f"preprocess {dataset}")
        complete = next(preprocessed.glob(f"Dataset{dataset}_*"))
        assert (complete / f"{plans}.json").is_file()
        (complete / f"nnUNetPlans_{configuration}").mkdir()
        (complete / "gt_segmentations").mkdir()

    def draw(self, slices: Sequence[KeptSlice], names: Mapping[str, int], file: Path) -> None:
        assert slices
        Image.new("RGB", (8, 8)).save(file)

    def _do(self, what: str) -> None:
        self.done.append(what)
        if self.failing and self.failing in what:
            raise CrossmodError(f"{what} failed")


def folder(variable: str, name: str) -> Path:
    return Path(os.environ[variable]) / name


@pytest.fixture
def machine(dataset: Path, nnunet: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    fake = Machine()
    monkeypatch.setattr(compare, "train", fake.train)
    monkeypatch.setattr(compare, "predict", fake.predict)
    monkeypatch.setattr(pseudo_dataset, "preprocess", fake.preprocess)
    monkeypatch.setattr(self_training, "kept_label_grid", fake.draw)
    before = set(dataset.iterdir())
    yield fake
    for file in set(dataset.iterdir()) - before:
        file.unlink()
    for base in nnunet.values():
        for name in PSEUDO:
            shutil.rmtree(base / name, ignore_errors=True)
    shutil.rmtree(nnunet["nnUNet_results"])
    nnunet["nnUNet_results"].mkdir()


def call(work: Path, *more: str, trainer: str = "MeanTeacherTrainer") -> int:
    words = ["self-train", "-d", "901", "-c", "2d", "-device", "cpu", "--work", str(work), "-tr", trainer]
    return main([*words, "--seeds", "0", "1", *more])


def labels_of(folder: Path, case: str) -> Any:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{case}.nii.gz")))


def test_everything_once_and_nothing_twice(
    machine: Machine, dataset: Path, nnunet: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    rounds = ("--rounds", "2", "--first", "SourceOnlyTrainer", "--until", "1")
    assert call(work, *rounds) == 0
    said = capsys.readouterr().out
    trained = [step for step in machine.done if step.startswith("train")]
    assert [step.split()[1] for step in trained] == ["SourceOnlyTrainer"] * 2 + ["MeanTeacherTrainer"] * 4
    assert [step.split()[3] for step in trained] == [dataset.name] * 2 + [PSEUDO[0]] * 2 + [PSEUDO[1]] * 2
    assert all(words in said for words in ("between models", "with round 1", "share kept", "Least agreed: "))
    assert "-i SCANS -o OUTPUT" in said

    raw, base = nnunet["nnUNet_raw"] / PSEUDO[0], nnunet["nnUNet_raw"] / dataset.name
    described = json.loads((raw / "dataset.json").read_text())
    block = CrossmodBlock.from_dataset_json(described)
    ignore = described["labels"]["ignore"]
    assert ignore == 4
    assert described["conversion"]["pseudo_labels"]["round"] == 0
    lge = [case for case in block.cases.values() if case.modality == "lge"]
    assert all(case.pseudo and case.annotated and not case.labelled for case in lge)
    assert not any(case.pseudo for case in block.cases.values() if case.modality == "cine")
    table = pd.read_csv(work / "round0" / "agreement.csv").set_index(["case", "structure"])
    for case in lge:
        models = [
            labels_of(path / "predictions", case.name) for path in sorted((work / "round0").glob("SourceOnly*/*"))
        ]
        assert len(models) == 2
        written = labels_of(raw / "labelsTr", case.name)
        agreed = models[0] == models[1]
        assert (written[~agreed] == ignore).all()
        assert np.isin(written[agreed], [ignore, *np.unique(models[0])]).all()
        assert (written[agreed & (models[0] == 0)] == 0).all()
        kept = (written == 1).sum() / (np.minimum(*models) == 1).sum()
        assert 0 < table.loc[(case.name, "Myo"), "kept"] <= 1
        assert kept <= 1
    cine = next(name for name, case in block.cases.items() if case.modality == "cine")
    for part, ending in (("imagesTr", "_0001"), ("labelsTr", "")):
        file = f"{cine}{ending}.nii.gz"
        assert (raw / part / file).read_bytes() == (base / part / file).read_bytes()
    assert any((raw / "labelsTs").iterdir())
    for name in ("splits_final.json", "dataset_fingerprint.json"):
        assert (nnunet["nnUNet_preprocessed"] / PSEUDO[0] / name).read_text() == (dataset / name).read_text()
    assert (work / "round2" / "kept.png").is_file()

    machine.done.clear()
    assert call(work, *rounds) == 0
    assert machine.done == []


def test_it_stops_when_rounds_agree(machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path, "--rounds", "2", "--until", "0.5") == 0
    assert "Rounds 0 and 1 agree" in capsys.readouterr().out
    assert not any(PSEUDO[1] in step for step in machine.done)


def test_it_goes_on_where_it_stopped(
    machine: Machine, nnunet: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.failing = "preprocess"
    assert call(tmp_path) == 1
    assert "preprocess 902 failed" in capsys.readouterr().err
    assert not [path for path in nnunet["nnUNet_preprocessed"].iterdir() if "pseudo" in path.name]
    machine.failing, machine.done = f"nnUNetPlans_seed1 {PSEUDO[0]}", []
    assert call(tmp_path) == 1
    assert [step.split()[0] for step in machine.done] == ["preprocess", "train", "predict", "train"]
    machine.failing, machine.done = "", []
    assert call(tmp_path) == 0
    steps = ("train MeanTeacherTrainer", "predict")
    assert machine.done == [f"{step} nnUNetPlans_seed1 {PSEUDO[0]}" for step in steps]


def test_a_half_written_prediction_is_made_again(machine: Machine, tmp_path: Path) -> None:
    assert call(tmp_path) == 0
    predictions = next((tmp_path / "round1").glob("*/seed0_fold0/predictions"))
    first, *_, last = sorted(predictions.iterdir(), key=lambda file: file.stat().st_mtime)
    complete = last.read_bytes()
    first.unlink()
    last.write_bytes(complete[:-50])
    machine.done = []
    assert call(tmp_path) == 0
    assert machine.done == [f"predict nnUNetPlans_seed0 {PSEUDO[0]}"]
    assert last.read_bytes() == complete


def test_no_target_label_is_read(machine: Machine, dataset: Path, nnunet: dict[str, Path], tmp_path: Path) -> None:
    labels = nnunet["nnUNet_raw"] / dataset.name / "labelsTr"
    assert call(tmp_path / "with") == 0
    expected = {file.name: file.read_bytes() for file in (nnunet["nnUNet_raw"] / PSEUDO[0] / "labelsTr").iterdir()}
    hidden = {file: file.read_bytes() for file in labels.glob("*lge*")}
    assert hidden
    for file in hidden:
        file.unlink()
    for base in nnunet.values():
        shutil.rmtree(base / PSEUDO[0])
    try:
        assert call(tmp_path / "without") == 0
    finally:
        for file, content in hidden.items():
            file.write_bytes(content)
    written = {file.name: file.read_bytes() for file in (nnunet["nnUNet_raw"] / PSEUDO[0] / "labelsTr").iterdir()}
    assert written == expected


@pytest.mark.slow
def test_nnunet_preprocesses_and_trains_on_them(
    machine: Machine, dataset: Path, nnunet: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    monkeypatch.setattr(pseudo_dataset, "preprocess", nnunet_runs.preprocess)
    assert call(tmp_path, "-p", "nnUNetPlans_tiny") == 0
    made = nnunet["nnUNet_preprocessed"] / PSEUDO[0]
    before, after = (nnUNetDatasetBlosc2(str(folder / "nnUNetPlans_2d")) for folder in (dataset, made))
    block = CrossmodBlock.from_dataset_json(json.loads((made / "dataset.json").read_text()))
    assert sorted(after.identifiers) == sorted(block.cases)
    for name, case in block.cases.items():
        (image, labels, *_), (same, pseudo, *_) = before.load_case(name), after.load_case(name)
        np.testing.assert_array_equal(image[:], same[:])
        assert (4 in pseudo[:]) == case.pseudo
        assert np.array_equal(labels[:], pseudo[:]) != case.pseudo

    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    planned = {**json.loads((made / "nnUNetPlans_tiny.json").read_text()), "continue_training": False}
    kind = load_trainer("MeanTeacherTrainer")
    trainer = kind(planned, "2d", 0, json.loads((made / "dataset.json").read_text()), torch.device("cpu"))
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    told = trainer.train_step(next(trainer.dataloader_train))
    batch = trainer.last_batch
    assert batch.target.annotations
    assert (batch.target.labels[0] == 4).any()
    assert torch.isfinite(told["loss"])


def test_pseudo_labels_are_no_real_ones(
    machine: Machine, nnunet: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(tmp_path / "work") == 0
    raw = nnunet["nnUNet_raw"] / PSEUDO[0]
    assert main(["evaluate", "-d", "902", "-p", str(raw / "labelsTr"), "-g", str(raw / "labelsTr")]) == 1
    assert "holds pseudo-labels" in capsys.readouterr().err
    ceiling = load_trainer("TargetSupervisedTrainer")
    ceiling = ceiling.__new__(ceiling)
    ceiling.block = CrossmodBlock.from_dataset_json(json.loads((raw / "dataset.json").read_text()))
    pseudo = ceiling.block.pseudo_labelled[0]
    with pytest.raises(CrossmodError, match=f"case '{pseudo}' has pseudo-labels"):
        ceiling.see(ceiling.block.cases[pseudo])
    words = ["compare", "-c", "2d", "-device", "cpu", "-o", str(tmp_path / "compared"), "-d"]
    assert main([*words, "902", "-tr", "TargetSupervisedTrainer"]) == 1
    assert "has pseudo-labels" in capsys.readouterr().err
    again = ["self-train", "-d", "902", "-c", "2d", "-tr", "MeanTeacherTrainer", "--seeds", "0", "1"]
    assert main([*again, "--work", str(tmp_path / "again")]) == 1
    assert "start from the data set" in capsys.readouterr().err


def test_the_report_shows_the_rounds(machine: Machine, tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert call(work) == 0
    assert main(["report", "-d", "901", "-i", str(work), "-o", str(tmp_path / "r.html"), "--no-embeddings"]) == 1
    for file in folder("nnUNet_results", "").rglob("fold_0"):
        (file / "losses.jsonl").write_text('{"epoch": 0, "segmenter/sup": 1.0}\n')
    assert main(["report", "-d", "901", "-i", str(work), "-o", str(tmp_path / "r.html"), "--no-embeddings"]) == 0
    page = (tmp_path / "r.html").read_text()
    for words in ("What to trust without labels", "Round 0 of self-training", "with the round before", "Round 1, what"):
        assert words in page
    for dataset in ("", ", Dataset902_Phantom_pseudo1"):
        assert f"MeanTeacherTrainer__nnUNetPlans_seed0__2d{dataset}<" in page


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--seeds", "3"], "one model agrees with itself"),
        (["--in-pieces", "Aorta"], "'Aorta' is no structure"),
        (["--first", "TargetSupervisedTrainer"], "TargetSupervisedTrainer reads labels of the target"),
        (["-tr", "SourceOnlyTrainer"], "SourceOnlyTrainer learns from no label of the target"),
        (["-tr", "MeanTeacherTrainer num_epoch=3"], "num_epochs"),
        (["--out-id", "901"], "--out-id 901 is taken"),
        (["--rounds", "0"], "--rounds 0"),
        (["-i", "scans"], "-i and -o belong together"),
        (["--until", "2"], "--until 2.0"),
        (["-d", "999"], "no data set 999"),
    ],
)
def test_refusals_come_before_anything_is_trained(
    more: list[str], says: str, machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(tmp_path / "work", *more) == 1
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1
    assert machine.done == []
    assert not (tmp_path / "work").exists()


def test_a_folder_and_an_id_are_of_one_self_training(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(tmp_path / "a") == 0
    assert call(tmp_path / "a", "--out-id", "950") == 1
    assert "began with Dataset902" in capsys.readouterr().err
    assert call(tmp_path / "a", "-c", "3d_fullres") == 1
    assert "name another folder with --work" in capsys.readouterr().err
    assert call(tmp_path / "a", "--in-pieces", "all") == 1
    assert "does not hold these pseudo-labels" in capsys.readouterr().err
