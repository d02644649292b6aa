"""DICOM series, PNG stacks, TFRecords and npz volumes: read right, or refused in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from fabricate import (
    COLUMN,
    ORIGIN,
    ROW,
    SPACING,
    dicom,
    example,
    nifti,
    pngs,
    sifa_slice,
    slow_crc32c,
    tfrecord,
)

from nnunet_crossmod.dataset_conversion.dicom_series import read_dicom_series, read_label_stack
from nnunet_crossmod.dataset_conversion.slice_files import read_npz_volume, read_slice_record
from nnunet_crossmod.dataset_conversion.tfrecords import crc32c, read_examples
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.raw.image_files import read_image

SHAPE = (5, 6, 7)
RANDOM = np.random.default_rng(0)
VOXELS = RANDOM.integers(1, 2000, SHAPE).astype(np.int16)
GREYS = RANDOM.choice(np.array([0, 63, 126, 189, 252]), SHAPE).astype(np.uint8)
ASCENDING = [f"IMG-{z:03d}.dcm" for z in range(5)]
DESCENDING = ASCENDING[::-1]
SHUFFLED = [f"IMG-{z:03d}.dcm" for z in (2, 0, 4, 1, 3)]


def png_names(names: list[str]) -> list[str]:
    return [name.replace(".dcm", ".png") for name in names]


@pytest.mark.parametrize("names", [ASCENDING, DESCENDING, SHUFFLED], ids=["ascending", "descending", "shuffled"])
def test_slices_are_ordered_by_position_whatever_their_names(tmp_path: Path, names: list[str]) -> None:
    dicom(tmp_path / "series", VOXELS, names)
    image = read_dicom_series(tmp_path / "series")
    # The normal of these rows and columns points up, like the positions.
    np.testing.assert_allclose(np.cross(ROW, COLUMN), (0, 0, 1), atol=1e-9)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), VOXELS)
    np.testing.assert_allclose(image.GetSpacing(), SPACING, atol=1e-5)
    np.testing.assert_allclose(image.GetOrigin(), ORIGIN, atol=1e-4)
    np.testing.assert_allclose(np.reshape(image.GetDirection(), (3, 3)).T[:2], [ROW, COLUMN], atol=1e-5)
    for z in range(5):
        corner = image.TransformIndexToPhysicalPoint((0, 0, z))
        np.testing.assert_allclose(corner, (ORIGIN[0], ORIGIN[1], ORIGIN[2] + z * SPACING[2]), atol=1e-3)


@pytest.mark.parametrize("names", [ASCENDING, DESCENDING, SHUFFLED], ids=["ascending", "descending", "shuffled"])
def test_a_png_belongs_to_the_slice_of_its_name(tmp_path: Path, names: list[str]) -> None:
    dicom(tmp_path / "series", VOXELS, names)
    pngs(tmp_path / "Ground", GREYS, png_names(names))
    label = read_label_stack(tmp_path / "Ground", tmp_path / "series")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label), GREYS)
    assert label.GetOrigin() == read_dicom_series(tmp_path / "series").GetOrigin()


@pytest.mark.parametrize("names", [ASCENDING, DESCENDING], ids=["ascending", "descending"])
def test_other_png_names_go_by_their_order(tmp_path: Path, names: list[str]) -> None:
    dicom(tmp_path / "series", VOXELS, names)
    others = [f"liver_{int(re.findall(r'[0-9]+', name)[0]) + 8}.png" for name in names]  # 8 … 12: natural order
    pngs(tmp_path / "Ground", GREYS, others)
    label = read_label_stack(tmp_path / "Ground", tmp_path / "series")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label), GREYS)


def test_other_png_names_are_refused_where_names_do_not_follow_positions(tmp_path: Path) -> None:
    dicom(tmp_path / "series", VOXELS, SHUFFLED)
    pngs(tmp_path / "Ground", GREYS, [f"liver_{z}.png" for z in range(5)])
    with pytest.raises(CrossmodError, match="do not follow the positions"):
        read_label_stack(tmp_path / "Ground", tmp_path / "series")


def two_series(folder: Path) -> None:
    dicom(folder / "series", VOXELS[:2], ["X1.dcm", "X2.dcm"], uid="1.2.826.0.1.3680043.2.1125.8")


def twice_one_position(folder: Path) -> None:
    (folder / "series" / "copy.dcm").write_bytes((folder / "series" / ASCENDING[2]).read_bytes())


def missing_slice(folder: Path) -> None:
    (folder / "series" / ASCENDING[2]).unlink()


def other_size(folder: Path) -> None:
    dicom(folder / "series", VOXELS[:1, :4], ["scout.dcm"])


def no_dicom(folder: Path) -> None:
    for file in (folder / "series").iterdir():
        file.unlink()


def text(folder: Path) -> None:
    (folder / "series" / ASCENDING[1]).write_text("not a DICOM file")


def truncated(folder: Path) -> None:
    file = folder / "series" / ASCENDING[1]
    file.write_bytes(file.read_bytes()[:-30])


def too_few_pngs(folder: Path) -> None:
    (folder / "Ground" / "IMG-001.png").unlink()


def wide_png(folder: Path) -> None:
    pngs(folder / "Ground", np.zeros((1, 6, 8)), ["IMG-001.png"])


def colour_png(folder: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((6, 7, 3), dtype=np.uint8), isVector=True)
    sitk.WriteImage(image, str(folder / "Ground" / "IMG-001.png"))


def broken_png(folder: Path) -> None:
    file = folder / "Ground" / "IMG-001.png"
    file.write_bytes(file.read_bytes()[:40])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (two_series, r"series holds 2 DICOM series of \[2, 5\] files \(X1.dcm"),
        (twice_one_position, r"IMG-002\.dcm and copy\.dcm lie at one position|copy\.dcm and IMG-002\.dcm lie"),
        (missing_slice, r"IMG-001\.dcm and IMG-003\.dcm are 10 mm apart, other slices 5 mm"),
        (other_size, r"differs in size or orientation"),
        (no_dicom, r"series holds no DICOM file"),
        (text, r"IMG-001\.dcm cannot be read"),
        (truncated, r"cannot be read"),
        (too_few_pngs, r"Ground holds 4 PNG files, but .*series 5 slices"),
        (wide_png, r"IMG-001\.png has \(8, 6\) pixels, but its slice \(7, 6\)"),
        (colour_png, r"IMG-001\.png is a colour picture"),
        (broken_png, r"IMG-001\.png cannot be read"),
    ],
)
def test_wrong_series_and_stacks(tmp_path: Path, spoil: Callable[[Path], None], told: str) -> None:
    dicom(tmp_path / "series", VOXELS, ASCENDING)
    pngs(tmp_path / "Ground", GREYS, png_names(ASCENDING))
    spoil(tmp_path)
    with pytest.raises(CrossmodError, match=told) as error:
        read_label_stack(tmp_path / "Ground", tmp_path / "series")
    assert "\n" not in str(error.value)


def test_the_checksum() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of the specification
    for length in (0, 1, 5, 8192, 32767, 32768, 32769, 40000, 70001):
        data = RANDOM.bytes(length)
        assert crc32c(data) == slow_crc32c(data), length


def test_records_of_all_kinds(tmp_path: Path) -> None:
    first = {"bytes": b"\x00\xff" * 300, "number": 256, "large": 2**40, "floats": [0.5, -2.0]}
    path = tfrecord(tmp_path / "a.tfrecords", example(first), example({"number": 0}))
    assert read_examples(path) == [first, {"number": 0}]


def test_a_wrong_record_with_right_checksums(tmp_path: Path) -> None:
    for number, record in enumerate((b"\x0b", b"\x0a\x05\x0a\x7f\x00\x00\x00", b"\x08\x80\x80", b"\x0a\x01\xff")):
        with pytest.raises(CrossmodError, match="cannot be read"):
            read_examples(tfrecord(tmp_path / f"{number}.tfrecords", record))


SLICES = RANDOM.normal(size=(12, 10, 3)).astype(np.float32)
SLICE_LABELS = RANDOM.integers(0, 6, (12, 10, 3))


def test_a_slice_record_gives_its_middle_slice(tmp_path: Path) -> None:
    image, label = read_slice_record(sifa_slice(tmp_path / "ct_train_slice0.tfrecords", SLICES, SLICE_LABELS))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), SLICES[None, :, :, 1])
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label), SLICE_LABELS[None, :, :, 1])


def test_a_test_volume_is_turned_back(tmp_path: Path) -> None:
    volume, labels = RANDOM.normal(size=(6, 5, 4)), RANDOM.integers(0, 5, (6, 5, 4))
    np.savez(tmp_path / "ct_1003.npz", volume, labels)
    image, label = (sitk.GetArrayFromImage(part) for part in read_npz_volume(tmp_path / "ct_1003.npz"))
    for z in range(4):
        np.testing.assert_array_equal(image[z], volume[::-1, ::-1, z].astype(np.float32))
        np.testing.assert_array_equal(label[z], labels[::-1, ::-1, z])


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (lambda: (SLICES[..., :2], SLICE_LABELS), "is not of size"),
        (lambda: (SLICES, SLICE_LABELS + 0.5), "no whole numbers"),
    ],
)
def test_wrong_slice_records(tmp_path: Path, record: Callable[[], Any], told: str) -> None:
    with pytest.raises(CrossmodError, match=told):
        read_slice_record(sifa_slice(tmp_path / "ct_train_slice1.tfrecords", *record()))
    with pytest.raises(CrossmodError, match=r"has no data_vol"):
        read_slice_record(tfrecord(tmp_path / "other.tfrecords", example({"image": b"1234"})))
    with pytest.raises(CrossmodError, match="holds 2 records"):
        read_slice_record(tfrecord(tmp_path / "two.tfrecords", example({"a": 1}), example({"a": 1})))


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ([np.zeros((3, 3, 3))], "arr_1"),
        ([np.zeros((3, 3, 3)), np.zeros((3, 3, 2))], "not two equal volumes"),
        ([np.zeros((3, 3)), np.zeros((3, 3))], "not two equal volumes"),
        ([np.zeros((2, 2, 2)), np.full((2, 2, 2), -1)], "no whole numbers"),
        ([np.array([[[{}]]], dtype=object), np.zeros((1, 1, 1))], "cannot be read"),
    ],
)
def test_wrong_test_volumes(tmp_path: Path, arrays: list[Any], told: str) -> None:
    np.savez(tmp_path / "ct_1003.npz", *arrays)
    with pytest.raises(CrossmodError, match=told):
        read_npz_volume(tmp_path / "ct_1003.npz")


# --- damage at seeded places: a clean refusal or a reading, never another exception -------------------------------


def nifti_file(folder: Path) -> tuple[Path, Callable[[], Any]]:
    path = nifti(folder / "a.nii", VOXELS.astype(np.float32))
    return path, lambda: sitk.GetArrayFromImage(read_image(path))


def nifti_gz_file(folder: Path) -> tuple[Path, Callable[[], Any]]:
    path = nifti(folder / "a.nii.gz", VOXELS)
    return path, lambda: sitk.GetArrayFromImage(read_image(path))


def dicom_file(folder: Path) -> tuple[Path, Callable[[], Any]]:
    path = dicom(folder / "series", VOXELS[:2], ASCENDING[:2])[1]
    return path, lambda: sitk.GetArrayFromImage(read_dicom_series(folder / "series"))


def png_file(folder: Path) -> tuple[Path, Callable[[], Any]]:
    dicom(folder / "series", VOXELS[:2], ASCENDING[:2])
    path = pngs(folder / "Ground", GREYS[:2], png_names(ASCENDING[:2]))[1]
    return path, lambda: sitk.GetArrayFromImage(read_label_stack(folder / "Ground", folder / "series"))


def record_file(folder: Path) -> tuple[Path, Callable[[], Any]]:
    path = sifa_slice(folder / "ct_train_slice0.tfrecords", SLICES, SLICE_LABELS)
    return path, lambda: [sitk.GetArrayFromImage(part) for part in read_slice_record.__wrapped__(path)]


def npz_file(folder: Path) -> tuple[Path, Callable[[], Any]]:
    np.savez_compressed(folder / "ct_1003.npz", VOXELS, GREYS)
    path = folder / "ct_1003.npz"
    return path, lambda: [sitk.GetArrayFromImage(part) for part in read_npz_volume.__wrapped__(path)]


# Formats with a checksum over every voxel: whatever still reads must read as before.
CHECKED = (nifti_gz_file, record_file, npz_file)


@pytest.mark.parametrize("make", [nifti_file, nifti_gz_file, dicom_file, png_file, record_file, npz_file])
def test_damaged_files(tmp_path: Path, make: Callable[[Path], tuple[Path, Callable[[], Any]]]) -> None:
    path, read = make(tmp_path)
    whole, content = read(), path.read_bytes()
    random = np.random.default_rng(1)
    refusals = []
    for attempt in range(60 if make is png_file else 150):  # a stack takes long to read
        if attempt % 3 == 0:
            damaged = bytearray(content[: int(random.integers(0, len(content)))])
        else:
            damaged = bytearray(content)
            # Headers are short and fragile: half of the damage goes there.
            end = min(len(content), 400) if attempt % 2 else len(content)
            for place in random.integers(0, end, int(random.integers(1, 5))):
                damaged[place] ^= int(random.integers(1, 256))
        path.write_bytes(damaged)
        try:
            found = read()
        except CrossmodError as error:
            refusals.append(str(error))
        else:
            if make in CHECKED:
                np.testing.assert_array_equal(found, whole)
    assert len(refusals) > 15
    assert all(str(tmp_path) in told and "\n" not in told for told in refusals)
