"""Predictions in one step are those of ``crossmod modality-channel`` and nnU-Net's own predictor, bit for bit."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_crossmod.cli import main
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.inference import Predictor, predictor
from nnunet_crossmod.inference.modality_channel import add_modality_channel
from nnunet_crossmod.raw.image_files import axis_codes, check_same_grid

MakeModel = Callable[..., Path]
PLANS = "nnUNetPlans_tiny"


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command takes every core, as nnU-Net's does; a test need not."""
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)


@pytest.fixture
def scans(dataset: Path, nnunet: dict[str, Path], tmp_path: Path) -> Path:
    """``a_cine`` and ``b_lge``, both within a border of zeros that nnU-Net crops."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for name, modality in (("a", "cine"), ("b", "lge")):
        file = next((nnunet["nnUNet_raw"] / dataset.name / "imagesTs").glob(f"*{modality}_0000.nii.gz"))
        scan = sitk.ReadImage(str(file))
        voxels = sitk.GetArrayFromImage(scan)
        voxels[:, :7], voxels[:, :, -5:], voxels[:1] = 0, 0, 0
        cut = sitk.GetImageFromArray(voxels)
        cut.CopyInformation(scan)
        sitk.WriteImage(cut, str(folder / f"{name}_{modality}.nii.gz"))
    return folder


def command(folder: Path, scans: Path, output: Path, *words: str, mirror: bool = False) -> list[str]:
    trainer, plans, configuration = folder.name.split("__")
    model = ["-d", "901", "-tr", trainer, "-p", plans, "-c", configuration]
    fast = ["-npp", "0", "-nps", "0", "-device", "cpu", *([] if mirror else ["--disable_tta"])]
    return ["predict", "-i", str(scans), "-o", str(output), *model, *fast, *words]


def stock_route(folder: Path, scans: Path, output: Path, told: dict[str, str], folds: tuple[int, ...]) -> None:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    add_modality_channel(scans, output.parent / "in", told, folder / "dataset.json")
    output.mkdir()
    with contextlib.redirect_stdout(io.StringIO()):
        stock = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
        stock.initialize_from_trained_model_folder(str(folder), folds)
        stock.predict_from_files_sequential(str(output.parent / "in"), str(output), save_probabilities=True)


def voxels(file: Path) -> Any:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


TOLD = {"a_cine": "cine", "b_lge": "lge"}
BY_NAME = ["-m", "cine=*_cine", "lge=*_lge"]


@pytest.mark.parametrize(("configuration", "folds"), [("2d", (0, 1)), ("3d_fullres", (0,))])
def test_predictions_are_those_of_nnunet(
    configuration: str, folds: tuple[int, ...], make_model: MakeModel, scans: Path, tmp_path: Path
) -> None:
    folder = make_model(configuration=configuration, folds=folds)
    stock_route(folder, scans, tmp_path / "stock", TOLD, folds)
    words = [*BY_NAME, "-f", *map(str, folds), "--save_probabilities"]
    assert main(command(folder, scans, tmp_path / "out", *words, mirror=True)) == 0
    for case in TOLD:
        mine, theirs = (tmp_path / place / f"{case}.nii.gz" for place in ("out", "stock"))
        assert mine.read_bytes() == theirs.read_bytes()
        assert len(np.unique(voxels(mine))) > 1
        probabilities = [np.load(file.with_suffix("").with_suffix(".npz"))["probabilities"] for file in (mine, theirs)]
        np.testing.assert_array_equal(*probabilities)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {f"{case}{e}" for case in TOLD for e in (".nii.gz", ".npz", ".pkl")} | {
        "dataset.json",
        "plans.json",
    }
    for name in ("dataset.json", "plans.json"):
        assert json.loads((tmp_path / "out" / name).read_text()) == json.loads((tmp_path / "stock" / name).read_text())


def test_an_array_is_predicted_as_its_file_is(make_model: MakeModel, scans: Path, tmp_path: Path) -> None:
    folder = make_model()
    assert main(command(folder, scans, tmp_path / "out", *BY_NAME, "--save_probabilities")) == 0
    model = Predictor(folder, device="cpu", mirroring=False)
    assert model.modalities == ("cine", "lge")
    image = sitk.ReadImage(str(scans / "b_lge.nii.gz"))
    array, spacing = sitk.GetArrayFromImage(image), image.GetSpacing()[::-1]
    labels, probabilities = model.predict_probabilities(array, spacing, "lge")
    np.testing.assert_array_equal(labels, voxels(tmp_path / "out" / "b_lge.nii.gz"))
    np.testing.assert_array_equal(probabilities, np.load(tmp_path / "out" / "b_lge.npz")["probabilities"])
    np.testing.assert_array_equal(labels, model.predict(array[None], spacing, "lge"))
    assert (model.predict(array, spacing, "cine") != labels).any()


@pytest.mark.parametrize(
    ("image", "spacing", "modality", "says"),
    [
        (np.ones((4, 9, 9)), (8, 1, 1), "t2", r"\['cine', 'lge'\]"),
        (np.ones((9, 9)), (8, 1, 1), "lge", r"\(z, y, x\)"),
        (np.ones((2, 4, 9, 9)), (8, 1, 1), "lge", r"\(z, y, x\)"),
        (np.zeros((4, 9, 9)), (8, 1, 1), "lge", "all zero"),
        (np.full((4, 9, 9), np.nan), (8, 1, 1), "lge", "NaN"),
        (np.ones((4, 9, 9)), (1, 1), "lge", "mm"),
        (np.ones((4, 9, 9)), (1, 0, 1), "lge", "mm"),
    ],
)
def test_arrays_that_are_no_scan(make_model: MakeModel, image: Any, spacing: Any, modality: str, says: str) -> None:
    with pytest.raises(CrossmodError, match=says):
        Predictor(make_model(), device="cpu").predict(image, spacing, modality)


def test_modalities_from_a_table(make_model: MakeModel, scans: Path, tmp_path: Path) -> None:
    folder = make_model()
    (tmp_path / "told.csv").write_text("case,modality\na_cine,cine\nb_lge,lge\nof_another_folder,lge\n")
    assert main(command(folder, scans, tmp_path / "out", *BY_NAME)) == 0
    assert main(command(folder, scans, tmp_path / "same", "--modalities", str(tmp_path / "told.csv"))) == 0
    (tmp_path / "told.csv").write_text("case,modality\na_cine,lge\nb_lge,lge\n")
    assert main(command(folder, scans, tmp_path / "other", "--modalities", str(tmp_path / "told.csv"))) == 0
    for case in TOLD:
        first = voxels(tmp_path / "out" / f"{case}.nii.gz")
        np.testing.assert_array_equal(first, voxels(tmp_path / "same" / f"{case}.nii.gz"))
        assert (first != voxels(tmp_path / "other" / f"{case}.nii.gz")).any() == (case == "a_cine")


def test_a_prediction_is_continued(
    make_model: MakeModel, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command(make_model(), scans, tmp_path / "out", *BY_NAME, "--continue_prediction")
    assert main(words) == 0
    (tmp_path / "out" / "a_cine.nii.gz").unlink()
    kept = (tmp_path / "out" / "b_lge.nii.gz").stat().st_mtime_ns
    capsys.readouterr()
    assert main(words) == 0
    assert "1 cases predicted, 1 were there already" in capsys.readouterr().out
    assert (tmp_path / "out" / "a_cine.nii.gz").is_file()
    assert (tmp_path / "out" / "b_lge.nii.gz").stat().st_mtime_ns == kept


def test_calls_that_share_a_folder(make_model: MakeModel, scans: Path, tmp_path: Path) -> None:
    folder = make_model()
    for part, case in enumerate(("a_cine", "b_lge")):
        shared = command(folder, scans, tmp_path / f"{part}", *BY_NAME, "-num_parts", "2", "-part_id", str(part))
        assert main(shared) == 0
        assert [path.name for path in (tmp_path / f"{part}").glob("*.nii.gz")] == [f"{case}.nii.gz"]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert said.startswith("Error: ")
    return said


def test_a_broken_scan_costs_no_other_its_prediction(
    make_model: MakeModel, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (scans / "a_cine.nii.gz").write_bytes((scans / "a_cine.nii.gz").read_bytes()[:-200])
    assert main(command(make_model(), scans, tmp_path / "out", *BY_NAME)) == 1
    said = one_line(capsys)
    assert "a_cine.nii.gz cannot be read (truncated" in said
    assert "1 of 2 cases were not predicted" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"b_lge.nii.gz", "dataset.json", "plans.json"}
    (scans / "b_lge.nii.gz").unlink()
    assert main(command(make_model(), scans, tmp_path / "none", "-m", "cine")) == 1
    assert not (tmp_path / "none").exists()


def test_any_failure_of_a_case_costs_no_other(
    make_model: MakeModel,
    scans: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = predictor.read_case

    def reader_fails(files: Any, *arguments: Any) -> Any:
        assert "a_cine" not in str(files[0]), "only 3d images are\nsupported"
        return original(files, *arguments)

    monkeypatch.setattr(predictor, "read_case", reader_fails)
    assert main(command(make_model(), scans, tmp_path / "out", *BY_NAME)) == 1
    said = one_line(capsys)
    assert "case 'a_cine' cannot be predicted (AssertionError: only 3d images are supported" in said
    assert "(1 of 2 cases were not predicted: a_cine)" in said
    assert (tmp_path / "out" / "b_lge.nii.gz").is_file()


def test_a_scan_is_predicted_as_its_header_means_it(
    make_model: MakeModel, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same scan with an axis behind and in micrometres, and turned; beside a file that is none."""
    folder = make_model()
    plain = nibabel.load(scans / "b_lge.nii.gz")
    same = nibabel.Nifti1Image(np.asarray(plain.dataobj)[..., None], np.diag([1000, 1000, 1000, 1]) @ plain.affine)
    same.header.set_xyzt_units("micron")
    same.to_filename(scans / "c_lge.nii.gz")
    other = sitk.DICOMOrient(sitk.ReadImage(str(scans / "b_lge.nii.gz")), "SLP")
    sitk.WriteImage(other, str(scans / "d_lge.nii.gz"))
    (scans / "notes.txt").touch()
    trained = json.loads((folder / "dataset.json").read_text())["crossmod"]["orientations"]["lge"]
    assert main(command(folder, scans, tmp_path / "out", *BY_NAME)) == 0
    maps = [tmp_path / "out" / f"{name}_lge.nii.gz" for name in "bc"]
    np.testing.assert_array_equal(voxels(maps[0]), voxels(maps[1]))
    assert sitk.ReadImage(str(maps[1])).GetSpacing() == pytest.approx(sitk.ReadImage(str(maps[0])).GetSpacing())
    shown = capsys.readouterr().out
    assert f"the axes of 1 lge scans run as in no training scan ({', '.join(trained)}): d_lge SLP" in shown
    assert "1 files of" in shown
    assert "notes.txt" in shown


def test_where_nnunet_reorients_the_voxel_order_of_a_scan_does_not_count(
    make_model: MakeModel, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_model(change_plans=lambda plans: plans.update(image_reader_writer="NibabelIOWithReorient"))
    other = sitk.DICOMOrient(sitk.ReadImage(str(scans / "b_lge.nii.gz")), "SLP")
    sitk.WriteImage(other, str(scans / "c_lge.nii.gz"))
    assert main(command(folder, scans, tmp_path / "out", *BY_NAME)) == 0
    plain, turned = (sitk.ReadImage(str(tmp_path / "out" / f"{name}_lge.nii.gz")) for name in "bc")
    assert turned.GetSize() == other.GetSize()
    again = sitk.DICOMOrient(turned, axis_codes(plain))
    check_same_grid(plain, again, "plain", "turned")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(plain), sitk.GetArrayFromImage(again))
    assert len(np.unique(sitk.GetArrayFromImage(plain))) > 1
    assert "run as in no training scan" not in capsys.readouterr().out


def test_nothing_half_written_when_writing_fails(
    make_model: MakeModel,
    scans: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = make_model()
    original = predictor.export_prediction_from_logits

    def full_disk(*arguments: Any) -> None:
        original(*arguments)
        raise OSError("no space left on device")

    monkeypatch.setattr(predictor, "export_prediction_from_logits", full_disk)
    assert main(command(folder, scans, tmp_path / "out", *BY_NAME)) == 1
    assert "no space left" in one_line(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-m", "t2"], "is not one of ['cine', 'lge']"),
        (["-m", "cine=a*"], "case 'b_lge': no pattern of -m fits"),
        (["-m", "cine=*", "lge=b*"], "case 'b_lge': the patterns of cine and lge fit"),
        (["-m", "cine", "lge"], "cine=*_cine"),
        (["--modalities", "nowhere.csv"], "nowhere.csv cannot be read"),
        (["-m", "lge", "-f", "3"], "has no fold 3; trained: 0"),
        (["-m", "lge", "-chk", "checkpoint_best.pth"], "there: checkpoint_final.pth"),
        (["-m", "lge", "-step_size", "0"], "step size 0.0"),
        (["-m", "lge", "-part_id", "1"], "-part_id 1"),
        (["-m", "lge", "-npp", "-1"], "-npp and -nps"),
        (["-m", "lge", "-c", "3d_lowres"], "trained on Dataset901_Phantom: -tr AICLTrainer -p nnUNetPlans_tiny -c 2d"),
        (["-m", "lge", "-tr", "MyTrainer"], "-tr AICLTrainer"),
        (["-m", "lge", "-d", "777"], "nnUNetv2_train 777"),
    ],
)
def test_wrong_arguments(
    words: list[str],
    says: str,
    make_model: MakeModel,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command(make_model(), scans, tmp_path / "out", *words)) == 1
    assert says in one_line(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("name,modality\na_cine,cine\n", "case,modality"),
        ("case,modality\na_cine,cine\n", "does not name case 'b_lge'"),
        ("case,modality\na_cine,t2\nb_lge,lge\n", "'t2'"),
        ("case,modality\na_cine,cine\na_cine,lge\nb_lge,lge\n", "two modalities"),
    ],
)
def test_wrong_tables(
    table: str, says: str, make_model: MakeModel, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "told.csv").write_text(table)
    assert main(command(make_model(), scans, tmp_path / "out", "--modalities", str(tmp_path / "told.csv"))) == 1
    assert says in one_line(capsys)


def test_output_over_input_is_refused(make_model: MakeModel, scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in scans.iterdir()}
    assert main(command(make_model(), scans, scans, *BY_NAME)) == 1
    assert "is the input folder" in one_line(capsys)
    assert {path.name: path.read_bytes() for path in scans.iterdir()} == before


def test_an_unfinished_training(
    make_model: MakeModel, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_model(checkpoint="checkpoint_latest.pth")
    assert main(command(folder, scans, tmp_path / "out", *BY_NAME)) == 1
    said = one_line(capsys)
    assert "fold_0 has no checkpoint_final.pth" in said
    assert "there: checkpoint_latest.pth" in said
    assert "--c" in said
    assert main(command(folder, scans, tmp_path / "out", *BY_NAME, "-chk", "checkpoint_latest.pth")) == 0


def test_finished_folds_are_chosen(make_model: MakeModel) -> None:
    folder = make_model(folds=(0, 1))
    shutil.copytree(folder / "fold_1", folder / "fold_4")
    (folder / "fold_1" / "checkpoint_final.pth").unlink()
    assert Predictor(folder, device="cpu").model.folds == (0, 4)


def test_a_damaged_checkpoint(
    make_model: MakeModel, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_model()
    file = folder / "fold_0" / "checkpoint_final.pth"
    file.write_bytes(file.read_bytes()[:1000])
    assert main(command(folder, scans, tmp_path / "out", *BY_NAME)) == 1
    assert "checkpoint_final.pth of" in one_line(capsys)


class Calls:
    def __reduce__(self) -> Any:
        return os.getpid, ()


def test_a_checkpoint_that_runs_code_is_named(make_model: MakeModel, scans: Path, tmp_path: Path) -> None:
    folder = make_model()
    file = folder / "fold_0" / "checkpoint_final.pth"
    torch.save({**torch.load(file, weights_only=False), "more": Calls()}, file)
    with pytest.warns(UserWarning, match=r"checkpoint_final\.pth calls posix\.getpid.*only if you trust"):
        assert main(command(folder, scans, tmp_path / "out", *BY_NAME)) == 0


def test_a_trainer_that_is_not_found(
    make_model: MakeModel, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_model()
    file = folder / "fold_0" / "checkpoint_final.pth"
    torch.save({**torch.load(file, weights_only=False), "trainer_name": "MyTrainer"}, file)
    renamed = folder.rename(folder.with_name(folder.name.replace("AICL", "My")))
    assert main(command(renamed, scans, tmp_path / "out", *BY_NAME)) == 1
    assert "finds no trainer MyTrainer: let nnUNet_extTrainer" in one_line(capsys)


def test_a_stock_model_is_nnunets_own(
    make_model: MakeModel, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_model()
    plans = json.loads((folder / "plans.json").read_text())
    del plans["crossmod"]
    (folder / "plans.json").write_text(json.dumps(plans))
    assert main(command(folder, scans, tmp_path / "out", "-m", "lge")) == 1
    assert "nnUNetv2_predict" in one_line(capsys)


def test_the_model_folder_may_be_named(
    make_model: MakeModel, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_model()
    words = ["predict", "-i", str(scans), "-o", str(tmp_path / "out"), *BY_NAME, "--model-folder", str(folder)]
    assert main([*words, "-npp", "0", "-nps", "0", "-device", "cpu", "--disable_tta"]) == 0
    assert main([*words, "-tr", "AICLTrainer"]) == 1
    assert "leave out -tr" in one_line(capsys)
    assert main(["predict", "-i", str(scans), "-o", str(tmp_path / "out"), *BY_NAME, "-d", "901"]) == 1
    assert "Add -tr" in one_line(capsys)
