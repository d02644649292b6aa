"""Where the voxels of a DICOM series lie: tilted gantries, uneven slices, and files without an ending."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from fabricate import COLUMN, ORIGIN, ROW, SPACING, dicom, labels, nifti, pngs, read, voxels

from nnunet_crossmod.cli import main
from nnunet_crossmod.dataset_conversion.dicom_series import is_dicom_folder, read_dicom_series, read_label_stack
from nnunet_crossmod.errors import CrossmodError

NUMBER, ROWS, COLUMNS = 9, 20, 24
STRAIGHT = [(ORIGIN[0], ORIGIN[1], ORIGIN[2] + z * SPACING[2]) for z in range(NUMBER)]
NAMES = [f"I{10 * z}" for z in range(NUMBER)]


def field(points: Any) -> Any:
    """A value at each point (…, 3) in mm, linear in the position: linear interpolation keeps it exactly."""
    return 2000 + (np.asarray(points) - ORIGIN) @ np.array([7.0, -9.0, 5.0])


def plane_points(position: Any) -> Any:
    """The points (rows, columns, 3) of the pixels of a slice."""
    columns = np.arange(COLUMNS)[None, :, None] * SPACING[0] * np.asarray(ROW)
    return np.asarray(position) + columns + np.arange(ROWS)[:, None, None] * SPACING[1] * np.asarray(COLUMN)


def image_points(image: sitk.Image) -> Any:
    """The points (z, y, x, 3) of the voxels of an image."""
    index = np.stack(np.meshgrid(*map(np.arange, image.GetSize()), indexing="ij"), axis=-1)
    matrix = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    return (index @ matrix.T + image.GetOrigin()).transpose(2, 1, 0, 3)


def series_at(folder: Path, positions: Any, **tags: str) -> Path:
    """A series whose slices lie at some positions and show the field."""
    planes = np.stack([np.round(field(plane_points(position))) for position in positions])
    dicom(folder, planes, NAMES[: len(positions)], positions=positions, **tags)
    return folder


def tilted(degrees: float) -> list[Any]:
    """Slices of a gantry that is tilted: the table moves along z, the slices are turned about their rows."""
    drift = SPACING[2] * np.tan(np.radians(degrees))
    return [np.asarray(position) + z * drift * np.asarray(COLUMN) for z, position in enumerate(STRAIGHT)]


def is_upright(image: sitk.Image) -> bool:
    direction = np.reshape(image.GetDirection(), (3, 3))
    return bool(np.allclose(direction.T @ direction, np.eye(3), atol=1e-6))


@pytest.mark.parametrize("degrees", [12.0, -20.0, 3.0])
def test_a_tilted_series_is_resampled_to_where_its_voxels_are(
    tmp_path: Path, degrees: float, capsys: pytest.CaptureFixture[str]
) -> None:
    image = read_dicom_series(series_at(tmp_path / "series", tilted(degrees)))
    assert is_upright(image)
    assert (image.GetSize()[0], image.GetSize()[2]) == (COLUMNS, NUMBER)
    np.testing.assert_allclose(image.GetSpacing(), SPACING, atol=1e-4)
    values, points = sitk.GetArrayFromImage(image), image_points(image)
    along = np.stack(
        [(plane - start) @ np.asarray(COLUMN) for plane, start in zip(points, tilted(degrees), strict=True)]
    )
    inside = (along > -1e-3) & (along < (ROWS - 1) * SPACING[1] + 1e-3)
    assert inside.sum() >= NUMBER * (ROWS - 1) * COLUMNS
    np.testing.assert_allclose(values[inside], field(points)[inside], atol=1.1)  # voxels are whole numbers
    assert np.all(values[(along < -SPACING[1]) | (along > ROWS * SPACING[1])] == values.min())  # what no slice covers
    (line,) = capsys.readouterr().out.strip().splitlines()
    assert f"gantry tilt of {abs(degrees):.1f}° resampled onto upright slices" in line
    assert "linear interpolation" in line
    sitk.WriteImage(image, str(tmp_path / "image.nii.gz"))
    written = sitk.ReadImage(str(tmp_path / "image.nii.gz"))
    np.testing.assert_allclose(image_points(written), image_points(image), atol=1e-2)


def test_the_labels_of_a_tilted_series_follow_it(tmp_path: Path) -> None:
    series = series_at(tmp_path / "series", tilted(15.0))
    image = read_dicom_series(series)
    stack = np.zeros((NUMBER, ROWS, COLUMNS))
    # A box that the slices show where it stands upright in the scanner.
    for z, position in enumerate(tilted(15.0)):
        along = (plane_points(position) - ORIGIN) @ np.asarray(COLUMN)
        stack[z] = np.where((along > 9) & (along < 18), 63, 0)
    pngs(tmp_path / "Ground", stack, [f"{name}.png" for name in NAMES])
    label = read_label_stack(tmp_path / "Ground", series)
    assert label.GetSize() == image.GetSize()
    assert label.GetOrigin() == image.GetOrigin()
    values = sitk.GetArrayFromImage(label)
    along = (image_points(label) - ORIGIN) @ np.asarray(COLUMN)
    assert set(np.unique(values)) == {0, 63}
    off = np.abs(along[values > 0] - 13.5) - 4.5
    assert off.max() <= SPACING[1] / 2 + 1e-3
    assert (values > 0).sum() == pytest.approx((stack > 0).sum(), rel=0.1)


def test_rounded_positions_are_no_tilt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    positions = np.round(np.asarray(STRAIGHT) + np.random.default_rng(0).normal(0, 0.004, (NUMBER, 3)), 3)
    image = read_dicom_series(series_at(tmp_path / "series", positions))
    assert is_upright(image)
    assert image.GetSize() == (COLUMNS, ROWS, NUMBER)
    assert capsys.readouterr().out == ""


def test_slices_shifted_without_a_tilt_are_refused(tmp_path: Path) -> None:
    positions = [np.asarray(p) + (z % 2) * np.asarray(ROW) for z, p in enumerate(STRAIGHT)]
    with pytest.raises(CrossmodError, match=r"series are shifted sideways against each other"):
        read_dicom_series(series_at(tmp_path / "series", positions))


def uneven() -> list[Any]:
    heights = np.array([0.0, 5.45, 10.45, 15.45, 20.45, 25.45, 30.45, 35.45, 40.45])
    return [(ORIGIN[0], ORIGIN[1], ORIGIN[2] + height) for height in heights]


def test_uneven_slices_are_refused_and_their_gap_named(tmp_path: Path) -> None:
    with pytest.raises(CrossmodError) as error:
        read_dicom_series(series_at(tmp_path / "series", uneven()))
    assert "I0 and I10 are 5.45 mm apart, other slices 5 mm" in str(error.value)
    assert "--resample-uneven" in str(error.value)
    assert "\n" not in str(error.value)


def test_uneven_slices_are_interpolated_on_demand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = read_dicom_series(series_at(tmp_path / "series", uneven()), resample_uneven=True)
    np.testing.assert_allclose(sitk.GetArrayFromImage(image), field(image_points(image)), atol=1.1)
    assert image.GetSpacing()[2] == pytest.approx(40.45 / 8, abs=1e-3)
    assert "slices interpolated linearly between neighbours" in capsys.readouterr().out


def test_gaps_that_wander_a_little_are_put_on_their_mean(tmp_path: Path) -> None:
    positions = [np.asarray(p) + np.array([0, 0, 0.1 * (-1) ** z]) for z, p in enumerate(STRAIGHT)]
    image = read_dicom_series(series_at(tmp_path / "series", positions))
    heights = image_points(image)[:, 0, 0, 2]
    assert np.abs(heights - np.asarray(positions)[:, 2]).max() < 0.15


def test_every_slice_is_rescaled_by_its_own_header(tmp_path: Path) -> None:
    files = dicom(tmp_path / "series", voxels(1), NAMES[: len(voxels(1))], **{"0028|1053": "1", "0028|1052": "0"})
    slope = b"\x28\x00\x53\x10\x02\x00\x00\x00"
    for file in files[1:]:
        content = file.read_bytes()
        assert slope + b"1 " in content
        file.write_bytes(content.replace(slope + b"1 ", slope + b".5"))
    values = sitk.GetArrayFromImage(read_dicom_series(tmp_path / "series"))
    np.testing.assert_array_equal(values[0], voxels(1)[0])
    np.testing.assert_array_equal(values[1:], voxels(1)[1:] / 2)


def test_the_longest_even_part_is_kept_on_demand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = read_dicom_series(series_at(tmp_path / "series", uneven()), keep_even=True)
    assert image.GetSize()[2] == NUMBER - 1
    np.testing.assert_allclose(sitk.GetArrayFromImage(image), field(image_points(image)), atol=0.6)
    assert "8 of 9 slices kept, I10 to I80" in capsys.readouterr().out
    assert read_dicom_series(series_at(tmp_path / "even", STRAIGHT), keep_even=True).GetSize()[2] == NUMBER


@pytest.mark.parametrize("slope", ["1 ", ".5"])
def test_slices_stored_light_on_dark_keep_their_values(tmp_path: Path, slope: str) -> None:
    tags = {"0028|1053": "1", "0028|1052": "-10"}
    for file in dicom(tmp_path / "series", voxels(1), NAMES[: len(voxels(1))], **tags):
        content = file.read_bytes().replace(b"MONOCHROME2", b"MONOCHROME1")
        slope_tag = b"\x28\x00\x53\x10\x02\x00\x00\x00"
        file.write_bytes(content.replace(slope_tag + b"1 ", slope_tag + slope.encode()))
    values = sitk.GetArrayFromImage(read_dicom_series(tmp_path / "series"))
    stored = voxels(1) + 10  # what the writer put into the file
    np.testing.assert_array_equal(values, stored * float(slope) - 10)


def test_two_echoes_in_one_series_are_told_apart(tmp_path: Path) -> None:
    series_at(tmp_path / "series", STRAIGHT, **{"0018|0081": "20"})
    dicom(
        tmp_path / "series",
        np.zeros((NUMBER, ROWS, COLUMNS)),
        [f"J{10 * z}" for z in range(NUMBER)],
        positions=STRAIGHT,
        **{"0018|0081": "90"},
    )
    with pytest.raises(CrossmodError, match="lie at one position, with the echo times 20, 90 ms: move the files"):
        read_dicom_series(tmp_path / "series")


def test_a_multi_frame_file_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(voxels(1).astype(np.uint16)), str(tmp_path / "series" / "a.dcm"))
    with pytest.raises(CrossmodError, match=r"a\.dcm is a multi-frame DICOM file of 4 slices .*dcm2niix"):
        read_dicom_series(tmp_path / "series")


def test_a_folder_with_a_directory_alone_is_no_series(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    head = b"\x02\x00\x02\x00UI\x16\x001.2.840.10008.1.3.10\x00\x00"
    (tmp_path / "export" / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + head + bytes(300))
    assert not is_dicom_folder(tmp_path / "export")
    series_at(tmp_path / "export" / "PAT" / "ST1" / "SE1", STRAIGHT)
    assert read_dicom_series(tmp_path / "export").GetSize()[2] == NUMBER


def test_a_single_slice_is_as_thick_as_its_header_says(tmp_path: Path) -> None:
    image = read_dicom_series(series_at(tmp_path / "series", STRAIGHT[:1], **{"0018|0050": "3.5"}))
    assert image.GetSpacing()[2] in (3.5, SPACING[2])
    assert image.GetSize()[2] == 1


# --- which files, which series -----------------------------------------------------------------------------------


def report(path: Path) -> None:
    """A structured report: DICOM without an image."""
    path.write_bytes(bytes(128) + b"DICM" + b"\x02\x00\x02\x00UI\x1e\x001.2.840.10008.5.1.4.1.1.88.22\x00" + bytes(300))


def test_files_without_an_ending_are_found_by_content(tmp_path: Path) -> None:
    series_at(tmp_path / "series", STRAIGHT)
    (tmp_path / "series" / "LICENSE").write_text("free" * 100)
    (tmp_path / "series" / "._I10").write_bytes(b"\x00\x05\x16\x07")
    report(tmp_path / "series" / "SR0001")
    assert is_dicom_folder(tmp_path / "series")
    assert not is_dicom_folder(tmp_path)
    image = read_dicom_series(tmp_path / "series")
    assert image.GetSize() == (COLUMNS, ROWS, NUMBER)
    np.testing.assert_allclose(sitk.GetArrayFromImage(image), field(image_points(image)), atol=0.6)


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    report(tmp_path / "series" / "SR0001")
    with pytest.raises(CrossmodError, match="series holds no DICOM image, only reports"):
        read_dicom_series(tmp_path / "series")


def two_series(folder: Path) -> Path:
    series_at(folder, STRAIGHT, **{"0008|103e": "T2 TSE sag"})
    names = [f"J{z}" for z in range(4)]
    dicom(folder, voxels(0), names, uid="1.2.826.0.1.3680043.2.1125.8", **{"0008|103e": "Localizer"})
    return folder


def test_series_are_chosen_by_description_and_never_mixed(tmp_path: Path) -> None:
    folder = two_series(tmp_path / "series")
    with pytest.raises(CrossmodError) as error:
        read_dicom_series(folder)
    assert "holds 2 DICOM series of [4, 9] files (J0 is of the smallest)" in str(error.value)
    assert "'T2 TSE sag', 'Localizer': move each series" in str(error.value)
    for wanted in ("T2 TSE sag", "t2*"):
        assert read_dicom_series(folder, wanted).GetSize()[2] == NUMBER
    assert read_dicom_series(folder, "*local*").GetSize()[2] == 4
    for wanted, number in (("T1*", 0), ("*", 2)):
        with pytest.raises(CrossmodError, match=rf"holds {number} series described as .* among 'T2 TSE sag'"):
            read_dicom_series(folder, wanted)


def test_the_command_reads_series_without_endings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "raw").mkdir(exist_ok=True)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        nifti(tmp_path / "mr" / f"p{number}.nii.gz", voxels(number))
        nifti(tmp_path / "seg" / f"p{number}.nii.gz", labels(number, (1,)))
        two_series(tmp_path / "ct" / f"q{number}")
    series_at(tmp_path / "tilted" / "q7", tilted(10.0))
    command = ["convert", "folders", "-d", "53", "--images", "MR=mr", "CT=ct", "CT=tilted", "--label-files", "MR=seg"]
    command += ["--labels", "liver=1"]
    assert main(command) == 1
    assert "choose one with --series" in capsys.readouterr().err
    assert main([*command, "--series", "CT=T2*"]) == 0
    written = tmp_path / "raw" / "Dataset053_Folders"
    assert {"q0_CT", "q1_CT", "q2_CT", "q7_CT"} < set(read(written)[1].cases)
    images = {name: sitk.ReadImage(str(written / "imagesTr" / f"{name}_0000.nii.gz")) for name in ("q0_CT", "q7_CT")}
    assert images["q0_CT"].GetSize() == (COLUMNS, ROWS, NUMBER)
    assert images["q7_CT"].GetSize()[1] > ROWS
    assert "q7: gantry tilt of 10.0°" in capsys.readouterr().out
