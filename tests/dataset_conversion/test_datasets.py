"""Every data set in miniature, in its real layout: who trains and tests, the label table, geometry, nnU-Net's check."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from fabricate import (
    GREY,
    SHAPE,
    amos_tree,
    chaos_tree,
    cmr_tree,
    dicom,
    labels,
    mmwhs_tree,
    names,
    nifti,
    pngs,
    read,
    sifa_slice,
    sifa_tree,
    tao_tree,
    voxels,
)
from support import check_integrity, plan_and_preprocess

from nnunet_crossmod.cli import main
from nnunet_crossmod.dataset_conversion import amos, chaos_btcv, folders, mmwhs, mscmrseg, sifa_tfrecords, tao
from nnunet_crossmod.dataset_conversion.conversion import DataSet
from nnunet_crossmod.errors import CrossmodError

pytestmark = pytest.mark.slow  # whole data sets are converted


def array(file: Path) -> Any:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


# --- each of them ------------------------------------------------------------------------------------------------


def test_chaos_without_btcv(tmp_path: Path) -> None:
    tree = chaos_tree(tmp_path / "in")
    written = chaos_btcv.convert(tree / "CHAOS", 34, ["MR"], ["T1in"], test=["chaos10"], raw_folder=tmp_path)
    _, block = read(written)
    assert block.modalities == ("MR", "T1in")


def test_mmwhs(tmp_path: Path) -> None:
    written = mmwhs.convert(mmwhs_tree(tmp_path / "in"), 31, raw_folder=tmp_path)
    content, block = read(written)
    assert written.name == "Dataset031_MMWHS"
    assert content["labels"] == {"background": 0, "Myo": 1, "LA": 2, "LV": 3, "AA": 4}
    assert content["conversion"] == {"split": "sifa", "structures": "four"}
    assert set(block.test) == {"ct_1003", "mr_1007"}
    assert names(block, "MR", annotated=True) == {f"mr_{n}" for n in (1001, 1002, 1003, 1004, 1005)}
    assert names(block, "CT", labelled=True, annotated=False) == {f"ct_{n}" for n in (1001, 1002, 1004, 1005, 1007)}
    found, ids = array(written / "labelsTr" / "mr_1001.nii.gz"), labels(1001, [500, 600, 420, 550, 205, 820, 850, 421])
    assert 421 in ids
    for value, of in enumerate(([0, 600, 550, 850], [205], [420, 421], [500], [820])):
        np.testing.assert_array_equal(found == value, np.isin(ids, of))
    check_integrity(written)


def test_mmwhs_all_structures_and_the_other_direction(tmp_path: Path) -> None:
    tree = mmwhs_tree(tmp_path / "in")
    written = mmwhs.convert(
        tree, 32, ["CT"], ["MR"], structures="all", test=["ct_1001", 1005, "mr_1002"], raw_folder=tmp_path
    )
    content, block = read(written)
    assert list(content["labels"]) == ["background", "Myo", "LA", "LV", "RA", "RV", "AA", "PA"]
    assert set(block.test) == {"ct_1001", "ct_1005", "mr_1005", "mr_1002"}
    assert content["conversion"]["split"] == ["ct_1001", "ct_1005", "mr_1002", "mr_1005"]
    assert block.source == ("CT",)
    assert len(np.unique(array(written / "labelsTr" / "ct_1002.nii.gz"))) == 8


@pytest.mark.parametrize("series", ["MR", "T1in", "T1out"])
def test_chaos_and_btcv(tmp_path: Path, series: str) -> None:
    tree = chaos_tree(tmp_path / "in")
    written = chaos_btcv.convert(
        [tree / "CHAOS", tree / "BTCV"], 33, [series], ["CT"], test=["chaos10", "btcv0021"], raw_folder=tmp_path
    )
    content, block = read(written)
    assert content["labels"] == {
        "background": 0,
        "liver": 1,
        "right kidney": 2,
        "left kidney": 3,
        "spleen": 4,
        "ignore": 5,
    }
    assert names(block, series, annotated=True) == {f"chaos{n}_{series}" for n in (1, 2, 3)}
    assert names(block, "CT") == {"btcv0001", "btcv0002", "btcv0061"}
    assert names(block, "CT", labelled=False) == {"btcv0061"}
    assert set(block.test) == {f"chaos10_{series}", "btcv0021"}
    greys = labels(2, [grey for some in GREY.values() for grey in some])
    found = array(written / "labelsTr" / f"chaos2_{series}.nii.gz")
    np.testing.assert_array_equal(array(written / "imagesTr" / f"chaos2_{series}_0000.nii.gz"), voxels(2))
    for value, of in enumerate(([0], *GREY.values())):
        np.testing.assert_array_equal(found == value, np.isin(greys, of))
    found, ids = array(written / "labelsTr" / "btcv0002.nii.gz"), labels(2, range(1, 14))
    for value, of in ((1, 6), (2, 2), (3, 3), (4, 1)):
        np.testing.assert_array_equal(found == value, ids == of)
    check_integrity(written)


def test_unlabelled_chaos_scans_are_adapted_to(tmp_path: Path) -> None:
    written = chaos_btcv.convert(chaos_tree(tmp_path / "in"), 34, ["CT"], ["MR"], test="none", raw_folder=tmp_path)
    content, block = read(written)
    assert names(block, "MR", labelled=False) == {"chaos21_MR"}
    assert content["conversion"]["left_out"] == ["1 source scans of CT without labels: btcv0061"]


def test_amos(tmp_path: Path) -> None:
    written = amos.convert(amos_tree(tmp_path / "in"), 35, raw_folder=tmp_path)
    content, block = read(written)
    assert names(block, "CT", annotated=True) == {"amos_0001", "amos_0004", "amos_0007", "amos_0500"}
    assert names(block, "MR", annotated=False) == {"amos_0507", "amos_0510", "amos_0599"}
    assert set(block.test) == {"amos_0008", "amos_0600"}
    assert content["labels"]["liver"] == 6
    assert content["labels"]["prostate/uterus"] == 15
    np.testing.assert_array_equal(array(written / "labelsTs" / "amos_0600.nii.gz"), labels(600, range(1, 16)))
    check_integrity(written)
    four = amos.convert(tmp_path / "in", 36, structures="four", raw_folder=tmp_path)
    assert list(read(four)[0]["labels"]) == ["background", "liver", "right kidney", "left kidney", "spleen"]
    ids = labels(1, range(1, 16))
    for value, of in ((1, 6), (2, 2), (3, 3), (4, 1)):
        np.testing.assert_array_equal(array(four / "labelsTr" / "amos_0001.nii.gz") == value, ids == of)


def test_tao(tmp_path: Path) -> None:
    written = tao.convert(tao_tree(tmp_path / "in"), 37, test=[6], raw_folder=tmp_path)
    content, block = read(written)
    assert block.registered
    assert content["labels"] == {"background": 0, "EOM": 1, "ON": 2, "LG": 3}
    assert block.cases["sub1_T1"].visible == {1, 2}
    assert block.cases["sub2_T1c"].visible == {3}
    assert set(block.test) == {"sub6_T1", "sub6_T1c"}
    np.testing.assert_array_equal(array(written / "labelsTr" / "sub2_T1c.nii.gz"), 3 * labels(2, (1,)))
    check_integrity(written)


def test_the_layout_of_sifas_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One file name in all folders, and no test volumes."""
    for folder in ("training_ct", "training_mr", "validation_mr"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        (tmp_path / "data" / folder / "._image_01.tfrecords").write_bytes(b"of a Mac")
        for number in range(1, 4):
            image = np.random.default_rng(number).normal(size=(32, 32, 3))
            path = tmp_path / "data" / folder / f"image_{number:02d}.tfrecords"
            sifa_slice(path, image, labels(number, range(1, 6), (32, 32, 3)))
    written = sifa_tfrecords.convert(tmp_path / "data", 37, raw_folder=tmp_path)
    _, block = read(written)
    assert names(block, "CT") == {f"ct_train_image_{number:02d}" for number in range(1, 4)}
    assert "12 scans" not in (shown := capsys.readouterr().out)
    assert "9 scans of 9 subjects, none for the test" in shown
    (fold,) = json.loads((written / "splits_final.json").read_text())
    assert fold["val"] == [f"mr_val_image_{number:02d}" for number in range(1, 4)]


def test_sifa_release(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = sifa_tfrecords.convert(sifa_tree(tmp_path / "in"), 38, raw_folder=tmp_path)
    content, block = read(written)
    assert "transductive" in capsys.readouterr().out
    assert content["labels"] == {"background": 0, "Myo": 1, "LA": 2, "LV": 3, "AA": 4}
    assert len(names(block, "MR", annotated=True)) == 6
    assert set(block.test) == {"ct_test_ct_1003", "mr_test_mr_1007"}
    (fold,) = json.loads((written / "splits_final.json").read_text())
    assert fold["val"] == [f"{kind}_val_slice{number}" for kind in ("ct", "mr") for number in (0, 1)]
    assert fold["train"] == [f"{kind}_train_slice{number}" for kind in ("ct", "mr") for number in range(4)]
    ids = labels(3, range(1, 6), (32, 32, 3))[None, :, :, 1]
    found = array(written / "labelsTr" / "ct_train_slice3.nii.gz")
    np.testing.assert_array_equal(found, np.where(ids == 5, 0, ids))
    assert 5 in ids
    ids = labels(7, range(1, 6), (32, 32, 5))[::-1, ::-1].transpose(2, 0, 1)
    np.testing.assert_array_equal(array(written / "labelsTs" / "mr_test_mr_1007.nii.gz"), np.where(ids == 5, 0, ids))
    check_integrity(written)


@pytest.mark.slow
def test_nnunet_plans_and_preprocesses_single_slices(tmp_path: Path, nnunet: dict[str, Path]) -> None:
    written = sifa_tfrecords.convert(sifa_tree(tmp_path / "in"), 38)
    plan_and_preprocess(38, ("2d",))
    preprocessed = nnunet["nnUNet_preprocessed"] / written.name
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    assert plans["configurations"]["2d"]["patch_size"] == [32, 32]
    assert (preprocessed / "splits_final.json").read_text() == (written / "splits_final.json").read_text()


@pytest.mark.parametrize(
    ("source", "target", "test", "tested"),
    [
        (["bSSFP"], ["LGE"], None, {1, 2, 3, 4, 5}),
        (["bSSFP", "T2"], ["LGE"], [2, 7], {2, 7}),
        (["bSSFP"], ["LGE", "T2"], [1, 2], {1, 2}),
        (["T2"], ["bSSFP"], "fifth", None),
    ],
)
def test_two_or_three_sequences(
    tmp_path: Path, source: list[str], target: list[str], test: Any, tested: set[int] | None
) -> None:
    written = mscmrseg.convert(cmr_tree(tmp_path / "in"), 39, source, target, test=test, raw_folder=tmp_path)
    _, block = read(written)
    assert block.modalities == tuple(sorted((*source, *target), key=str.casefold))
    subjects = {case.subject for case in block.test.values()}
    assert len(subjects) == 1 if tested is None else subjects == {f"patient{number}" for number in tested}
    assert all(case.annotated == (case.modality in source) for case in block.cases.values())
    for index, modality in enumerate(block.modalities):
        name = next(name for name, case in block.cases.items() if case.modality == modality)
        assert array(written / "imagesTr" / f"{name}_0001.nii.gz").max() == index + 1
    check_integrity(written)


# --- folders -----------------------------------------------------------------------------------------------------


def folders_tree(root: Path) -> dict[str, Any]:
    for number in range(4):
        nifti(root / "mr" / f"p{number}_0000.nii.gz", voxels(number))
        nifti(root / "seg" / f"p{number}_seg.nii.gz", labels(number, (3, 7, 8)))
        dicom(root / "ct" / f"p{number + 2}", voxels(number), [f"{z}.dcm" for z in range(4)])
    return {
        "name": "Mine",
        "labels": {"liver": 3, "kidneys": [7, 8]},
        "images": {"MR": "mr", "CT": "ct"},
        "label_files": {"MR": "seg"},
    }


def test_folders_from_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw").mkdir(exist_ok=True)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "spec.json").write_text(json.dumps(folders_tree(tmp_path / "in")))
    assert main(["convert", "folders", "-d", "40", "--json", str(tmp_path / "in" / "spec.json"), "--test", "p1"]) == 0
    written = tmp_path / "raw" / "Dataset040_Mine"
    content, block = read(written)
    assert (block.source, block.target) == (("MR",), ("CT",))
    assert names(block, "MR", annotated=True) == {"p0_MR", "p2_MR", "p3_MR"}
    assert names(block, "CT", labelled=False) == {f"p{number}_CT" for number in range(2, 6)}
    assert block.cases["p2_MR"].subject == block.cases["p2_CT"].subject == "p2"
    assert content["labels"] == {"background": 0, "liver": 1, "kidneys": 2, "ignore": 3}
    ids = labels(2, (3, 7, 8))
    np.testing.assert_array_equal(
        array(written / "labelsTr" / "p2_MR.nii.gz"), np.where(ids == 3, 1, np.where(ids, 2, 0))
    )
    check_integrity(written)


def test_flags_beside_a_json_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["convert", "folders", "-d", "40", "--json", str(tmp_path / "spec.json")]
    assert main([*command, "--partial", "--labels", "liver=1"]) == 1
    assert "write --labels, --partial into it instead" in capsys.readouterr().err


def test_folders_from_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw").mkdir(exist_ok=True)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.chdir(tmp_path)
    folders_tree(tmp_path / "in")
    command = ["convert", "folders", "-d", "41", "--images", "MR=in/mr", "CT=in/ct", "--label-files", "MR=in/seg"]
    command += ["--labels", "liver=3", "kidneys=7,8", "--unpaired", "--name", "Flags", "--overwrite"]
    for expression, subject in (("p(?P<subject>[0-9]+)", "2_MR"), ("p([0-9]+)", "p2_MR")):
        assert main([*command, "--subject", expression]) == 0
        _, block = read(tmp_path / "raw" / "Dataset041_Flags")
        assert block.cases["p2_MR"].subject == subject


def test_folders_annotated_in_parts(tmp_path: Path) -> None:
    spec = folders_tree(tmp_path / "in")
    for number in range(4):
        nifti(tmp_path / "in" / "t1c" / f"p{number}.nii.gz", voxels(number))
        nifti(tmp_path / "in" / "t1c" / f"p{number}_label.nii.gz", labels(number, (1,)))
    spec |= {"images": {"MR": "mr", "T1c": "t1c"}, "label_files": {"MR": "seg", "T1c": "t1c"}}
    spec |= {
        "labels_of": {"T1c": {"gland": 1}},
        "partial": True,
        "registered": True,
        "source": ["MR"],
        "target": ["T1c"],
    }
    written = folders.dataset_of(spec, tmp_path / "in").convert(tmp_path / "in", 42, raw_folder=tmp_path)
    _, block = read(written)
    assert block.cases["p1_MR"].visible == {1, 2}
    assert block.cases["p1_T1c"].visible == {3}
    np.testing.assert_array_equal(array(written / "labelsTr" / "p1_T1c.nii.gz"), 3 * labels(1, (1,)))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"image": {}}, "'image' means nothing"),
        ({"images": {"MR": "mr"}}, "two modalities or more"),
        ({"images": {"MR": "mr", "CT": "nowhere"}}, "nowhere is no folder"),
        ({"images": {"MR": "mr", "CT": "."}}, "is given as MR and as CT"),
        ({"label_files": {"PET": "seg"}}, "names 'PET'"),
        ({"labels": {}}, "no labels are named"),
        ({"labels": {"liver": 3, "kidney": 3}}, "label 'kidney' has the value 3"),
        ({"labels": {"liver": "three"}}, "label 'liver' has the value 'three'"),
        ({"labels": {"liver": 3}}, "holds the values [7, 8]"),
        ({"subject": "("}, "no regular expression"),
        ({"subject": "q(.)"}, "finds nothing in 'p0'"),
        ({"registered": 1}, '"registered" must be true or false'),
        ({"source": ["PET"]}, "modality 'PET' is not one of"),
    ],
)
def test_wrong_descriptions(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    spec = {**folders_tree(tmp_path / "in"), **change}
    with pytest.raises(CrossmodError) as error:
        folders.dataset_of(spec, tmp_path / "in").convert(tmp_path / "in", 43, raw_folder=tmp_path / "raw")
    assert told in str(error.value)
    assert not list((tmp_path / "raw").glob("*"))


# --- what is wrong -----------------------------------------------------------------------------------------------


def no_label_image(tree: Path) -> str:
    (tree / "ct_train" / "ct_train_1001_image.nii.gz").unlink()
    return r"ct_train_1001_label\.nii\.gz has no image beside it"


def twice(tree: Path) -> str:
    nifti(tree / "again" / "ct_train_1001_image.nii.gz", voxels(3))
    return r"ct_train_1001_image\.nii\.gz and .*ct_train_1001_image\.nii\.gz are the same file"


def unknown_value(tree: Path) -> str:
    nifti(tree / "ct_train" / "ct_train_1001_label.nii.gz", labels(1, (500, 422, 7)))
    return r"ct_train_1001_label\.nii\.gz holds the values \[7, 422\], .*known are \[0, 205, 420, 421, 500, 550"


def empty_label(tree: Path) -> str:
    nifti(tree / "ct_train" / "ct_train_1001_label.nii.gz", np.zeros(SHAPE, dtype=np.uint16))
    return r"ct_train_1001_label\.nii\.gz is empty"


def cut_off(tree: Path) -> str:
    path = tree / "ct_train" / "ct_train_1001_image.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    return r"ct_train_1001_image\.nii\.gz cannot be read"


def other_grid(tree: Path) -> str:
    nifti(tree / "ct_train" / "ct_train_1001_label.nii.gz", labels(1, (500,)), spacing=(1.0, 1.0, 3.0))
    return r"different grids \(spacing"


@pytest.mark.parametrize("spoil", [no_label_image, twice, unknown_value, empty_label, cut_off, other_grid])
def test_broken_files_stop_the_conversion_or_are_skipped(
    tmp_path: Path, spoil: Callable[[Path], str], capsys: pytest.CaptureFixture[str]
) -> None:
    tree = mmwhs_tree(tmp_path / "in")
    told = spoil(tree)
    with pytest.raises(CrossmodError, match=told):
        mmwhs.convert(tree, 44, raw_folder=tmp_path / "raw")
    assert not list((tmp_path / "raw").glob("*"))
    written = mmwhs.convert(tree, 44, raw_folder=tmp_path / "raw", skip_broken=True)
    content, block = read(written)
    assert ("ct_1001" in block.cases) == (spoil is twice)
    (line,) = content["conversion"]["left_out"]
    assert line in capsys.readouterr().out
    kept = {f"{name}_{channel}.nii.gz" for name in block.cases for channel in ("0000", "0001")}
    assert {path.name for path in (written / "imagesTr").iterdir()} == kept
    assert {path.name for path in (written / "labelsTr").iterdir()} == {f"{name}.nii.gz" for name in block.cases}
    folds = json.loads((written / "splits_final.json").read_text())
    assert {name for fold in folds for name in (*fold["train"], *fold["val"])} == set(block.cases)
    check_integrity(written)


def test_a_registered_subject_is_skipped_as_a_whole(tmp_path: Path) -> None:
    tree = tao_tree(tmp_path / "in")
    (tree / "sub4" / "T1c.nii.gz").write_bytes(b"")
    (tree / "sub3_T1c.nii.gz").unlink()
    (tree / "sub3_T1c_label.nii.gz").unlink()
    _, block = read(tao.convert(tree, 45, test="none", skip_broken=True, raw_folder=tmp_path))
    assert {case.subject for case in block.cases.values()} == {"sub1", "sub2", "sub5", "sub6"}


def test_wrong_greys_of_chaos_are_listed(tmp_path: Path) -> None:
    tree = chaos_tree(tmp_path / "in")
    place = tree / "CHAOS" / "Train_Sets" / "MR" / "2" / "T2SPIR" / "Ground"
    pngs(place, np.full((1, 10, 12), 90), ["IMG-0004-00003.png"])
    with pytest.raises(CrossmodError, match=r"Ground holds the values \[90\].*known are \[0, 56-70, 111-135, 176-200"):
        chaos_btcv.convert(tree, 46, raw_folder=tmp_path)


def test_random_fifth_is_reproducible_and_of_every_modality(tmp_path: Path) -> None:
    for number in range(1, 11):
        for part in (number, 500 + number):
            nifti(tmp_path / "in" / "imagesTr" / f"amos_{part:04d}.nii.gz", voxels(part))
            nifti(tmp_path / "in" / "labelsTr" / f"amos_{part:04d}.nii.gz", labels(part, range(1, 16)))
    tested = [
        {
            c.name: c.modality
            for c in read(amos.convert(tmp_path / "in", 47, test="fifth", raw_folder=tmp_path / k))[1].test.values()
        }
        for k in "ab"
    ]
    assert tested[0] == tested[1]
    assert sorted(tested[0].values()) == ["CT", "CT", "MR", "MR"]


MODULES = [amos, chaos_btcv, mmwhs, mscmrseg, sifa_tfrecords, tao]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_data_set_is_a_table_and_a_function(module: Any) -> None:
    assert isinstance(module.DATASET, DataSet)
    assert len(Path(module.__file__).read_text(encoding="utf-8").splitlines()) < 80


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_an_empty_folder_is_told_in_one_line(module: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(CrossmodError, match="in holds no") as error:
        module.convert(tmp_path / "in", 48, raw_folder=tmp_path)
    assert "\n" not in str(error.value)
