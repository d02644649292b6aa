"""Which files are scans and which are labels: in sub-folders, with capital endings, as channels; the rest is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from fabricate import dicom, labels, nifti, read, voxels

from nnunet_crossmod.cli import main
from nnunet_crossmod.dataset_conversion.find_files import Findings
from nnunet_crossmod.dataset_conversion.folder_description import dataset_of
from nnunet_crossmod.dataset_conversion.scan_files import find_scan_files
from nnunet_crossmod.errors import CrossmodError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(root: Path, images: str, labels: str = "", channel: int | None = None) -> dict[str, tuple[str, str]]:
    """Name → image and label, below the folder."""
    scans = find_scan_files([f"{root}/{images}"], [f"{root}/{labels}"] if labels else [], Findings(), channel)
    return {
        item.name: (
            item.image.relative_to(root).as_posix(),
            item.label.relative_to(root).as_posix() if item.label else "",
        )
        for item in scans
    }


def test_a_sub_folder_is_a_scan_where_files_of_one_name_lie_in_many(tmp_path: Path) -> None:
    touch(tmp_path, "ct/q0.nii.gz", *(f"ct/s{n}/ct.nii.gz" for n in (1, 2)), "ct/s1/masks/liver.nii.gz")
    touch(tmp_path, "seg/q0.nii.gz", *(f"seg/s{n}/segmentation.nii.gz" for n in (1, 2)))
    assert found(tmp_path, "ct", "seg") == {
        "q0": ("ct/q0.nii.gz", "seg/q0.nii.gz"),
        "s1": ("ct/s1/ct.nii.gz", "seg/s1/segmentation.nii.gz"),
        "s2": ("ct/s2/ct.nii.gz", "seg/s2/segmentation.nii.gz"),
    }


def test_files_of_their_own_names_keep_them_in_sub_folders(tmp_path: Path) -> None:
    touch(tmp_path, "mr/batch1/a.NII.GZ", "mr/batch2/b.nii", "mr/batch2/b_seg.nii", "mr/._a.nii.gz", "mr/.git/c.nii.gz")
    assert found(tmp_path, "mr", "mr") == {
        "a": ("mr/batch1/a.NII.GZ", ""),
        "b": ("mr/batch2/b.nii", "mr/batch2/b_seg.nii"),
    }
    touch(tmp_path, "mr/batch3/c_0000.nii.gz")
    assert set(found(tmp_path, "mr", "mr")) == {"a", "b", "c"}


def test_several_files_in_the_sub_folder_of_a_scan_are_asked_about(tmp_path: Path) -> None:
    touch(tmp_path, *(f"mr/p{n}/{kind}.nii.gz" for n in (1, 2) for kind in ("t1", "t2")))
    with pytest.raises(CrossmodError, match=r"p1 holds 2 files, t1\.nii\.gz, t2\.nii\.gz: say which .* by a pattern"):
        found(tmp_path, "mr")
    assert set(found(tmp_path, "mr/*/t2.nii.gz")) == {"p1", "p2"}


def test_patterns_take_capital_endings(tmp_path: Path) -> None:
    touch(tmp_path, "image_1.NII.GZ", "image_2.nii.gz", "label_1.nii.gz", "label_2.NII.GZ")
    assert found(tmp_path, "image_*.nii.gz", "label_*.nii.gz") == {
        "image_1": ("image_1.NII.GZ", "label_1.nii.gz"),
        "image_2": ("image_2.nii.gz", "label_2.NII.GZ"),
    }


def test_slicer_names_its_segmentations(tmp_path: Path) -> None:
    touch(tmp_path, "mr/p0.nrrd", "seg/p0.seg.nrrd")
    assert found(tmp_path, "mr", "seg") == {"p0": ("mr/p0.nrrd", "seg/p0.seg.nrrd")}


CHANNELS = [f"c{case}_{channel:04d}.nii.gz" for case in (1, 2) for channel in (0, 1)]


@pytest.mark.parametrize("label_files", ["", "seg"])
def test_channels_are_no_scans(tmp_path: Path, label_files: str) -> None:
    touch(tmp_path, *(f"mr/{name}" for name in CHANNELS), "seg/c1.nii.gz", "seg/c2.nii.gz")
    with pytest.raises(CrossmodError, match=r"c1_0000\.nii\.gz and c1_0001\.nii\.gz are channels of one .*--frame"):
        found(tmp_path, "mr", label_files)
    scans = found(tmp_path, "mr", label_files, channel=1)
    assert {name: image for name, (image, _) in scans.items()} == {f"c{n}": f"mr/c{n}_0001.nii.gz" for n in (1, 2)}
    assert set(found(tmp_path, "mr/*_0000.nii.gz")) == {"c1", "c2"}


def test_numbers_of_scans_are_no_channels(tmp_path: Path) -> None:
    touch(tmp_path, *(f"mr/{name}" for name in CHANNELS), *(f"seg/{name}" for name in CHANNELS))
    assert set(found(tmp_path, "mr", "seg")) == {name.removesuffix(".nii.gz") for name in CHANNELS}
    touch(tmp_path, *(f"ct/scan_{number:04d}.nii.gz" for number in range(4)))
    assert len(found(tmp_path, "ct")) == 4


@pytest.mark.parametrize(
    ("images", "label_files", "rule"),
    [
        ("mr", "seg", "a label has the name of its image, but for _0000"),
        ("mr/im_*.nii.gz", "seg/*.nii.gz", "the same text in place of the wildcards"),
    ],
)
def test_a_label_without_image_states_the_rule(tmp_path: Path, images: str, label_files: str, rule: str) -> None:
    touch(tmp_path, "mr/im_1.nii.gz", "seg/7.nii.gz")
    with pytest.raises(CrossmodError, match=r"7\.nii\.gz has no image") as error:
        found(tmp_path, images, label_files)
    assert rule in str(error.value)
    assert "--label-files" in str(error.value)


@pytest.mark.parametrize(
    ("images", "label_files", "says"),
    [
        (["mr", "check/*.nii.gz"], ["seg"], r"check/\*\.nii\.gz holds no image .*: correct --images"),
        (["mr"], ["seg", "rt"], r"rt holds no label file .*: correct --label-files, and convert .*RTSTRUCT"),
    ],
)
def test_every_place_must_hold_something(
    tmp_path: Path, images: list[str], label_files: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "mr/a.nii.gz", "seg/a.nii.gz", "rt/RS.dcm")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CrossmodError, match=says):
        list(find_scan_files(images, label_files, Findings()))


def test_one_folder_for_two_modalities_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "mr/a.nii.gz", "mr/a_seg.nii.gz")
    description = {"images": {"A": "mr", "B": "mr/*.nii.gz"}, "label_files": {"A": "mr"}, "labels": {"x": 1}}
    with pytest.raises(CrossmodError, match=r"a\.nii\.gz is given as A and as B: .*--images"):
        dataset_of(description, tmp_path).describe([tmp_path], None, None, Findings())


def hospital(root: Path) -> list[str]:
    """Nested DICOM, capital endings, files of other kinds, and names without a plain letter."""
    for number in range(3):
        name = ["患者一", "患者二", "Jörg"][number]
        nifti(root / "mr" / f"{name}.nii.gz", voxels(number))
        nifti(root / "seg" / f"{name}.nii.gz", labels(number, (1,)))
        dicom(root / "ct" / f"q{number}" / "study" / "series", voxels(number), [f"IM{z}" for z in range(4)])
    (root / "ct" / "README.txt").touch()
    nifti(root / "ct" / "q2" / "deep" / "er.nii.gz", voxels(7))
    return ["--images", f"MR={root}/mr", f"CT={root}/ct", "--label-files", f"MR={root}/seg", "--labels", "liver=1"]


def test_what_lies_deep_is_found_and_what_is_not_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    (tmp_path / "raw").mkdir()
    command = ["convert", "folders", "-d", "60", *hospital(tmp_path / "in")]
    (tmp_path / "in" / "ct" / "q2" / "deep" / "er.nii.gz").rename(tmp_path / "in" / "ct" / "er.txt")
    assert main(command) == 0
    content, block = read(tmp_path / "raw" / "Dataset060_Folders")
    assert set(block.cases) == {"scan1_MR", "scan2_MR", "Jorg_MR", "q0_CT", "q1_CT", "q2_CT"}
    assert content["conversion"]["renamed"] == {"scan1_MR": "患者一", "scan2_MR": "患者二", "Jorg_MR": "Jörg"}
    shown = capsys.readouterr().out
    assert "2 files in the input folders are not used: " in shown
    assert "README.txt" in shown
    assert "'患者一' becomes 'scan1_MR'" in shown
    assert shown.index("not used") < shown.index("To check by eye")


def test_series_in_sub_folders_of_one_patient_are_chosen_by_description(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    (tmp_path / "raw").mkdir()
    words = hospital(tmp_path / "in")
    (tmp_path / "in" / "ct" / "q2" / "deep" / "er.nii.gz").unlink()
    for number in range(3):
        place = tmp_path / "in" / "ct" / f"q{number}" / "study" / "scout"
        dicom(place, voxels(9)[:2], ["J1", "J2"], uid="1.2.826.0.1.3680043.2.1125.9", **{"0008|103e": "Scout"})
    assert main(["convert", "folders", "-d", "61", *words]) == 1
    assert "holds 2 DICOM series of [2, 4] files" in capsys.readouterr().err
    assert main(["convert", "folders", "-d", "61", *words, "--series", "CT=Scout"]) == 0
