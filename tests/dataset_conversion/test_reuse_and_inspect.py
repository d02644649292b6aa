"""The other direction of a data set shares its files; ``crossmod inspect`` shows what a data set holds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import SimpleITK as sitk
from fabricate import cmr_tree, names, read, tao_tree
from support import check_integrity, plan_and_preprocess

from nnunet_crossmod.cli import main
from nnunet_crossmod.dataset_conversion import mscmrseg, tao
from nnunet_crossmod.dataset_conversion.raw_files import raw_files
from nnunet_crossmod.dataset_conversion.reuse import reuse_dataset

pytestmark = pytest.mark.slow  # whole data sets are converted


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "raw").mkdir()
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    return tmp_path / "raw"


@pytest.fixture
def base(tmp_path: Path, raw: Path) -> Path:
    """bSSFP → LGE; patients 1 and 2 are test patients, LGE of 3 to 5 is labelled, of 6 and 7 not."""
    return mscmrseg.convert(cmr_tree(tmp_path / "in"), 511, test=[1, 2])


REVERSE = ["convert", "mscmrseg", "-d", "512", "--reuse", "511", "--source", "LGE", "--target", "bSSFP"]


def bytes_of(folder: Path) -> int:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files if path.stat().st_nlink == 1 and path.suffix != ".png")


def test_the_reverse_direction_costs_a_json(base: Path, raw: Path) -> None:
    assert main(REVERSE) == 0
    written = raw / "Dataset512_MSCMRSeg"
    content, block = read(written)
    assert block.modalities == ("bSSFP", "LGE")  # as in the base, whose modality channels are shared
    assert (block.source, block.target) == (("LGE",), ("bSSFP",))
    assert names(block, "LGE", annotated=True) == {f"patient{number}_LGE" for number in (3, 4, 5)}
    assert names(block, "bSSFP", annotated=False) == {f"patient{number}_C0" for number in range(3, 8)}
    assert set(block.test) == set(read(base)[1].test)
    assert content["conversion"]["reuses"] == base.name
    assert content["conversion"]["left_out"] == ["2 source scans without labels: patient6_LGE, patient7_LGE"]
    assert "ignore" not in content["labels"]
    assert {path.name for path in written.iterdir()} == {
        "dataset.json", "splits_final.json", "contact_sheet.png", "imagesTs", "labelsTs",
    }  # fmt: skip
    assert bytes_of(written) < 30_000
    for name, files in raw_files(written, content).items():
        part = "Ts" if name in block.test else "Tr"
        assert os.path.samefile(files.images[0], base / f"images{part}" / f"{name}_0000.nii.gz")
        assert files.label is not None
        assert os.path.samefile(files.label, base / f"labels{part}" / f"{name}.nii.gz")
    folds = json.loads((written / "splits_final.json").read_text())
    assert {name for fold in folds for name in fold["train"]} == set(block.cases)
    check_integrity(written)


def test_other_test_subjects_move_between_the_folders(base: Path, raw: Path) -> None:
    assert main([*REVERSE, "--test", "3", "7"]) == 0
    written = raw / "Dataset512_MSCMRSeg"
    content, block = read(written)
    assert {case.subject for case in block.test.values()} == {"patient3", "patient7"}
    assert {path.name for path in (written / "labelsTs").iterdir()} == {
        f"{name}.nii.gz" for name in ("patient3_C0", "patient3_LGE", "patient7_C0")
    }
    assert names(block, "LGE", annotated=True) == {f"patient{number}_LGE" for number in (1, 2, 4, 5)}
    files = raw_files(written, content)
    assert os.path.samefile(files["patient1_LGE"].images[0], base / "imagesTs" / "patient1_LGE_0000.nii.gz")
    check_integrity(written)


def test_an_unlabelled_test_scan_that_becomes_a_training_scan_gets_an_ignore_label(tmp_path: Path, raw: Path) -> None:
    mscmrseg.convert(cmr_tree(tmp_path / "in"), 511, test=[1, 7])
    command = ["convert", "mscmrseg", "-d", "513", "--reuse", "511", "--source", "bSSFP", "--target", "LGE"]
    assert main([*command, "--test", "2"]) == 0
    written = raw / "Dataset513_MSCMRSeg"
    content, block = read(written)
    assert names(block, "LGE", labelled=False) == {"patient6_LGE", "patient7_LGE"}
    assert not (written / "labelsTr").exists()  # nnU-Net would take it for the references of all cases
    (label,) = (written / "unlabelledTr").iterdir()
    assert label.name == "patient7_LGE.nii.gz"
    assert (
        np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(label)))).tolist() == [content["labels"]["ignore"]] == [4]
    )
    check_integrity(written)


def test_a_direction_of_a_direction(base: Path, raw: Path) -> None:
    assert main(REVERSE) == 0
    reuse_dataset(512, 514, ["bSSFP"], ["LGE"])
    content, block = read(raw / "Dataset514_MSCMRSeg")
    assert names(block, "bSSFP", annotated=True) == {f"patient{number}_C0" for number in range(3, 8)}
    check_integrity(raw / "Dataset514_MSCMRSeg")
    assert content["conversion"]["reuses"] == "Dataset512_MSCMRSeg"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"--reuse": "600"}, "has 0 data sets 600 to reuse"),
        ({"--target": "T2"}, "is of ['bSSFP', 'LGE'], not of ['LGE', 'T2']"),
        ({"-d": "511"}, "already has id 511"),
        ({"--shots": "1"}, "leave --shots out"),
        ({"--test": "99"}, "test subject '99' has no scan"),
        ({"--split": "labelled-target"}, "no bSSFP scan left to train on"),
    ],
)
def test_what_cannot_be_reused(
    base: Path, raw: Path, changes: dict[str, str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = dict(zip(REVERSE[2::2], REVERSE[3::2], strict=True)) | changes
    assert main([*REVERSE[:2], *(word for pair in command.items() for word in pair)]) == 1
    assert told in capsys.readouterr().err
    assert [path.name for path in raw.iterdir()] == [base.name]
    if "-d" in changes:
        assert main([*REVERSE[:2], *(word for pair in command.items() for word in pair), "--overwrite"]) == 1
        assert "cannot replace itself" in capsys.readouterr().err


def test_labels_in_parts_have_one_direction(tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tao.convert(tao_tree(tmp_path / "in"), 520)
    assert main(["convert", "tao", "-d", "521", "--reuse", "520", "--source", "T1c", "--target", "T1"]) == 1
    assert "annotated in parts" in capsys.readouterr().err


def test_replacing_the_base_points_at_what_reads_its_files(
    base: Path, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(REVERSE) == 0
    mscmrseg.convert(tmp_path / "in", 511, test=[1, 2], overwrite=True)
    assert "Convert Dataset512_MSCMRSeg again" in capsys.readouterr().out


@pytest.mark.slow
def test_nnunet_plans_and_preprocesses_shared_files(tmp_path: Path, nnunet: dict[str, Path]) -> None:
    mscmrseg.convert(cmr_tree(tmp_path / "in"), 511, test=[1, 2])
    assert main(REVERSE) == 0
    plan_and_preprocess(512, ("2d",))
    preprocessed = nnunet["nnUNet_preprocessed"] / "Dataset512_MSCMRSeg"
    _, block = read(nnunet["nnUNet_raw"] / "Dataset512_MSCMRSeg")
    found = {path.name.partition(".")[0] for path in (preprocessed / "nnUNetPlans_2d").glob("*.b2nd")}
    assert {name for name in found if not name.endswith("_seg")} == set(block.cases)


def rows(shown: str) -> list[list[str]]:
    return [line.split() for line in shown.splitlines() if line.startswith(("bSSFP", "LGE"))]


@pytest.mark.parametrize("shared", [False, True])
def test_inspect_shows_what_the_conversion_showed(
    base: Path, raw: Path, tmp_path: Path, shared: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    if shared:
        assert main(REVERSE) == 0
    else:
        mscmrseg.convert(tmp_path / "in", 512, test=[1, 2])
    converted = capsys.readouterr().out
    assert main(["inspect", "-d", "512", "-o", str(tmp_path / "out" / "sheet.png")]) == 0
    inspected = capsys.readouterr().out
    assert rows(inspected) == rows(converted) != []
    assert ("Left out (1)" in inspected) is shared
    sheet = matplotlib.image.imread(tmp_path / "out" / "sheet.png")
    np.testing.assert_array_equal(sheet, matplotlib.image.imread(raw / "Dataset512_MSCMRSeg" / "contact_sheet.png"))
    assert np.ptp(sheet[..., :3], axis=-1).max() > 0.5  # coloured


def damaged(base: Path) -> str:
    path = base / "imagesTr" / "patient3_C0_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:100])
    return "patient3_C0_0000.nii.gz cannot be read"


def gone(base: Path) -> str:
    (base / "labelsTr" / "patient3_C0.nii.gz").unlink()
    return "patient3_C0.nii.gz does not exist"


def no_json(base: Path) -> str:
    (base / "dataset.json").write_text("{")
    return "dataset.json cannot be read as JSON"


def no_block(base: Path) -> str:
    content: dict[str, Any] = json.loads((base / "dataset.json").read_text())
    del content["crossmod"]
    (base / "dataset.json").write_text(json.dumps(content))
    return 'no "crossmod" block'


@pytest.mark.parametrize("spoil", [damaged, gone, no_json, no_block])
def test_inspect_names_what_is_wrong(base: Path, spoil: Any, capsys: pytest.CaptureFixture[str]) -> None:
    told = spoil(base)
    assert main(["inspect", "-d", "511"]) == 1
    assert told in capsys.readouterr().err
