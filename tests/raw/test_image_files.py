"""What a NIfTI header means: read as nibabel, the independent reader, sees it, or refused in the words of its cause."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.raw.image_files import (
    aligned,
    axis_codes,
    check_same_grid,
    onto_grid,
    read_image,
    read_with_notes,
    save_image,
    turned,
)

AFFINE = np.array([[-1.3, 0, 0, 20], [0, -1.3, 0, 30], [0, 0, 5, -40], [0, 0, 0, 1.0]])
VOXELS = np.random.default_rng(0).integers(1, 900, (6, 7, 4)).astype(np.int16)


def save(
    path: Path, voxels: Any = VOXELS, affine: Any = AFFINE, unit: str = "mm", kind: Any = nibabel.Nifti1Image
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = kind(voxels, affine)
    image.header.set_xyzt_units(unit)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.to_filename(path)
    return path


def patch(path: Path, at: int, *values: float) -> Path:
    """Overwrite numbers of the header."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[at : at + 4 * len(values)] = struct.pack(f"<{len(values)}f", *values)
    path.write_bytes(gzip.compress(bytes(content)))
    return path


def points(image: sitk.Image, index: Any) -> Any:
    """Places (n, 3) of voxels in mm, as nibabel gives them (RAS)."""
    return np.array([image.TransformIndexToPhysicalPoint(place.tolist()) for place in index]) * (-1, -1, 1)


def random_affine(random: np.random.Generator) -> Any:
    """Oblique, flipped, permuted, anisotropic."""
    axes, _ = np.linalg.qr(random.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = axes * random.uniform(0.3, 9, 3)
    affine[:3, 3] = random.uniform(-300, 300, 3)
    return affine


@pytest.mark.parametrize("seed", range(12))
def test_voxels_stay_where_nibabel_sees_them(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    affine, shape = random_affine(random), tuple(random.integers(2, 9, 3))
    voxels = random.integers(-900, 900, shape).astype(np.int16)
    # Units that many readers overlook, an axis behind, other types of numbers: in turn.
    unit, factor = [("mm", 1.0), ("micron", 1000.0), ("meter", 0.001)][seed % 3]
    kind = [nibabel.Nifti1Image, nibabel.Nifti2Image][seed % 2]
    stored = voxels[..., None] if seed % 4 == 1 else voxels
    path = save(tmp_path / "a.nii.gz", stored, np.diag([factor, factor, factor, 1]) @ affine, unit, kind)
    reading = read_with_notes(path)
    assert bool(reading.notes) == (unit != "mm" or kind is nibabel.Nifti2Image or stored.ndim > 3)
    index = random.integers(0, shape, (20, 3))
    np.testing.assert_allclose(points(reading.image, index), nibabel.affines.apply_affine(affine, index), atol=1e-3)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(reading.image), voxels.T)
    save_image(reading, path, tmp_path / "b.nii.gz", lambda file, place: place.write_bytes(file.read_bytes()))
    again = nibabel.load(tmp_path / "b.nii.gz")
    np.testing.assert_allclose(
        nibabel.affines.apply_affine(again.affine, index), points(reading.image, index), atol=1e-3
    )
    np.testing.assert_array_equal(np.asanyarray(again.dataobj), voxels)


def other_sform(path: Path) -> Path:
    image = nibabel.Nifti1Image(VOXELS, AFFINE)
    image.set_qform(AFFINE, 1)
    image.set_sform(np.diag([-1, -1, 1, 1]), 1)
    image.to_filename(path)
    return path


def no_codes(path: Path) -> Path:
    content = bytearray(gzip.decompress(save(path).read_bytes()))
    content[252:256] = bytes(4)
    path.write_bytes(gzip.compress(bytes(content)))
    return path


def plain(path: Path) -> Path:
    path.write_bytes(gzip.decompress(save(path).read_bytes()))
    return path


def nearly_right(path: Path) -> Path:
    affine = AFFINE.copy()
    affine[0, 1] = 0.004
    image = nibabel.Nifti1Image(VOXELS, affine)
    image.set_sform(affine, 2)
    image.header["qform_code"] = 0
    image.to_filename(path)
    return path


@pytest.mark.parametrize(
    ("make", "note"),
    [
        (other_sform, "sform and qform disagree, the qform was taken"),
        (no_codes, "no orientation in its header"),
        (plain, "not compressed"),
        (nearly_right, "not quite at right angles"),
        (lambda path: patch(save(path), 112, 0.0, 37.0), "an intercept without slope"),
        (lambda path: patch(save(path), 80, -1.3, -1.3, 5.0), "negative voxel sizes"),
    ],
)
def test_what_readers_would_see_otherwise_is_noted(make: Callable[[Path], Path], note: str, tmp_path: Path) -> None:
    reading = read_with_notes(make(tmp_path / "a.nii.gz"))
    assert note in "; ".join(reading.notes)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(reading.image), VOXELS.T)
    np.testing.assert_allclose(reading.image.GetSpacing(), (1.3, 1.3, 5), atol=1e-4)
    assert axis_codes(reading.image) == "LPS"
    place = tmp_path / "b.nii.gz"
    save_image(reading, tmp_path / "a.nii.gz", place, lambda file, copy: pytest.fail("copied"))
    header = nibabel.load(place).header
    np.testing.assert_allclose(header.get_sform(coded=True)[0], header.get_qform(coded=True)[0], atol=1e-4)
    assert read_with_notes(place).notes == ()


def test_an_ordinary_file_is_shared_as_it_is(tmp_path: Path) -> None:
    shared = []
    path = save(tmp_path / "a.NII.GZ").rename(tmp_path / "A.NII.GZ")
    save_image(read_with_notes(path), path, tmp_path / "b.nii.gz", lambda *files: shared.append(files))
    assert shared == [(path, tmp_path / "b.nii.gz")]


COLOURS = np.zeros((3, 3, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
SHEARED = AFFINE + np.array([[0, 0.3, 0, 0], [0] * 4, [0] * 4, [0] * 4])


def sheared(path: Path) -> Path:
    image = nibabel.Nifti1Image(VOXELS, SHEARED)
    image.header["qform_code"] = 0
    image.to_filename(path)
    return path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda path: save(path, (VOXELS * (1 + 1j)).astype(np.complex64)),
            "holds complex numbers: save their magnitude",
        ),
        (lambda path: save(path, COLOURS), "is a colour picture"),
        (lambda path: save(path, VOXELS[:, :, 0]), "is 2D (6 x 7), a single slice"),
        (lambda path: save(path, np.stack([VOXELS] * 2, -1)), "choose it with --frame"),
        (sheared, "not at right angles, by 0.61"),
    ],
)
def test_refusals_fit_their_cause(make: Callable[[Path], Path], says: str, tmp_path: Path) -> None:
    with pytest.raises(CrossmodError) as error:
        read_image(make(tmp_path / "a.nii.gz"))
    assert says in str(error.value)
    assert "truncated" not in str(error.value)
    assert "\n" not in str(error.value)


def test_one_volume_of_a_4d_file_or_of_channels(tmp_path: Path) -> None:
    volumes = np.stack([VOXELS, 2 * VOXELS], -1)
    for path in (save(tmp_path / "a.nii.gz", volumes), tmp_path / "b.nrrd"):
        if path.suffix == ".nrrd":
            sitk.WriteImage(sitk.GetImageFromArray(volumes.transpose(2, 1, 0, 3), isVector=True), str(path))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read_image(path, 1)), 2 * VOXELS.T)
        with pytest.raises(CrossmodError, match=r"has 2 volumes, not one of number 2"):
            read_image(path, 2)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SLP", "PIR"])
def test_a_label_map_in_another_voxel_order_is_turned(codes: str, tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "a.nii.gz"))
    label = nibabel.Nifti1Image(VOXELS, AFFINE)
    label.as_reoriented(ornt_transform(io_orientation(AFFINE), axcodes2ornt(codes))).to_filename(tmp_path / "b.nii.gz")
    found = turned(image, read_image(tmp_path / "b.nii.gz"))
    check_same_grid(image, found, "a", "b")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), VOXELS.T)


def test_a_box_of_the_grid_is_put_in_its_place(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "a.nii.gz"))
    box = sitk.DICOMOrient(image[1:4, 2:7, 1:3], "RAS")
    expected = np.zeros_like(VOXELS)
    expected[1:4, 2:7, 1:3] = VOXELS[1:4, 2:7, 1:3]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(aligned(image, box)), expected.T)
    box.SetOrigin(np.add(box.GetOrigin(), (0.4, 0, 0)).tolist())
    assert aligned(image, box) is box
    with pytest.raises(CrossmodError, match=r"corners up to [\d.]+ mm apart: resample"):
        check_same_grid(image, box, "a", "b")


def test_labels_of_another_grid_are_those_of_the_nearest_place(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "a.nii.gz"))
    fine = sitk.Resample(
        image,
        [12, 14, 4],
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
        image.GetOrigin(),
        (0.65, 0.65, 5),
        image.GetDirection(),
    )
    np.testing.assert_array_equal(sitk.GetArrayFromImage(onto_grid(fine, image, "b")), VOXELS.T)
    fine.SetOrigin((900, 0, 0))
    with pytest.raises(CrossmodError, match="labels nothing within its image"):
        onto_grid(fine, image, "b")
