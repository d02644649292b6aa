"""MS-CMRSeg: a miniature tree with the data set's own names, and the real files where they are present."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from support import check_integrity

from nnunet_crossmod.dataset_conversion import mscmrseg
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.raw.block import CrossmodBlock

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "mscmrseg"
GRIDS = {
    "C0": ((4, 16, 18), (1.5, 1.5, 8.0)),
    "LGE": ((6, 20, 16), (1.25, 1.25, 5.0)),
    "T2": ((3, 16, 16), (2.0, 2.0, 12.0)),
}
IDS = np.array([0, 200, 500, 600], dtype=np.uint16)


def save(path: Path, sequence: str, voxels: Any) -> None:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(GRIDS[sequence][1])
    image.SetOrigin((90.0, 75.5, -20.0))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def label_ids(patient: int, sequence: str) -> Any:
    return np.random.default_rng(patient).choice(IDS, size=GRIDS[sequence][0])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Patients 1 to 8 as the data set comes: images apart from labels; LGE labels of 1 and 2; no C0 labels of 8."""
    root = tmp_path / "MSCMRSeg"
    for patient in range(1, 9):
        for sequence, (shape, _) in GRIDS.items():
            voxels = np.random.default_rng(100 + patient).integers(1, 1500, size=shape).astype(np.int16)
            save(root / "images" / f"patient{patient}_{sequence}.nii.gz", sequence, voxels)
            if (patient <= 2) if sequence == "LGE" else patient != 8:
                labels = root / f"{sequence.lower()}gt" / f"patient{patient}_{sequence}_manual.nii.gz"
                save(labels, sequence, label_ids(patient, sequence))
    return root


def convert(tree: Path, **arguments: Any) -> tuple[Path, CrossmodBlock]:
    written = mscmrseg.convert(tree, 511, raw_folder=tree.parent / "raw", **arguments)
    return written, CrossmodBlock.from_dataset_json(json.loads((written / "dataset.json").read_text()))


def test_who_trains_and_who_tests(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written, block = convert(tree)
    assert written.name == "Dataset511_MSCMRSeg"
    assert set(block.cases) == {f"patient{n}_C0" for n in range(3, 8)} | {f"patient{n}_LGE" for n in range(3, 9)}
    assert set(block.test) == {f"patient{n}_{s}" for n in (1, 2) for s in ("C0", "LGE")}
    assert block.cases["patient3_C0"].visible == {1, 2, 3}
    assert block.cases["patient3_C0"].modality == "bSSFP"
    assert block.cases["patient3_LGE"].subject == block.cases["patient3_C0"].subject == "patient3"
    assert not any(case.annotated or case.labelled for case in block.cases.values() if case.modality == "LGE")
    assert not block.registered
    assert "1 source scans of bSSFP without labels: patient8_C0" in capsys.readouterr().out


def test_the_label_table(tree: Path) -> None:
    written, _ = convert(tree)
    assert json.loads((written / "dataset.json").read_text())["labels"] == {
        "background": 0,
        "Myo": 1,
        "LV": 2,
        "RV": 3,
        "ignore": 4,
    }
    for path, patient, sequence in (("labelsTr/patient3_C0", 3, "C0"), ("labelsTs/patient2_LGE", 2, "LGE")):
        values = sitk.GetArrayFromImage(sitk.ReadImage(str(written / f"{path}.nii.gz")))
        ids = label_ids(patient, sequence)
        for wanted, value in ((0, 0), (200, 1), (500, 2), (600, 3)):
            np.testing.assert_array_equal(values == value, ids == wanted)


def test_no_target_label_reaches_the_training_labels(tree: Path) -> None:
    written, _ = convert(tree)
    for patient in range(3, 9):
        values = sitk.GetArrayFromImage(sitk.ReadImage(str(written / "labelsTr" / f"patient{patient}_LGE.nii.gz")))
        assert np.unique(values).tolist() == [4]


def test_affine_and_spacing_are_kept(tree: Path) -> None:
    written, _ = convert(tree)
    for sequence in ("C0", "LGE"):
        original = sitk.ReadImage(str(tree / "images" / f"patient4_{sequence}.nii.gz"))
        for name in (
            f"imagesTr/patient4_{sequence}_0000",
            f"imagesTr/patient4_{sequence}_0001",
            f"labelsTr/patient4_{sequence}",
        ):
            copy = sitk.ReadImage(str(written / f"{name}.nii.gz"))
            assert copy.GetSize() == original.GetSize()
            assert copy.GetSpacing() == original.GetSpacing() == GRIDS[sequence][1]
            assert copy.GetOrigin() == original.GetOrigin()
            assert copy.GetDirection() == original.GetDirection()


def test_nnunet_finds_no_fault(tree: Path) -> None:
    check_integrity(convert(tree)[0])


def test_other_sequences_and_test_patients(tree: Path) -> None:
    _, block = convert(tree, source=["bSSFP", "T2"], target=["LGE"], test=[4, 8])
    assert block.modalities == ("bSSFP", "LGE", "T2")
    assert {case.subject for case in block.test.values()} == {"patient4", "patient8"}
    assert block.cases["patient1_T2"].annotated
    assert block.cases["patient1_LGE"].labelled
    assert not block.cases["patient1_LGE"].annotated
    assert not block.cases["patient3_LGE"].labelled


def test_shots_annotate_labelled_target_scans(tree: Path) -> None:
    _, block = convert(tree, test="none", shots={"LGE": 1})
    annotated = [case for case in block.cases.values() if case.modality == "LGE" and case.annotated]
    assert [case.labelled for case in annotated] == [True]
    with pytest.raises(CrossmodError, match="1 annotated LGE scans were asked for, but 0"):
        convert(tree, shots={"LGE": 1}, overwrite=True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"target": ["CT"]}, "modality 'CT' is not one of ['bSSFP', 'LGE', 'T2']"),
        ({"test": [99]}, "test subject '99' has no scan"),
    ],
)
def test_wrong_arguments(tree: Path, arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(CrossmodError) as error:
        convert(tree, **arguments)
    assert told in str(error.value)
    assert not (tree.parent / "raw").exists()


def test_wrong_trees(tree: Path) -> None:
    with pytest.raises(CrossmodError, match=r"nowhere is no folder"):
        convert(tree / "nowhere")
    (tree / "empty").mkdir()
    with pytest.raises(CrossmodError, match=r"empty holds no patient<N>_C0\.nii\.gz"):
        convert(tree / "empty")
    (tree / "images" / "patient3_C0.nii.gz").rename(tree / "patient9_C0_manual.nii.gz")
    with pytest.raises(CrossmodError, match=r"patient3_C0_manual\.nii\.gz has no image beside it: add the image"):
        convert(tree)
    (tree / "c0gt" / "patient3_C0_manual.nii.gz").rename(tree / "patient4_C0_manual.nii.gz")
    with pytest.raises(CrossmodError, match=r"c0gt/patient4_C0_manual\.nii\.gz and .*are the same file"):
        convert(tree)


def test_the_command(tree: Path) -> None:
    command = [sys.executable, "-m", "nnunet_crossmod.dataset_conversion.mscmrseg", "-i", str(tree), "-d", "512"]
    (tree.parent / "raw").mkdir()
    environment = {**os.environ, "nnUNet_raw": str(tree.parent / "raw")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tree.parent / "raw" / "Dataset512_MSCMRSeg" / "dataset.json").is_file()
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert again.stderr.startswith("Error: ")
    assert again.stderr.count("\n") == 1


@pytest.mark.skipif(
    not REAL.is_dir(), reason="the MS-CMRSeg files are not in shared/data/mscmrseg beside the repository"
)
def test_the_real_files(tmp_path: Path) -> None:
    written = mscmrseg.convert(REAL, 511, raw_folder=tmp_path)
    block = CrossmodBlock.from_dataset_json(json.loads((written / "dataset.json").read_text()))
    assert {case.subject for case in block.test.values()} == {f"patient{n}" for n in (1, 8, 17, 30, 35)}
    counts = {m: sum(case.modality == m for case in block.cases.values()) for m in block.modalities}
    assert counts == {"bSSFP": 20, "LGE": 25}
    assert {name for name, case in block.cases.items() if case.annotated} == {
        name for name in block.cases if name.endswith("_C0")
    }
    folds = json.loads((written / "splits_final.json").read_text())
    assert [len(fold["val"]) for fold in folds] == [4, 4, 4, 4, 4]
    assert not any(name.endswith("_LGE") for fold in folds for name in fold["val"])
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(written / "labelsTs" / "patient1_LGE.nii.gz")))
    ids = sitk.GetArrayFromImage(sitk.ReadImage(str(REAL / "patient1_LGE_manual.nii.gz")))
    np.testing.assert_array_equal(np.array([0, 200, 500, 600])[label], ids)
