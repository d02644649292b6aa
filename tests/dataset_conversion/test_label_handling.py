"""Label maps as hospitals have them, and everything that is wrong in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from fabricate import labels, nifti, read, voxels
from support import check_integrity

from nnunet_crossmod.cli import main
from nnunet_crossmod.dataset_conversion.label_maps import check_segment_names, map_labels
from nnunet_crossmod.errors import CrossmodError


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three labelled MR scans and two CT scans, here."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    (tmp_path / "raw").mkdir()
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        nifti(tmp_path / "mr" / f"p{number}.nii.gz", voxels(number))
        nifti(tmp_path / "seg" / f"p{number}.nii.gz", labels(number, (1, 2)))
        nifti(tmp_path / "ct" / f"q{number}.nii.gz", voxels(10 + number))
    return tmp_path


def convert(*words: str, structures: Sequence[str] = ("liver=1", "spleen=2")) -> int:
    places = ["--images", "MR=mr", "CT=ct", "--label-files", "MR=seg"]
    return main(["convert", "folders", "-d", "62", *places, "--labels", *structures, *words])


def written(scans: Path, case: str = "p0_MR") -> Any:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(scans / f"raw/Dataset062_Folders/labelsTr/{case}.nii.gz")))


def test_values_that_nobody_annotated_become_the_ignore_label(scans: Path) -> None:
    scribbles = np.where(labels(0, (1, 2)) == 0, 4, labels(0, (1, 2)))
    scribbles[0, :3] = 0
    for number in range(3):
        nifti(scans / "seg" / f"p{number}.nii.gz", scribbles)
    assert convert("--ignore", "4") == 0
    content, _ = read(scans / "raw" / "Dataset062_Folders")
    assert content["labels"] == {"background": 0, "liver": 1, "spleen": 2, "ignore": 3}
    np.testing.assert_array_equal(written(scans), np.where(scribbles == 4, 3, scribbles))
    # Or background is what was drawn, and 0 says nothing.
    assert convert("--ignore", "0", "--overwrite", structures=["liver=1", "spleen=2", "background=4"]) == 0
    assert read(scans / "raw" / "Dataset062_Folders")[0]["labels"] == content["labels"]
    np.testing.assert_array_equal(written(scans), np.where(scribbles == 4, 0, np.where(scribbles == 0, 3, scribbles)))


def test_labels_of_one_modality(scans: Path) -> None:
    for number in range(3):
        nifti(scans / "seg_ct" / f"q{number}.nii.gz", labels(number, (6, 7)))
    words = ["--label-files", "MR=seg", "CT=seg_ct", "--source", "MR", "--target", "CT"]
    assert convert(*words, "--labels-of", "CT", "liver=6", "spleen=7") == 0
    given = labels(1, (6, 7))
    np.testing.assert_array_equal(written(scans, "q1_CT"), np.where(given == 6, 1, np.where(given == 7, 2, 0)))


def test_one_frame_of_a_series(scans: Path) -> None:
    stack = sitk.JoinSeries([sitk.ReadImage(str(scans / "ct" / f"q{number}.nii.gz")) for number in range(3)])
    (scans / "cine").mkdir()
    for number in range(3):
        sitk.WriteImage(stack, str(scans / "cine" / f"q_000{number}.nii.gz"))
    words = ["convert", "folders", "-d", "62", "--images", "MR=mr", "CT=cine", "--label-files", "MR=seg"]
    assert main([*words, "--labels", "liver=1", "spleen=2", "--frame", "CT=2"]) == 0
    file = scans / "raw" / "Dataset062_Folders" / "imagesTr" / "q_0000_CT_0000.nii.gz"
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(file))), voxels(12))


def test_empty_label_maps_and_structures_that_nobody_has(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nifti(scans / "seg" / "p1.nii.gz", np.zeros_like(labels(1, (1,))))
    structures = ["liver=1", "spleen=2", "cyst=3"]
    assert convert(structures=structures) == 1
    assert "p1.nii.gz is empty" in (error := capsys.readouterr().err)
    assert "--allow-empty" in error
    assert convert("--allow-empty", structures=structures) == 0
    assert not written(scans, "p1_MR").any()
    shown = capsys.readouterr().out
    assert "Warning: no annotated scan holds 'cyst'" in shown
    assert "'liver'" not in shown


def test_labels_on_another_grid(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = sitk.ReadImage(str(scans / "seg" / "p0.nii.gz"))
    fine = sitk.Expand(image, (2, 2, 1), sitk.sitkNearestNeighbor)
    sitk.WriteImage(fine, str(scans / "seg" / "p0.nii.gz"))
    assert convert() == 1
    assert "mm apart: put the label map onto the image with --resample-labels" in capsys.readouterr().err
    assert convert("--resample-labels") == 0
    np.testing.assert_array_equal(written(scans), labels(0, (1, 2)))


def test_a_dry_run_lists_all_problems_and_writes_nothing(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (scans / "mr" / "p1.nii.gz").write_bytes(b"")
    nifti(scans / "seg" / "p2.nii.gz", labels(2, (1, 9)))
    nifti(scans / "seg" / "p7.nii.gz", labels(2, (1,)))
    before = sorted(scans.rglob("*"))
    assert convert("--dry-run") == 1
    shown = capsys.readouterr()
    assert sorted(scans.rglob("*")) == before
    for row in (r"p1_MR  MR  mr/p1.nii.gz cannot be read", "p2_MR  MR  seg/p2.nii.gz holds the values [9]"):
        assert row in shown.out
    assert "seg/p7.nii.gz has no image in mr" in shown.out
    assert "q0_CT  CT  in order" in shown.out
    assert "Error: 2 of 6 scans cannot be used" in shown.err
    assert shown.err.count("\n") == 1
    assert convert("--skip-broken") == 1
    assert "annotated" in capsys.readouterr().err


def test_a_dry_run_of_what_is_in_order(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert("--dry-run") == 0
    assert "Nothing is wrong" in capsys.readouterr().out
    assert list((scans / "raw").iterdir()) == []


def test_what_was_skipped_is_said_where_nothing_is_left_of_a_modality(
    scans: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        (scans / "ct" / f"q{number}.nii.gz").write_bytes(b"")
    assert convert("--skip-broken") == 1
    error = capsys.readouterr().err
    assert "modality 'CT' has no training scans" in error
    assert all(f"ct/q{number}.nii.gz cannot be read" in error for number in range(3))


def test_orientations_are_recorded_and_told(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = sitk.DICOMOrient(sitk.ReadImage(str(scans / "ct" / "q1.nii.gz")), "RAS")
    sitk.WriteImage(image, str(scans / "ct" / "q1.nii.gz"))
    assert convert() == 0
    _, block = read(scans / "raw" / "Dataset062_Folders")
    assert block.orientations == {"MR": ("LPS",), "CT": ("LPS", "RAS")}
    assert (
        type(block).from_dataset_json({**read(scans / "raw" / "Dataset062_Folders")[0], "crossmod": block.to_json()})
        == block
    )
    assert "the axes of scans run differently (CT LPS, RAS; MR LPS)" in capsys.readouterr().out
    assert main(["inspect", "-d", "62"]) == 0
    assert "run differently" in capsys.readouterr().out
    assert convert("--overwrite", "--reorient") == 0
    assert read(scans / "raw" / "Dataset062_Folders")[0]["overwrite_image_reader_writer"] == "NibabelIOWithReorient"
    assert "run differently" not in capsys.readouterr().out
    check_integrity(scans / "raw" / "Dataset062_Folders")


def test_labels_that_are_whole_numbers_but_for_rounding() -> None:
    values = np.array([[[0, 0.99999, 2.00004]]], dtype=np.float32)
    np.testing.assert_array_equal(map_labels(sitk.GetImageFromArray(values), {0: 0, 1: 3, 2: 1}, "a"), [[[0, 3, 1]]])
    with pytest.raises(CrossmodError, match=r"holds the values \[0\.9"):
        map_labels(sitk.GetImageFromArray(values * np.float32(0.98)), {0: 0, 1: 3, 2: 1}, "a")


def test_segments_that_slicer_numbers_otherwise() -> None:
    label = sitk.GetImageFromArray(np.zeros((1, 2, 2), np.uint8))
    for number, name in enumerate(("Spleen", "Liver", "Notes"), start=0):
        label.SetMetaData(f"Segment{number}_Name", name)
        label.SetMetaData(f"Segment{number}_LabelValue", str(number + 1))
    check_segment_names(label, {1: "spleen", 2: "liver"}, "a.seg.nrrd")
    with pytest.raises(CrossmodError, match=r"a\.seg\.nrrd calls the value 1 'Spleen', but Spleen=2 was given"):
        check_segment_names(label, {1: "liver", 2: "spleen"}, "a.seg.nrrd")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--frame", "CT=x"], "--frame: 'CT' has the value 'x'"),
        (["--frame", "PET=0"], "(--frame) names 'PET'"),
        (["--resample-uneven", "--keep-even"], "exclude each other"),
        (["--labels-of", "PET", "liver=3"], "(--labels-of) names 'PET'"),
        (["--ignore", "1"], "label 'ignore' has the value 1"),
        (["--source", "MR", "CT"], "no modality is left to be the target: name it with --target"),
        (["--source", "MR", "--target", "MR", "CT"], "modality 'MR' is source and target"),
        (["--test", "p0", "p1"], "or move a test subject to training (--test, --split)"),
    ],
)
def test_wrong_flags_are_named(scans: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(*words) == 1
    assert says in capsys.readouterr().err


def test_the_other_modality_is_the_target_by_default(scans: Path) -> None:
    for number in range(3):
        nifti(scans / "seg_ct" / f"q{number}.nii.gz", labels(number, (1, 2)))
    assert convert("--label-files", "MR=seg", "CT=seg_ct", "--source", "CT") == 0
    _, block = read(scans / "raw" / "Dataset062_Folders")
    assert (block.source, block.target) == (("CT",), ("MR",))


def test_other_ids_and_names_of_a_known_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    (tmp_path / "raw").mkdir()
    for patient in range(1, 4):
        for sequence in ("C0", "LGE"):
            nifti(tmp_path / "in" / f"patient{patient}_{sequence}.nii.gz", voxels(patient))
        for sequence in ("C0", "LGE"):
            nifti(tmp_path / "in" / f"patient{patient}_{sequence}_manual.nii.gz", labels(patient, (1, 2, 3, 9)))
    command = ["convert", "mscmrseg", "-d", "63", "--split", "none"]
    table = ["--labels", "wall=2", "LV=1", "RV=3", "ignore=9"]
    assert main([*command, "-i", str(tmp_path / "in"), *table]) == 0
    expected = {"background": 0, "wall": 1, "LV": 2, "RV": 3, "ignore": 4}
    assert read(tmp_path / "raw" / "Dataset063_MSCMRSeg")[0]["labels"] == expected
    reuse = ["-d", "64", "--reuse", "63", "--source", "LGE", "--target", "bSSFP"]
    assert main([*command[:2], *reuse]) == 0
    assert read(tmp_path / "raw" / "Dataset064_MSCMRSeg")[0]["labels"] == expected
    assert main([*command[:2], *reuse, "--overwrite", "--dry-run"]) == 1
