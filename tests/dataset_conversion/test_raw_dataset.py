"""The writer: what it writes is a sound nnU-Net data set, and what it refuses leaves nothing behind."""

from __future__ import annotations

import argparse
import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from support import check_integrity

from nnunet_crossmod.dataset_conversion import command_line, writer
from nnunet_crossmod.dataset_conversion.command_line import read_shots
from nnunet_crossmod.dataset_conversion.raw_dataset import RawDataset, Scan, in_order
from nnunet_crossmod.dataset_conversion.roles import annotate_shots
from nnunet_crossmod.dataset_conversion.writer import write_raw_dataset
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.raw.block import CrossmodBlock

# As a scanner writes it: oblique, anisotropic, off-centre.
SPACING, ORIGIN = (1.25, 1.5, 8.0), (-31.5, 12.25, 100.0)
DIRECTION = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
SHAPE = (3, 10, 12)


def image_of(values: Any) -> sitk.Image:
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(DIRECTION)
    return image


def scan_voxels(seed: int) -> Any:
    """Random voxels that are zero outside z 0–1, y 2–7, x 3–9."""
    voxels = np.zeros(SHAPE, dtype=np.int16)
    voxels[:2, 2:8, 3:10] = np.random.default_rng(seed).integers(1, 900, size=(2, 6, 7))
    return voxels


def label_voxels(seed: int) -> Any:
    return np.random.default_rng(seed).choice(np.array([0, 200, 205, 600], dtype=np.uint16), size=SHAPE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    return tmp_path


def make_scans(folder: Path, subjects: int = 3) -> list[Scan]:
    """mr annotated, ct without label; the last subject is the test subject and labelled in both."""
    scans = []
    for subject in range(subjects + 1):
        for number, modality in enumerate(("mr", "ct")):
            name, test = f"s{subject}_{modality}", subject == subjects
            path, label = folder / "files" / f"{name}.nii.gz", folder / "files" / f"{name}_seg.nii.gz"
            sitk.WriteImage(image_of(scan_voxels(10 * subject + number)), str(path))
            sitk.WriteImage(image_of(label_voxels(subject)), str(label))
            labelled = modality == "mr" or test
            annotated: Any = "all" if modality == "mr" and not test else ()
            scans.append(Scan(name, modality, f"s{subject}", path, label if labelled else None, annotated, test))
    return scans


def write(scans: list[Scan], folder: Path, **changes: Any) -> Path:
    description: dict[str, Any] = {
        "name": "Test",
        "labels": {"background": 0, "A": 1, "B": 2},
        "label_map": {200: 1, 205: 1, 600: 2},
        "modalities": ["mr", "ct"],
        "source": ["mr"],
        "target": ["ct"],
    }
    arguments: dict[str, Any] = {"dataset_id": 7, "raw_folder": folder / "raw"}
    for name, value in changes.items():
        (description if name in RawDataset.__dataclass_fields__ else arguments)[name] = value
    return write_raw_dataset(RawDataset(scans=scans, **description), **arguments)


def changed(scans: list[Scan], which: str, **fields: Any) -> list[Scan]:
    return [replace(scan, **fields) if scan.name == which else scan for scan in scans]


def voxels_of(path: Path) -> Any:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_the_files_of_a_data_set(folder: Path) -> None:
    written = write(make_scans(folder), folder)
    assert written == folder / "raw" / "Dataset007_Test"
    found = {part: sorted(path.name for path in (written / part).iterdir()) for part in ("imagesTr", "labelsTr")}
    names = [f"s{subject}_{modality}" for subject in range(3) for modality in ("ct", "mr")]
    assert found["imagesTr"] == [f"{name}_{channel}.nii.gz" for name in names for channel in ("0000", "0001")]
    assert found["labelsTr"] == [f"{name}.nii.gz" for name in names]
    assert len(list((written / "imagesTs").iterdir())) == 4
    assert sorted(path.name for path in (written / "labelsTs").iterdir()) == ["s3_ct.nii.gz", "s3_mr.nii.gz"]
    assert [path.name for path in (folder / "raw").iterdir()] == ["Dataset007_Test"]


def test_dataset_json_and_the_block(folder: Path) -> None:
    content = json.loads((write(make_scans(folder), folder) / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "image", "1": "noNorm"}
    assert content["labels"] == {"background": 0, "A": 1, "B": 2, "ignore": 3}
    assert content["numTraining"] == 6
    block = CrossmodBlock.from_dataset_json(content)
    assert {name for name, case in block.cases.items() if case.annotated} == {"s0_mr", "s1_mr", "s2_mr"}
    assert {name for name, case in block.cases.items() if not case.labelled} == {"s0_ct", "s1_ct", "s2_ct"}
    assert set(block.test) == {"s3_mr", "s3_ct"}
    assert block.cases["s1_ct"].subject == "s1"


def test_ignore_is_declared_only_where_a_training_label_is_missing(folder: Path) -> None:
    scans = [
        replace(scan, label=folder / "files" / f"{scan.name}_seg.nii.gz")
        if not scan.test
        else replace(scan, label=None)
        for scan in make_scans(folder)
    ]
    written = write(scans, folder)
    assert "ignore" not in json.loads((written / "dataset.json").read_text())["labels"]
    assert not list((written / "labelsTs").iterdir())


def test_labels_are_mapped_many_to_one(folder: Path) -> None:
    written = write(make_scans(folder), folder)
    given = label_voxels(1)
    expected = np.where(given == 600, 2, np.where(given > 0, 1, 0))
    for part, name, values in (("labelsTr", "s1_mr", expected), ("labelsTr", "s1_ct", np.full(SHAPE, 3))):
        label = sitk.ReadImage(str(written / part / f"{name}.nii.gz"))
        assert label.GetPixelID() == sitk.sitkUInt8
        np.testing.assert_array_equal(sitk.GetArrayFromImage(label), values)


@pytest.mark.parametrize("kind", [np.int16, np.uint8, np.int64, np.float32])
def test_labels_without_background_and_of_any_type(folder: Path, kind: Any) -> None:
    given = np.random.default_rng(3).choice(np.array([200, 205], dtype=kind), size=SHAPE)
    written = write(changed(make_scans(folder), "s0_mr", label=image_of(given), label_map={200: 2, 205: 1}), folder)
    np.testing.assert_array_equal(voxels_of(written / "labelsTr" / "s0_mr.nii.gz"), np.where(given == 200, 2, 1))


@pytest.mark.parametrize("value", [-1, 70000])
def test_an_outlandish_label_value_is_listed(folder: Path, value: int) -> None:
    given = np.full(SHAPE, 200, dtype=np.int32)
    given[0, 0, 0] = value
    with pytest.raises(CrossmodError, match=rf"label of case 's0_mr' holds the values \[{value}\]"):
        write(changed(make_scans(folder), "s0_mr", label=image_of(given)), folder)


def test_voxels_and_affine_are_kept_bit_by_bit(folder: Path) -> None:
    scans = make_scans(folder)
    written = write(scans, folder)
    original = gzip.decompress(Path(scans[0].image).read_bytes())
    assert gzip.decompress((written / "imagesTr" / "s0_mr_0000.nii.gz").read_bytes()) == original
    image = sitk.ReadImage(str(scans[0].image))
    for path in ("imagesTr/s0_mr_0001.nii.gz", "labelsTr/s0_mr.nii.gz", "labelsTr/s0_ct.nii.gz"):
        other = sitk.ReadImage(str(written / path))
        assert other.GetSpacing() == image.GetSpacing(), path
        assert other.GetOrigin() == image.GetOrigin(), path
        np.testing.assert_allclose(other.GetDirection(), image.GetDirection(), atol=1e-6)


def test_a_label_with_a_rounded_affine_takes_the_affine_of_the_image(folder: Path) -> None:
    scans = make_scans(folder)
    rounded = image_of(label_voxels(0))
    rounded.SetOrigin([value + 0.01 for value in ORIGIN])
    written = write(changed(scans, "s0_mr", label=rounded), folder)
    label = sitk.ReadImage(str(written / "labelsTr" / "s0_mr.nii.gz"))
    np.testing.assert_allclose(label.GetOrigin(), ORIGIN, atol=1e-5)


def test_the_modality_channel_fills_the_box_of_its_own_scan(folder: Path) -> None:
    written = write(make_scans(folder), folder)
    for name, value in (("imagesTr/s0_mr", 1), ("imagesTr/s0_ct", 2), ("imagesTs/s3_ct", 2)):
        expected = np.zeros(SHAPE)
        expected[:2, 2:8, 3:10] = value
        np.testing.assert_array_equal(voxels_of(written / f"{name}_0001.nii.gz"), expected)


def test_registered_scans_share_one_box(folder: Path) -> None:
    scans = make_scans(folder)
    wider = np.zeros(SHAPE, dtype=np.int16)
    wider[1:, 0:4, 5:12] = 5
    scans = changed(scans, "s0_ct", image=image_of(wider))
    written = write(scans, folder, registered=True)
    joined = np.zeros(SHAPE)
    joined[0:3, 0:8, 3:12] = 1
    np.testing.assert_array_equal(voxels_of(written / "imagesTr" / "s0_mr_0001.nii.gz"), joined)
    np.testing.assert_array_equal(voxels_of(written / "imagesTr" / "s0_ct_0001.nii.gz"), 2 * joined)
    alone = np.zeros(SHAPE)
    alone[:2, 2:8, 3:10] = 1
    np.testing.assert_array_equal(voxels_of(written / "imagesTr" / "s1_mr_0001.nii.gz"), alone)
    assert json.loads((written / "dataset.json").read_text())["crossmod"]["registered"] is True


def test_partial_annotation_reaches_the_block(folder: Path) -> None:
    scans = changed(make_scans(folder), "s1_mr", annotated=["B"])
    content = json.loads((write(scans, folder) / "dataset.json").read_text())
    assert content["crossmod"]["cases"]["s1_mr"]["annotated"] == ["B"]


def test_the_folds_are_written(folder: Path) -> None:
    folds = json.loads((write(make_scans(folder), folder, folds=3) / "splits_final.json").read_text())
    assert sorted(name for fold in folds for name in fold["val"]) == ["s0_mr", "s1_mr", "s2_mr"]
    for fold in folds:
        (validated,) = fold["val"]
        assert sorted(fold["train"]) == sorted(
            f"s{n}_{m}" for n in range(3) for m in ("mr", "ct") if not validated.startswith(f"s{n}")
        )


def test_a_summary_is_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(make_scans(folder), folder)
    shown = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in shown.splitlines() if line[:2] in ("mr", "ct")}
    counted = sum(int(np.isin(label_voxels(subject), (200, 205)).sum()) for subject in range(4))
    assert rows["mr"][:6] == ["mr", "source", "3", "3", "3", "1"]
    assert rows["mr"][-2] == str(counted)
    assert rows["ct"][:6] == ["ct", "target", "3", "0", "0", "1"]
    assert "1.25 x 1.5 x 8" in shown


def test_nnunet_finds_no_fault(folder: Path) -> None:
    check_integrity(write(make_scans(folder), folder))


def test_an_existing_data_set_is_replaced_only_on_demand(folder: Path) -> None:
    scans = make_scans(folder)
    old = write(scans, folder, name="Other")
    marker = old / "imagesTr" / "s0_mr_0000.nii.gz"
    before = marker.read_bytes()
    with pytest.raises(CrossmodError, match=r"Dataset007_Other already has id 7.*--overwrite"):
        write(scans, folder)
    assert marker.read_bytes() == before
    written = write(scans, folder, overwrite=True)
    assert list((folder / "raw").iterdir()) == [written]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interruption_leaves_the_old_data_set_and_nothing_new(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    scans = make_scans(folder)
    old = write(scans, folder)
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    calls = []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 4:
            raise error
        return modality_channel(*arguments)

    modality_channel = writer.modality_channel
    monkeypatch.setattr(writer, "modality_channel", interrupted)
    with pytest.raises(error):
        write(scans, folder, overwrite=True)
    assert list((folder / "raw").iterdir()) == [old]
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before


def test_the_raw_folder_of_nnunet_is_the_default(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scans = make_scans(folder)
    monkeypatch.setenv("nnUNet_raw", str(folder / "elsewhere"))
    with pytest.raises(CrossmodError, match=r"does not exist: correct it, or mkdir -p"):
        write(scans, folder, raw_folder=None)
    (folder / "elsewhere").mkdir()
    assert write(scans, folder, raw_folder=None).parent == folder / "elsewhere"
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(CrossmodError, match="export nnUNet_raw="):
        write(scans, folder, raw_folder=None, overwrite=True)


def test_preprocessed_files_of_a_replaced_data_set_are_pointed_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("nnUNet_preprocessed", str(folder / "pre"))
    (folder / "pre" / "Dataset007_Test").mkdir(parents=True)
    scans = make_scans(folder)
    write(scans, folder)
    assert "Remove" not in capsys.readouterr().out
    write(scans, folder, overwrite=True)
    assert f"Remove {folder / 'pre' / 'Dataset007_Test'}" in capsys.readouterr().out


def save(folder: Path, name: str, image: sitk.Image) -> Path:
    path = folder / "files" / name
    sitk.WriteImage(image, str(path))
    return path


def truncated(folder: Path, scans: list[Scan]) -> list[Scan]:
    path = Path(scans[0].image)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 9 // 10])
    return scans


def truncated_uncompressed(folder: Path, scans: list[Scan]) -> list[Scan]:
    path = save(folder, "short.nii", image_of(scan_voxels(0)))
    path.write_bytes(path.read_bytes()[:-100])
    return changed(scans, "s0_mr", image=path)


def truncated_label(folder: Path, scans: list[Scan]) -> list[Scan]:
    path = Path(scans[0].label)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 9 // 10])
    return scans


def no_image(folder: Path, scans: list[Scan]) -> list[Scan]:
    path = folder / "files" / "garbage.nii.gz"
    path.write_bytes(b"not an image")
    return changed(scans, "s1_ct", image=path)


def missing(folder: Path, scans: list[Scan]) -> list[Scan]:
    return changed(scans, "s1_ct", image=folder / "files" / "gone.nii.gz")


def nan(folder: Path, scans: list[Scan]) -> list[Scan]:
    voxels = scan_voxels(0).astype(np.float32)
    voxels[1, 4, 5] = np.nan
    return changed(scans, "s1_ct", image=save(folder, "nan.nii.gz", image_of(voxels)))


def zero(folder: Path, scans: list[Scan]) -> list[Scan]:
    empty = image_of(np.zeros(SHAPE, dtype=np.int16))
    return changed(scans, "s1_ct", image=save(folder, "zero.nii.gz", empty))


def four_dimensional(folder: Path, scans: list[Scan]) -> list[Scan]:
    stack = sitk.JoinSeries([image_of(scan_voxels(n)) for n in range(2)])
    return changed(scans, "s1_ct", image=save(folder, "cine4d.nii.gz", stack))


def coloured(folder: Path, scans: list[Scan]) -> list[Scan]:
    image = sitk.GetImageFromArray(np.ones((*SHAPE, 3), dtype=np.float32), isVector=True)
    return changed(scans, "s1_ct", image=save(folder, "rgb.nii.gz", image))


def other_size(folder: Path, scans: list[Scan]) -> list[Scan]:
    label = sitk.GetImageFromArray(np.zeros((3, 10, 11), dtype=np.uint8))
    return changed(scans, "s0_mr", label=save(folder, "size.nii.gz", label))


def other_origin(folder: Path, scans: list[Scan]) -> list[Scan]:
    label = image_of(label_voxels(0))
    label.SetOrigin((ORIGIN[0], ORIGIN[1], ORIGIN[2] + 8))
    return changed(scans, "s0_mr", label=save(folder, "origin.nii.gz", label))


def other_spacing(folder: Path, scans: list[Scan]) -> list[Scan]:
    label = image_of(label_voxels(0))
    label.SetSpacing((1.25, 1.5, 8.2))
    return changed(scans, "s0_mr", label=save(folder, "spacing.nii.gz", label))


def other_direction(folder: Path, scans: list[Scan]) -> list[Scan]:
    label = image_of(label_voxels(0))
    label.SetDirection((1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    return changed(scans, "s0_mr", label=save(folder, "direction.nii.gz", label))


def unknown_id(folder: Path, scans: list[Scan]) -> list[Scan]:
    values = label_voxels(0)
    values[0, 0, 0], values[0, 0, 1] = 421, 7
    return changed(scans, "s0_mr", label=save(folder, "ids.nii.gz", image_of(values)))


def fractional_label(folder: Path, scans: list[Scan]) -> list[Scan]:
    values = label_voxels(0).astype(np.float32) + 0.5
    return changed(scans, "s0_mr", label=save(folder, "half.nii.gz", image_of(values)))


BAD_FILES = [
    (truncated, ["s0_mr.nii.gz", "truncated"]),
    (truncated_uncompressed, ["short.nii", "truncated"]),
    (truncated_label, ["s0_mr_seg.nii.gz", "truncated"]),
    (no_image, ["garbage.nii.gz", "cannot be read"]),
    (missing, ["gone.nii.gz", "does not exist"]),
    (nan, ["nan.nii.gz", "1 NaN"]),
    (zero, ["zero.nii.gz", "all zero"]),
    (four_dimensional, ["cine4d.nii.gz", "4D (12 x 10 x 3 x 2)"]),
    (coloured, ["rgb.nii.gz", "3 values per voxel"]),
    (other_size, ["s0_mr.nii.gz", "size.nii.gz", "(12, 10, 3) against (11, 10, 3)"]),
    (other_origin, ["s0_mr.nii.gz", "origin.nii.gz", "origin (-31.5, 12.25, 100.0) against (-31.5, 12.25, 108.0)"]),
    (other_spacing, ["s0_mr.nii.gz", "spacing.nii.gz", "spacing (1.25, 1.5, 8.0) against (1.25, 1.5, 8.2)"]),
    (other_direction, ["s0_mr.nii.gz", "direction.nii.gz", "direction (0.8,"]),
    (unknown_id, ["ids.nii.gz", "[7, 421]", "known are [0, 200, 205, 600]"]),
    (fractional_label, ["half.nii.gz", "0.5"]),
]


@pytest.mark.parametrize(("spoil", "told"), BAD_FILES, ids=[spoil.__name__ for spoil, _ in BAD_FILES])
def test_a_bad_file_is_named_in_one_line_and_nothing_stays(folder: Path, spoil: Any, told: list[str]) -> None:
    scans = spoil(folder, make_scans(folder))
    with pytest.raises(CrossmodError) as error:
        write(scans, folder)
    assert "\n" not in str(error.value)
    assert [part for part in told if part not in str(error.value)] == [], str(error.value)
    assert list((folder / "raw").iterdir()) == []


def test_registered_scans_must_lie_on_one_grid(folder: Path) -> None:
    shifted = image_of(scan_voxels(1))
    shifted.SetOrigin((0.0, 0.0, 0.0))
    scans = changed(make_scans(folder), "s1_ct", image=save(folder, "shifted.nii.gz", shifted))
    write(scans, folder)
    with pytest.raises(CrossmodError, match=r"s1_mr\.nii\.gz and .*shifted\.nii\.gz lie on different grids \(origin"):
        write(scans, folder, registered=True, dataset_id=8)
    assert [path.name for path in (folder / "raw").iterdir()] == ["Dataset007_Test"]


def without(scans: list[Scan], modality: str) -> list[Scan]:
    return [scan for scan in scans if scan.modality != modality or scan.test]


@pytest.mark.parametrize(
    ("spoil", "changes", "told"),
    [
        (lambda scans: [*scans, scans[0]], {}, "two scans are named 's0_mr'"),
        (lambda scans: without(scans, "ct"), {}, "modality 'ct' has no training scans"),
        (lambda scans: without(scans, "mr"), {}, "modality 'mr' has no training scans"),
        (
            lambda scans: [replace(s, annotated=()) for s in scans],
            {},
            "no training scan of the source ['mr'] is annotated",
        ),
        (lambda scans: changed(scans, "s0_mr", label=None), {}, "'s0_mr' is annotated but has no label file"),
        (lambda scans: changed(scans, "s0_mr", annotated=["C"]), {}, "'s0_mr' is annotated with 'C'"),
        (lambda scans: changed(scans, "s0_mr", name="../s0"), {}, "case name '../s0'"),
        (lambda scans: changed(scans, "s0_mr", modality="pet"), {}, "case 's0_mr' has modality 'pet'"),
        (lambda scans: scans, {"modalities": ["mr"]}, "names 'ct' as target"),
        (lambda scans: scans, {"dataset_id": 0}, "data set id 0"),
        (lambda scans: scans, {"name": "a/b"}, "data set name 'a/b'"),
        (lambda scans: scans, {"labels": {"background": 0, "A": 1, "B": 3}}, "without gaps"),
        (lambda scans: [s for s in scans if s.subject in ("s0", "s3")], {}, "annotate at least two"),
    ],
)
def test_scans_that_make_up_no_data_set(folder: Path, spoil: Any, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(CrossmodError) as error:
        write(spoil(make_scans(folder)), folder, **changes)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert not (folder / "raw").exists()


def test_shots_annotate_labelled_training_scans(folder: Path) -> None:
    scans = [replace(scan, label=folder / "files" / f"{scan.name}_seg.nii.gz") for scan in make_scans(folder, 6)]
    chosen = [
        scan.name for scan in annotate_shots(scans, {"ct": 2}, seed=0) if scan.annotated and scan.modality == "ct"
    ]
    assert len(chosen) == 2
    assert "s6_ct" not in chosen
    few = {tuple(s.name for s in annotate_shots(scans, {"ct": 2}, seed) if s.annotated) for seed in range(8)}
    assert len(few) > 1
    with pytest.raises(CrossmodError, match="3 annotated ct scans were asked for, but 0"):
        annotate_shots(make_scans(folder), {"ct": 3}, seed=0)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {}),
        (["3"], {"LGE": 3, "T2": 3}),
        (["LGE=3"], {"LGE": 3}),
        (["LGE=3", "T2=1"], {"LGE": 3, "T2": 1}),
    ],
)
def test_shots_are_a_number_or_one_a_modality(words: list[str], expected: dict[str, int]) -> None:
    assert read_shots(words, ["LGE", "T2"]) == expected


@pytest.mark.parametrize("words", [["3", "4"], ["bSSFP=1"], ["LGE"], ["LGE="], ["LGE=-1"], ["-1"]])
def test_other_shots_are_refused_in_one_line(words: list[str]) -> None:
    with pytest.raises(CrossmodError, match="MODALITY=N") as error:
        read_shots(words, ["LGE", "T2"])
    assert "\n" not in str(error.value)


def test_a_script_tells_errors_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def run(args: argparse.Namespace) -> None:
        raise CrossmodError(f"{args.dataset_id} is wrong: use another")

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        command_line.add_common_arguments(parser, source=["mr"], target=["ct"])

    with pytest.raises(SystemExit) as stop:
        command_line.main("What it does.\n\nMore.", add_arguments, run, ["-d", "3"])
    assert stop.value.code == 1
    assert capsys.readouterr().err == "Error: 3 is wrong: use another\n"
    with pytest.raises(SystemExit):
        command_line.main("What it does.\n\nMore.", add_arguments, run, ["--help"])
    shown = capsys.readouterr().out
    assert "What it does." in shown
    assert "More." not in shown


def test_the_order_of_modalities_does_not_depend_on_their_roles() -> None:
    assert (
        in_order(["LGE", "bSSFP", "T1", "t1"]) == in_order(["t1", "T1", "bSSFP", "LGE"]) == ["bSSFP", "LGE", "T1", "t1"]
    )
