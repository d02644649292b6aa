"""The exported model is nnU-Net's own, and computes what the cross-modal one does for its modality."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support import swin_unetr

from nnunet_crossmod.cli import main
from nnunet_crossmod.inference import Predictor, export
from nnunet_crossmod.inference.export import OF_NNUNET, export_model, stock_plans
from nnunet_crossmod.nn import ModalityUNet
from nnunet_crossmod.paths import trainer_names

MakeModel = Callable[..., Path]


def command(folder: Path, output: Path, *words: str, modality: str = "lge") -> list[str]:
    trainer, plans, configuration = folder.name.split("__")
    model = ["-d", "901", "-tr", trainer, "-p", plans, "-c", configuration]
    return ["export", "-m", modality, "-o", str(output), *model, *words]


def installed(file: Path, results: Path) -> Path:
    """What nnU-Net's command does with the zip; the folder of the first model in it."""
    with zipfile.ZipFile(file) as archive:
        archive.extractall(results)
    return next(results.glob("Dataset*/*__*__*"))


def stock_predictor(folder: Path, folds: tuple[int, ...]) -> Any:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    with contextlib.redirect_stdout(io.StringIO()):
        stock = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=False)
        stock.initialize_from_trained_model_folder(str(folder), folds)
    return stock


def with_mask(plans: dict[str, Any]) -> None:
    """As nnU-Net plans skull-stripped scans."""
    for planned in plans["configurations"].values():
        if "use_mask_for_norm" in planned:
            planned["use_mask_for_norm"] = [True, False]


def brain_like() -> Any:
    """Zeros around a blob and in a hole of it, with the blob far from the centre of its bounding box."""
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(np.arange(5), np.arange(44), np.arange(44), indexing="ij")
    blob = ((y - 18) / 14) ** 2 + ((x - 24) / 11) ** 2 < 1
    hole = ((y - 18) / 5) ** 2 + ((x - 24) / 4) ** 2 < 1
    noise = rng.gamma(3, 60, size=z.shape) + 30
    return np.where(blob & ~hole & (z > 0), noise, 0).astype(np.float32)


@pytest.mark.parametrize(
    ("configuration", "folds", "options"),
    [
        ("2d", (0, 1), {}),
        ("2d", (0,), {"change_plans": with_mask}),
        ("2d", (0,), {"name": "SourceOnlyTrainer"}),
        ("3d_fullres", (0,), {"conditioning": "all"}),
    ],
    ids=["two folds", "mask", "no condition", "3d"],
)
def test_a_stock_predictor_gives_the_same_labels(
    configuration: str,
    folds: tuple[int, ...],
    options: dict[str, Any],
    make_model: MakeModel,
    tmp_path: Path,
) -> None:
    folder = make_model(configuration=configuration, folds=folds, **options)
    assert main(command(folder, tmp_path / "model.zip", "-f", *map(str, folds))) == 0
    stock = stock_predictor(installed(tmp_path / "model.zip", tmp_path / "results"), folds)
    assert type(stock.network).__module__.startswith("dynamic_network_architectures")
    scan, spacing = brain_like(), (8.0, 1.5, 1.5)
    mine = Predictor(folder, folds, device="cpu", mirroring=False)
    labels, probabilities = mine.predict_probabilities(scan, spacing, "lge")
    found = stock.predict_single_npy_array(scan[None], {"spacing": list(spacing)}, None, None, True)
    assert len(np.unique(labels)) > 1
    np.testing.assert_allclose(found[1], probabilities, atol=2e-3 if "change_plans" in options else 1e-6)
    assert np.mean(found[0] != labels) < (1e-3 if "change_plans" in options else 1e-9)
    if "name" not in options:
        assert (mine.predict(scan, spacing, "cine") != labels).any()


@pytest.mark.parametrize(
    ("name", "modality", "options", "refused"),
    [
        *((name, "lge", {}, name == "GLUATrainer") for name in trainer_names()),
        ("GLUATrainer", "cine", {}, False),
        ("GLUATrainer", "lge", {"local_alignment": False}, False),
        ("EAMTrainer", "lge", {"architecture": "v1"}, False),
        ("EAMTrainer", "lge", {"architecture": "v3"}, False),
    ],
)
def test_every_trainer_exports_or_says_why_not(
    name: str,
    modality: str,
    options: dict[str, Any],
    refused: bool,
    make_model: MakeModel,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = make_model(name, **options)
    code = main(command(folder, tmp_path / "model.zip", modality=modality))
    assert code == refused
    if refused:
        said = one_line(capsys)
        assert "crossmod predict" in said
        assert "discriminator" in said
        assert not list(tmp_path.glob("*.zip"))
    else:
        assert zipfile.is_zipfile(tmp_path / "model.zip")


@pytest.mark.parametrize(
    ("name", "options"), [("AICLTrainer", {}), ("EAMTrainer", {"architecture": "v3"})], ids=["conditional", "gains"]
)
def test_a_network_that_nnunet_has_not_is_exported_and_says_what_it_needs(
    name: str, options: dict[str, Any], make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_model(name, change_plans=swin_unetr, **options)
    assert main(command(folder, tmp_path / "model.zip")) == 0
    assert "nnU-Net has no SwinUNETR of its own" in capsys.readouterr().out
    stock = stock_predictor(installed(tmp_path / "model.zip", tmp_path / "results"), (0,))
    assert type(stock.network).__name__ == "SwinUNETR"
    scan, spacing = brain_like(), (8.0, 1.5, 1.5)
    labels = Predictor(folder, (0,), device="cpu", mirroring=False).predict(scan, spacing, "lge")
    found = stock.predict_single_npy_array(scan[None], {"spacing": list(spacing)}, None, None, False)
    assert np.mean(found != labels) < 1e-3


def test_nothing_of_this_package_is_left(make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model()
    described = json.loads((folder / "dataset.json").read_text())
    described |= {"conversion": {"renamed": {"a_lge": "Müller"}}, "dataset": {"a_lge": {"images": ["/home/x"]}}}
    (folder / "dataset.json").write_text(json.dumps({**described, "licence": "CC"}))
    (folder / "dataset_fingerprint.json").write_text(
        json.dumps({"foreground_intensity_properties_per_channel": {"0": {"mean": 1}, "1": {"mean": 2}}})
    )
    postprocessing = folder / "crossval_results_folds_0"
    postprocessing.mkdir()
    (postprocessing / "postprocessing.pkl").write_bytes(pickle.dumps(([], [])))
    (postprocessing / "secret.nii.gz").write_bytes(b"a patient")
    assert main(command(folder, tmp_path / "model.zip")) == 0
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        assert archive.testzip() is None
        place = "Dataset901_Phantom/nnUNetTrainer__nnUNetPlans_tiny__2d"
        assert {name.removeprefix(place) for name in archive.namelist()} == {
            "/plans.json",
            "/dataset.json",
            "/dataset_fingerprint.json",
            "/crossval_results_folds_0/postprocessing.pkl",
            "/fold_0/checkpoint_final.pth",
        }
        checkpoint_bytes = archive.read(f"{place}/fold_0/checkpoint_final.pth")
        texts = {name: json.loads(archive.read(f"{place}/{name}.json")) for name in ("plans", "dataset")}
        fingerprint = json.loads(archive.read(f"{place}/dataset_fingerprint.json"))
    assert fingerprint == {"foreground_intensity_properties_per_channel": {"0": {"mean": 1}}}
    plans, dataset_json = texts["plans"], texts["dataset"]
    assert "crossmod" not in plans
    assert set(dataset_json) <= {*OF_NNUNET, "exported_from"}
    assert dataset_json["licence"] == "CC"
    assert dataset_json["channel_names"] == {"0": "image"}
    assert dataset_json["exported_from"]["modality"] == "lge"
    assert list(plans["foreground_intensity_properties_per_channel"]) == ["0"]
    for planned in plans["configurations"].values():
        if "use_mask_for_norm" in planned:
            assert planned["normalization_schemes"] == ["ZScoreNormalization"]
            assert planned["use_mask_for_norm"] == [False]
    assert b"nnunet_crossmod" not in checkpoint_bytes
    assert b"phantom001" not in checkpoint_bytes
    checkpoint = torch.load(io.BytesIO(checkpoint_bytes), weights_only=True)
    assert checkpoint["trainer_name"] == "nnUNetTrainer"
    assert checkpoint["init_args"]["plans"] == plans
    assert checkpoint["init_args"]["dataset_json"] == dataset_json
    assert (
        len(checkpoint_bytes)
        < 1.1 * sum({t.data_ptr(): t.nbytes for t in checkpoint["network_weights"].values()}.values()) + 200_000
    )


def test_configurations_checkpoints_and_names(make_model: MakeModel, tmp_path: Path) -> None:
    first, second = make_model(), make_model(configuration="3d_fullres")
    for folder in (first, second):
        for file in folder.glob("fold_0/checkpoint_final.pth"):
            (file.parent / "checkpoint_best.pth").write_bytes(file.read_bytes())
    exported = export_model(
        [first, second],
        "cine",
        tmp_path / "deep" / "model.zip",
        checkpoints=("checkpoint_final.pth", "checkpoint_best.pth"),
        dataset="Dataset777_Other",
        plans="nnUNetPlans_cine",
    )
    assert exported.difference <= 1e-5
    with zipfile.ZipFile(exported.file) as archive:
        names = archive.namelist()
        plans = json.loads(archive.read("Dataset777_Other/nnUNetTrainer__nnUNetPlans_cine__2d/plans.json"))
    assert (plans["plans_name"], plans["dataset_name"]) == ("nnUNetPlans_cine", "Dataset777_Other")
    for configuration in ("2d", "3d_fullres"):
        for checkpoint in ("final", "best"):
            place = f"Dataset777_Other/nnUNetTrainer__nnUNetPlans_cine__{configuration}"
            assert f"{place}/fold_0/checkpoint_{checkpoint}.pth" in names


def test_the_plans_given_stay_as_they_were(make_model: MakeModel) -> None:
    plans = json.loads((make_model() / "plans.json").read_text())
    before = json.dumps(plans)
    stock_plans(plans, "nnUNetPlans", "Dataset001_A")
    assert json.dumps(plans) == before


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert said.startswith("Error: ")
    return said


def more_than_stock(network: ModalityUNet) -> None:
    network.extra = torch.nn.Linear(2, 2)


def stateful_forward(network: ModalityUNet) -> None:
    original = network.forward
    network.forward = lambda *arguments, **options: original(*arguments, **options) * 1.001  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("change", "says"),
    [(more_than_stock, "is more than PlainConvUNet for one modality"), (stateful_forward, "computes something else")],
)
def test_a_network_that_is_no_stock_network_is_refused(
    change: Callable[[Any], None],
    says: str,
    make_model: MakeModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = make_model()
    original = export.TrainedModel.load

    def load(self: Any, **options: Any) -> Any:
        predictor = original(self, **options)
        change(predictor.network)
        predictor.list_of_parameters = [predictor.network.state_dict()]
        return predictor

    monkeypatch.setattr(export.TrainedModel, "load", load)
    assert main(command(folder, tmp_path / "model.zip")) == 1
    said = one_line(capsys)
    assert says in said
    assert "crossmod predict" in said
    assert list(tmp_path.glob("*.zip")) + list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-m", "t2"], "is not one of ['cine', 'lge']"),
        (["-f", "4"], "has no fold 4; trained: 0"),
        (["-chk", "checkpoint_best.pth"], "has no checkpoint_best.pth"),
        (["-o", "model.tar"], ".zip"),
        (["--as-dataset", "Heart"], "Dataset511_Heart"),
        (["--as-plans", "a__b"], "nnUNetPlans_LGE"),
        (["-c", "3d_cascade_fullres"], "trained on"),
    ],
)
def test_wrong_arguments(
    words: list[str], says: str, make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(make_model(), tmp_path / "model.zip", *words)) == 1
    assert says in one_line(capsys)
    assert not list(tmp_path.glob("*.zip"))


def test_a_zip_is_not_overwritten_unasked(
    make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.zip").write_text("kept")
    folder = make_model()
    assert main(command(folder, tmp_path / "model.zip")) == 1
    assert "--overwrite" in one_line(capsys)
    assert (tmp_path / "model.zip").read_text() == "kept"
    assert main(command(folder, tmp_path / "model.zip", "--overwrite")) == 0
    said = capsys.readouterr().out
    assert "nnUNetv2_install_pretrained_model_from_zip" in said
    assert "nnUNetv2_predict -i SCANS -o OUT -d Dataset901_Phantom -c 2d -f 0 -p nnUNetPlans_tiny" in said
    assert zipfile.is_zipfile(tmp_path / "model.zip")


def test_the_tile_has_the_shape_of_the_patch_but_is_small() -> None:
    planned = {"architecture": {"arch_kwargs": {"strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]]}}}
    assert export._tile(SimpleNamespace(patch_size=(16, 256, 256), configuration=planned)) == [4, 8, 8]
    assert export._tile(SimpleNamespace(patch_size=(2, 256, 256), configuration=planned)) == [2, 8, 8]
