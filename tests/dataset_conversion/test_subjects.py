"""Whose scan it is: scans of one person stay on one side of every split, and doubts are printed before anything."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fabricate import labels, nifti, read, voxels

from nnunet_crossmod.cli import main
from nnunet_crossmod.dataset_conversion import folder_description
from nnunet_crossmod.dataset_conversion.preview import preview_table
from nnunet_crossmod.dataset_conversion.raw_dataset import RawDataset, Scan
from nnunet_crossmod.dataset_conversion.subjects import subject_by_pattern, subject_warnings, subjects_by_name
from nnunet_crossmod.errors import CrossmodError


@pytest.mark.parametrize(
    ("modality", "subjects"),
    [
        ("bSSFP", {"patient2_frame01": "patient2", "patient2_frame12": "patient2", "patient3_frame01": "patient3"}),
        ("DE", {"subject3_DE": "subject3", "subject4_DE": "subject4"}),
        ("DE", {"subject3_DE": "subject3"}),
        ("T2", {"t2_05": "t2_05", "t2_11": "t2_11"}),
        ("T2", {"t2_05": "t2_05"}),
        ("CT", {"vol_0000": "vol_0000", "vol_0001": "vol_0001"}),
        ("T1", {"sub-01_ses-1_T1w": "sub-01", "sub-01_ses-2_T1w": "sub-01", "sub-02_ses-1_T1w": "sub-02"}),
        ("T1", {"sub-01_ses-1_T1w": "sub-01", "sub-01_ses-2_T1w": "sub-01"}),
        ("T1", {"TCGA-CS-4941_1996": "TCGA-CS-4941", "TCGA-CS-4942_1997": "TCGA-CS-4942"}),
        ("T1", {"OAS1_0001_MR1": "OAS1_0001", "OAS1_0001_MR2": "OAS1_0001", "OAS1_0002_MR1": "OAS1_0002"}),
        ("ED", {"A0S9V9_ED": "A0S9V9", "A0S9V9_ES": "A0S9V9", "B1C2D3_ED": "B1C2D3"}),
        ("CT", {"case 01 (T1)": "case 01", "case 02 (T1)": "case 02"}),
        ("CT", {"center1_patient05": "center1_patient05", "center1_patient06": "center1_patient06"}),
        ("CT", {"1.3.6.1.4.1.9328.50.4.0175": "1.3.6.1.4.1.9328.50.4.0175", "1.3.6": "1.3.6"}),
        ("CT", {"anna": "anna", "bert": "bert"}),
    ],
)  # fmt: skip
def test_the_subject_is_the_name_as_far_as_its_identifier(modality: str, subjects: dict[str, str]) -> None:
    assert subjects_by_name(list(subjects), modality) == subjects


@pytest.mark.parametrize(
    ("pattern", "subject"),
    [("p[0-9]+", "p12"), ("p([0-9]+)", "p12"), ("(a|p)[0-9]+_(x|y)", "p12_x"), ("p(?P<subject>[0-9]+)_(x)", "12")],
)
def test_a_group_is_the_subject_only_by_its_name(pattern: str, subject: str) -> None:
    assert subject_by_pattern(re.compile(pattern), "p12_x", "p12_x.nii.gz") == subject


@pytest.mark.parametrize("pattern", ["q", "p12(?P<subject>z)?"])
def test_a_subject_that_is_not_found(pattern: str) -> None:
    with pytest.raises(CrossmodError, match=r"p12_x\.nii\.gz: \"subject\" .* finds nothing in 'p12_x'"):
        subject_by_pattern(re.compile(pattern), "p12_x", "p12_x.nii.gz")


def scans_of(*subjects: str, modality: str = "MR") -> list[Scan]:
    return [Scan(f"{number}_{subject}", modality, subject, Path("a")) for number, subject in enumerate(subjects)]


@pytest.mark.parametrize(
    ("subjects", "message"),
    [
        (["p"] * 5, "5 of 5 MR scans are of one subject, 'p'"),
        (["c1"] * 4 + ["c2"] * 4, "4 of 8 MR scans are of one subject, 'c1'"),
        (["anna_pre", "anna_post", "bert_pre", "bert_post"], "anna_pre and anna_post differ only in their last word"),
        (["patient002_frame01", "patient002_frame02"], "patient002_frame01 and patient002_frame02 differ only"),
    ],
)
def test_doubtful_subjects(subjects: list[str], message: str) -> None:
    (warning,) = subject_warnings(scans_of(*subjects))
    assert warning.startswith(message)
    assert "--subject" in warning


@pytest.mark.parametrize(
    "subjects",
    [
        [f"t2_{number:02d}" for number in range(17)],
        ["p1", "p1", "p1", "p2", "p3"],
        ["05_T2", "06_T2"],
        [f"center{number % 2}_{number}" for number in range(9)],
    ],
)
def test_subjects_in_order(subjects: list[str]) -> None:
    assert subject_warnings(scans_of(*subjects)) == []


def test_the_preview_has_one_row_per_scan() -> None:
    scans = [
        Scan("p1_MR", "MR", "p1", Path("a"), Path("b"), "all"),
        Scan("p2_MR", "MR", "p2", Path("a"), Path("b"), ["liver"]),
        Scan("p10_MR", "MR", "p10", Path("a"), Path("b"), test=True),
        Scan("p1_CT", "CT", "p1", Path("a")),
    ]
    dataset = RawDataset("Mine", scans, {"background": 0, "liver": 1}, ["MR", "CT"], ["MR"], ["CT"])
    rows = [re.split(r"\s{2,}", line.strip()) for line in preview_table(dataset).splitlines()]
    assert rows[0] == ["Mine: 4 scans of 3 subjects, 1 for the test"]
    assert [" ".join(row) for row in rows[1:]] == [
        "scan subject modality role",
        "p1_CT p1 CT target",
        "p1_MR p1 MR source, annotated",
        "p2_MR p2 MR source, annotated for liver",
        "p10_MR p10 MR source, test",
    ]


def test_the_preview_of_a_large_data_set_shows_every_role() -> None:
    scans = [Scan(f"p{n}_MR", "MR", f"p{n}", Path("a"), Path("b"), "all") for n in range(500)]
    scans += [Scan(f"p{n}_CT", "CT", f"p{n}", Path("a"), test=n > 490) for n in range(500)]
    dataset = RawDataset("Mine", scans, {"background": 0, "liver": 1}, ["MR", "CT"], ["MR"], ["CT"])
    lines = preview_table(dataset).splitlines()
    assert len(lines) < 65
    assert lines[-1].startswith("  … and 9")
    assert all(any(line.endswith(role) for line in lines) for role in ("annotated", " target", "target, test"))


@pytest.fixture
def frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two frames of four patients; the other modality has one scan of each."""
    (tmp_path / "raw").mkdir(exist_ok=True)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.chdir(tmp_path)
    for patient in range(4):
        for frame in (1, 12):
            nifti(tmp_path / "mr" / f"patient{patient:03d}_frame{frame:02d}.nii.gz", voxels(patient))
            nifti(tmp_path / "mr" / f"patient{patient:03d}_frame{frame:02d}_gt.nii.gz", labels(patient, (1,)))
        nifti(tmp_path / "ct" / f"patient{patient:03d}_DE.nii.gz", voxels(patient))
    return tmp_path


FRAMES = ["convert", "folders", "-d", "51", "--images", "MR=mr", "CT=ct", "--label-files", "MR=mr", "--labels", "LV=1"]


def test_frames_of_a_patient_stay_together(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FRAMES, "--test", "patient003"]) == 0
    written = frames / "raw" / "Dataset051_Folders"
    _, block = read(written)
    assert {case.subject for case in block.cases.values()} == {"patient000", "patient001", "patient002"}
    assert set(block.test) == {"patient003_frame01_MR", "patient003_frame12_MR", "patient003_DE_CT"}
    for fold in json.loads((written / "splits_final.json").read_text()):
        sides = [{block.cases[name].subject for name in fold[side]} for side in ("train", "val")]
        assert not sides[0] & sides[1]
    shown = capsys.readouterr().out
    assert re.search(r"patient002_frame12_MR +patient002 +MR +source, annotated", shown)
    assert "Warning" not in shown


def test_the_preview_and_its_warnings_come_before_anything_is_written(
    frames: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise CrossmodError("stopped")

    monkeypatch.setattr("nnunet_crossmod.dataset_conversion.conversion.write_raw_dataset", stop)
    assert main([*FRAMES, "--subject", ".+"]) == 1
    shown = capsys.readouterr().out
    assert "patient000_frame01 and patient000_frame12 differ only in their last word" in shown
    assert shown.index("source, annotated") < shown.index("Warning")
    assert main([*FRAMES, "--subject", "patient"]) == 1
    assert "8 of 8 MR scans are of one subject, 'patient'" in capsys.readouterr().out


def test_the_subject_of_a_description(frames: Path) -> None:
    description = {"images": {"MR": "mr", "CT": "ct"}, "label_files": {"MR": "mr"}, "labels": {"LV": 1}}
    dataset = folder_description.dataset_of({**description, "subject": "patient(0+)[0-9]+"}, frames)
    written = dataset.convert(frames, 52, raw_folder=frames / "raw")
    assert read(written)[1].cases["patient001_DE_CT"].subject == "patient001"
