"""The phantom: reproducible, anatomically sound, with a gap between its modalities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from support import check_integrity

from nnunet_crossmod.cli import main
from nnunet_crossmod.dataset_conversion import command_line, phantom
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.raw.block import CrossmodBlock

pytestmark = pytest.mark.slow  # every test makes its own hearts
SMALL: dict[str, Any] = {"subjects": 3, "test_subjects": 1, "size": 56, "slices": 4}


def convert(folder: Path, **changes: Any) -> tuple[Path, CrossmodBlock]:
    written = phantom.convert(900, raw_folder=folder, **{**SMALL, **changes})
    return written, CrossmodBlock.from_dataset_json(json.loads((written / "dataset.json").read_text()))


def arrays(seed: int, subject: int, **changes: Any) -> dict[str, tuple[Any, Any]]:
    arguments: dict[str, Any] = {"size": 64, "slices": 5, **changes}
    return {
        modality: (sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(label))
        for modality, image, label in phantom.scan_subject(seed, subject, **arguments)
    }


def test_the_same_seed_gives_the_same_bits(tmp_path: Path) -> None:
    first, again, other = (convert(tmp_path / str(n), seed=seed)[0] for n, seed in enumerate((1, 1, 2)))
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 3 + 3 * 2 * 3 + 1 * 2 * 3
    for path in files:
        assert (first / path).read_bytes() == (again / path).read_bytes(), path
    images = [path for path in files if path.name.endswith("_0000.nii.gz")]
    assert all((first / path).read_bytes() != (other / path).read_bytes() for path in images)


def test_a_subject_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    few, many = convert(tmp_path / "few")[0], convert(tmp_path / "many", subjects=5)[0]
    name = "imagesTr/phantom003_lge_0000.nii.gz"
    assert (few / name).read_bytes() == (many / name).read_bytes()


def test_unsupervised_adaptation_is_the_default(tmp_path: Path) -> None:
    written, block = convert(tmp_path)
    assert block.modalities == ("cine", "lge")
    assert {name for name, case in block.cases.items() if case.annotated} == {f"phantom00{n}_cine" for n in (1, 2, 3)}
    assert all(case.labelled for case in block.cases.values())
    assert set(block.test) == {"phantom004_cine", "phantom004_lge"}
    assert "ignore" not in json.loads((written / "dataset.json").read_text())["labels"]
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(written / "labelsTr" / "phantom001_lge.nii.gz")))
    assert np.unique(values).tolist() == [0, 1, 2, 3]


def test_partial_annotation_shares_the_labels_out(tmp_path: Path) -> None:
    _, block = convert(tmp_path, annotation="partial")
    assert block.cases["phantom001_cine"].visible == {1, 2}
    assert block.cases["phantom001_lge"].visible == {3}


@pytest.mark.parametrize("words", ["2", "lge=2"])
def test_shots_annotate_target_scans(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    sizes = ["-n", "3", "--test-subjects", "0", "--size", "56", "--slices", "4"]
    assert main(["convert", "phantom", "-d", "900", *sizes, "--shots", words]) == 0
    written = next(tmp_path.glob("Dataset900_*"))
    block = CrossmodBlock.from_dataset_json(json.loads((written / "dataset.json").read_text()))
    annotated = [case for case in block.cases.values() if case.modality == "lge" and case.annotated]
    assert len(annotated) == 2


def test_registered_scans_share_grid_and_anatomy() -> None:
    (cine, lge) = phantom.scan_subject(0, 0, 56, 4, registered=True)
    for one, other in zip(cine[1:], lge[1:], strict=True):
        assert one.GetSize() == other.GetSize()
        assert one.GetSpacing() == other.GetSpacing()
        assert one.GetOrigin() == other.GetOrigin()
    np.testing.assert_array_equal(*(sitk.GetArrayFromImage(scan[2]) for scan in (cine, lge)))
    assert np.any(sitk.GetArrayFromImage(cine[1]) != sitk.GetArrayFromImage(lge[1]))


def test_unregistered_scans_do_not() -> None:
    (cine, lge) = phantom.scan_subject(0, 0, 56, 4)
    assert cine[1].GetSpacing() != lge[1].GetSpacing()
    assert cine[1].GetOrigin() != lge[1].GetOrigin()


def test_registered_data_sets_share_the_box(tmp_path: Path) -> None:
    written, block = convert(tmp_path, registered=True)
    assert block.registered
    cine, lge = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(written / "imagesTr" / f"phantom001_{modality}_0001.nii.gz")))
        for modality in phantom.MODALITIES
    )
    assert set(np.unique(cine)) <= {0, 1}
    np.testing.assert_array_equal(2 * cine, lge)


@pytest.mark.parametrize("subject", range(4))
def test_the_left_ventricle_lies_in_a_closed_ring_of_myocardium(subject: int) -> None:
    for _, label in arrays(0, subject, size=80).values():
        for plane in label[:-1]:
            if not (plane == 2).any():
                continue
            around = np.zeros(plane.shape, dtype=bool)
            for shift in ((0, 1), (0, -1), (1, 0), (-1, 0)):
                around |= np.roll(plane == 2, shift, axis=(0, 1))
            assert set(np.unique(plane[around])) <= {1, 2}
        myo, lv, rv = ((label == value).sum() for value in (1, 2, 3))
        assert min(myo, lv, rv) > 0.005 * label.size
        left, right = (np.argwhere(label == value)[:, 2].mean() for value in (3, 2))
        assert left < right


def test_the_heart_tapers_to_the_apex() -> None:
    for subject in range(4):
        for _, label in arrays(0, subject, size=80, slices=8).values():
            areas = (label > 0).sum(axis=(1, 2))
            assert areas[-1] < 0.6 * areas[0]


def contrast(image: Any, label: Any) -> float:
    """How much brighter the left ventricle is than its wall, in units of the scan's standard deviation."""
    return float((image[label == 2].mean() - image[label == 1].mean()) / image.std())


def test_the_gaps() -> None:
    ratios = []
    for subject in range(4):
        moderate, severe = (arrays(0, subject, gap=gap) for gap in ("moderate", "severe"))
        assert contrast(*moderate["cine"]) > 1.5
        assert contrast(*moderate["lge"]) > 0.2
        ratios.append(contrast(*moderate["lge"]) / contrast(*moderate["cine"]))
        assert contrast(*severe["lge"]) < -1
        np.testing.assert_array_equal(moderate["cine"][0], severe["cine"][0])
        np.testing.assert_array_equal(moderate["lge"][1], severe["lge"][1])
    assert 0.5 < np.mean(ratios) < 0.85


def test_nnunet_finds_no_fault(tmp_path: Path) -> None:
    check_integrity(convert(tmp_path)[0])


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"target": ["ct"]}, "modality 'ct'"), ({"size": 8}, "size of 48"), ({"shots": 4}, "4 annotated lge")],
)
def test_wrong_arguments(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(CrossmodError, match=told):
        convert(tmp_path, **changes)
    assert not list(tmp_path.iterdir())


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    words = "-d 5 -n 2 --test-subjects 0 --size 48 --slices 3 --annotation partial --registered --gap severe --seed 4"
    command_line.main("", phantom.add_arguments, phantom.run, words.split())
    content = json.loads((tmp_path / "Dataset005_Phantom" / "dataset.json").read_text())
    assert content["numTraining"] == 4
    assert content["crossmod"]["registered"] is True
    assert content["crossmod"]["cases"]["phantom001_lge"]["annotated"] == ["RV"]
    assert "severe gap" in content["description"]
