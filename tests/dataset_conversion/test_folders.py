"""Folders of one's own: patterns, test scans by name, real layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from fabricate import dicom, labels, names, nifti, read, voxels
from support import check_integrity

from nnunet_crossmod.cli import main

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "raw").mkdir()
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "raw"


def convert(*words: str) -> int:
    return main(["convert", "folders", "-d", "50", *words])


def array(file: Path) -> Any:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def one_folder(root: Path, prefix: str, numbers: range, labelled: range) -> None:
    """Images ``t2_01.nii.gz`` with ``t2_01_label.nii.gz`` beside some of them."""
    for number in numbers:
        nifti(root / f"{prefix}_{number:02d}.nii.gz", voxels(number))
        if number in labelled:
            nifti(root / f"{prefix}_{number:02d}_label.nii.gz", labels(number, (1,)))


ONE_FOLDER = [
    "--images", "T2=spine/t2_*.nii.gz", "water=spine/water_*.nii.gz", "water=check/water_*.nii.gz",
    "--label-files", "T2=spine/t2_*_label.nii.gz", "water=spine/water_*_label.nii.gz",
    "water=check/water_*_label.nii.gz",
    "--labels", "bone=1", "--source", "T2", "--target", "water",
]  # fmt: skip


def test_images_and_labels_of_two_modalities_in_one_folder(tmp_path: Path, raw: Path) -> None:
    one_folder(tmp_path / "spine", "t2", range(1, 6), range(1, 6))
    one_folder(tmp_path / "spine", "water", range(1, 7), range(1, 3))
    one_folder(tmp_path / "check", "water", range(11, 13), range(11, 13))
    assert convert(*ONE_FOLDER, "--test", "t2_05", "water_01", "water_02", "check/*") == 0
    written = raw / "Dataset050_Folders"
    _, block = read(written)
    assert names(block, "T2", annotated=True) == {f"t2_0{number}" for number in range(1, 5)}
    assert names(block, "water", annotated=False, labelled=False) == {f"water_0{number}" for number in range(3, 7)}
    assert set(block.cases) == names(block, "T2") | names(block, "water")
    assert set(block.test) == {"t2_05", "water_01", "water_02", "water_11", "water_12"}
    assert {path.name for path in (written / "labelsTs").iterdir()} == {f"{name}.nii.gz" for name in block.test}
    assert block.cases["t2_03"].subject != block.cases["water_03"].subject
    np.testing.assert_array_equal(array(written / "labelsTr" / "t2_03.nii.gz"), labels(3, (1,)))
    np.testing.assert_array_equal(array(written / "labelsTs" / "water_12.nii.gz"), labels(12, (1,)))
    check_integrity(written)


def test_a_label_beside_its_image_is_no_image_even_where_no_labels_are_named(tmp_path: Path, raw: Path) -> None:
    one_folder(tmp_path / "spine", "t2", range(1, 4), range(1, 4))
    one_folder(tmp_path / "spine", "water", range(1, 4), range(1, 3))
    command = ["--images", "T2=spine/t2_*.nii.gz", "water=spine/water_*.nii.gz", "--labels", "bone=1"]
    assert convert(*command, "--label-files", "T2=spine/t2_*_label.nii.gz") == 0
    _, block = read(raw / "Dataset050_Folders")
    assert names(block, "water", labelled=False) == {f"water_0{number}" for number in range(1, 4)}


def test_prefixes_and_folders_per_scan(tmp_path: Path, raw: Path) -> None:
    for number in range(3):
        nifti(tmp_path / "mr" / f"image_{number}.nii.gz", voxels(number))
        nifti(tmp_path / "mr" / f"label_{number}.nii.gz", labels(number, (1,)))
        nifti(tmp_path / "ct" / f"s{number}" / "ct.nii.gz", voxels(number))
        nifti(tmp_path / "ct" / f"s{number}" / "liver.nii.gz", labels(number, (1,)))
        (tmp_path / "mr" / f"._image_{number}.nii.gz").write_bytes(b"AppleDouble")
    command = ["--images", "MR=mr/image_*.nii.gz", "CT=./ct/*/ct.nii.gz", "--labels", "liver=1"]
    assert convert(*command, "--label-files", "MR=mr/label_*.nii.gz") == 0
    _, block = read(raw / "Dataset050_Folders")
    assert set(block.cases) == {f"image_{n}_MR" for n in range(3)} | {f"s{n}_CT" for n in range(3)}


def test_folders_of_scans_are_part_of_their_names(tmp_path: Path, raw: Path) -> None:
    for number in range(3):
        nifti(tmp_path / "mr" / f"a{number}" / "image_1.nii.gz", voxels(number))
        nifti(tmp_path / "mr" / f"a{number}" / "label_1.nii.gz", labels(number, (1,)))
        dicom(tmp_path / "ct" / f"pat{number}" / "study" / "series4", voxels(number), [f"IM{z}" for z in range(4)])
    command = ["--images", "MR=mr/*/image_*.nii.gz", "CT=ct/*/*/*", "--labels", "liver=1"]
    assert convert(*command, "--label-files", "MR=mr/*/label_*.nii.gz") == 0
    _, block = read(raw / "Dataset050_Folders")
    assert names(block, "MR", annotated=True) == {f"a{n}_1_MR" for n in range(3)}
    assert {case.subject for case in block.cases.values() if case.modality == "CT"} == {f"pat{n}" for n in range(3)}


@pytest.mark.parametrize(
    ("scans", "label_names", "cases"),
    [
        (["v_0000", "v_0001", "v_0002"], ["v_0000", "v_0001", "v_0002"], ["v_0000", "v_0001", "v_0002"]),
        (["a_0000", "b_0000", "c_0000"], ["a", "b", "c"], ["a", "b", "c"]),
        (["Müller", "Möller", "Maier"], ["Müller_seg", "Möller_seg", "Maier_seg"], ["Muller", "Moller", "Maier"]),
    ],
)  # fmt: skip
def test_names(tmp_path: Path, raw: Path, scans: list[str], label_names: list[str], cases: list[str]) -> None:
    for number in range(3):
        path = nifti(tmp_path / "mr" / f"{scans[number]}.nii.gz", voxels(number))
        path.rename(path.with_suffix("").with_suffix(".NII.GZ"))
        nifti(tmp_path / "seg" / f"{label_names[number]}.nii.gz", labels(number, (1,)))
        nifti(tmp_path / "ct" / f"q{number}.nii.gz", voxels(number))
    assert convert("--images", "MR=mr", "CT=ct", "--label-files", "MR=seg", "--labels", "liver=1") == 0
    written = raw / "Dataset050_Folders"
    assert names(read(written)[1], "MR", annotated=True) == {f"{name}_MR" for name in cases}
    for number, name in enumerate(cases):
        np.testing.assert_array_equal(array(written / "imagesTr" / f"{name}_MR_0000.nii.gz"), voxels(number))
        np.testing.assert_array_equal(array(written / "labelsTr" / f"{name}_MR.nii.gz"), labels(number, (1,)))


@pytest.mark.parametrize(
    ("images", "label_files", "message"),
    [
        ("MR=mr/scan_*.nii.gz", "MR=mr/label_*.nii.gz", "mr/scan_*.nii.gz holds no image"),
        ("MR=mr/image_*.nii.gz", "MR=mr/*/label_*.nii.gz", "differ in their number of wildcards"),
        ("MR=mr/image_[01].nii.gz", "MR=mr/label_*.nii.gz", "label_2.nii.gz has no image in mr/image_[01].nii.gz"),
    ],
)
def test_wrong_patterns(
    tmp_path: Path, raw: Path, images: str, label_files: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        nifti(tmp_path / "mr" / f"image_{number}.nii.gz", voxels(number))
        nifti(tmp_path / "mr" / f"label_{number}.nii.gz", labels(number, (1,)))
        nifti(tmp_path / "ct" / f"s{number}.nii.gz", voxels(number))
    assert convert("--images", images, "CT=ct", "--label-files", label_files, "--labels", "liver=1") == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(raw.iterdir())


def test_a_test_pattern_without_a_scan(tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one_folder(tmp_path / "spine", "t2", range(1, 4), range(1, 4))
    one_folder(tmp_path / "spine", "water", range(1, 4), range(1, 3))
    assert convert(*ONE_FOLDER[:3], "--label-files", *ONE_FOLDER[5:7], *ONE_FOLDER[8:], "--test", "check/*") == 1
    assert "test subject 'check/*' has no scan" in capsys.readouterr().err


@pytest.mark.skipif(not (REAL / "spine").is_dir(), reason="the spine scans are not in shared/data beside the project")
def test_the_real_spine(tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REAL)
    command = [word.replace("=check", "=spine_check") for word in ONE_FOLDER]
    tested = ["t2_05", "t2_11", "t2_16", *(f"water_{number:02d}" for number in (1, 6, 11, 16, 21, 26))]
    assert convert(*command, "--test", *tested, "spine_check/*") == 0
    _, block = read(raw / "Dataset050_Folders")
    assert len(names(block, "T2", annotated=True)) == 14
    assert len(names(block, "water", annotated=False, labelled=False)) == 28
    assert set(block.test) == {*tested, *(f"water_{number:02d}" for number in (2, 7, 31, 36, 41, 46))}
