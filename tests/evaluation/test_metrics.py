"""Metrics against shapes whose distances are known, against loops, and against what may go wrong."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.evaluation import dice_per_structure, evaluate_folder, measure, printed, summarise, summary

LABELS = {"a": 1, "b": 2, "c": 3, "d": 4}
SPACING = (5.0, 2.0, 0.5)


def box(shape: tuple[int, ...], *corners: tuple[int, int]) -> np.ndarray:
    volume = np.zeros(shape, np.uint8)
    volume[tuple(slice(first, last) for first, last in corners)] = 1
    return volume


def surface(mask: np.ndarray) -> list[tuple[int, ...]]:
    """Voxels of a mask with a face neighbour outside it, also outside the image."""
    found = []
    for voxel in map(tuple, np.argwhere(mask)):
        for axis, step in product(range(mask.ndim), (-1, 1)):
            neighbour = list(voxel)
            neighbour[axis] += step
            inside = all(0 <= n < size for n, size in zip(neighbour, mask.shape, strict=True))
            if not inside or not mask[tuple(neighbour)]:
                found.append(voxel)
                break
    return found


def nearest(of: list[tuple[int, ...]], to: list[tuple[int, ...]], spacing: tuple[float, ...]) -> list[float]:
    return [
        min(sum(((p - q) * s) ** 2 for p, q, s in zip(one, other, spacing, strict=True)) ** 0.5 for other in to)
        for one in of
    ]


@pytest.mark.parametrize(("shape", "spacing"), [((7, 9), (2.0, 0.5)), ((4, 6, 7), SPACING), ((1, 7, 9), SPACING)])
def test_distances_equal_a_loop_over_surface_voxels(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    generator = np.random.default_rng(0)
    maps = [generator.integers(0, 3, shape) * (generator.random(shape) < 0.6) for _ in range(2)]
    flat = [volume[0] if shape[0] == 1 else volume for volume in maps]
    scores = measure(*maps, {"a": 1, "b": 2}, spacing)
    for score, value in zip(scores, (1, 2), strict=True):
        sides = [surface(volume == value) for volume in flat]
        in_plane = spacing[-flat[0].ndim :]
        forth, back = nearest(sides[0], sides[1], in_plane), nearest(sides[1], sides[0], in_plane)
        assert score.status == "scored"
        assert score.hd95 == pytest.approx(max(np.percentile(forth, 95), np.percentile(back, 95)), rel=1e-5)
        assert score.assd == pytest.approx(sum(forth + back) / len(forth + back), rel=1e-5)
        p, r = maps[0] == value, maps[1] == value
        assert score.dice == pytest.approx(2 * (p & r).sum() / (p.sum() + r.sum()))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shifted_plate_is_as_far_as_it_was_shifted(axis: int) -> None:
    """Two plates, one voxel thick, apart by k voxels: every distance is k times the spacing of that axis."""
    shape, k = (12, 12, 12), 4
    corners = [(0, 12)] * 3
    maps = []
    for at in (3, 3 + k):
        corners[axis] = (at, at + 1)
        maps.append(box(shape, *corners))
    (score,) = measure(*maps, {"a": 1}, SPACING, tolerance=0.1)
    assert score.hd95 == score.assd == pytest.approx(k * SPACING[axis])
    assert score.dice == 0
    assert score.status == "scored"


def test_balls_of_two_radii_are_the_difference_apart() -> None:
    spacing, centre = (2.0, 1.0, 1.0), (24.0, 24.0, 24.0)
    places = np.stack(
        np.meshgrid(*(np.arange(size) * s for size, s in zip((25, 49, 49), spacing, strict=True)), indexing="ij")
    )
    radius = np.linalg.norm(places - np.reshape(centre, (3, 1, 1, 1)), axis=0)
    small, large = radius <= 12, radius <= 18
    (score,) = measure(small.astype(int), large.astype(int), {"a": 1}, spacing, tolerance=8.0)
    assert score.hd95 == pytest.approx(6, abs=1.0)
    assert score.assd == pytest.approx(6, abs=0.7)
    assert score.dice == pytest.approx(2 * 12**3 / (12**3 + 18**3), abs=0.02)
    assert score.nsd == 1
    (tight,) = measure(small.astype(int), large.astype(int), {"a": 1}, spacing, tolerance=3.0)
    assert tight.nsd == 0


def test_surface_dice_weighs_area() -> None:
    """A slab grown by 3 mm at one face: that face, and the rim between, are out of a tolerance of 1 mm."""
    reference, prediction = box((30, 14, 14), (5, 10), (2, 12), (2, 12)), box((30, 14, 14), (5, 13), (2, 12), (2, 12))
    (score,) = measure(prediction, reference, {"a": 1}, (1.0, 2.0, 2.0), tolerance=1.0)
    face, rim = 20 * 20, 4 * 20  # mm² of a face, and of the four sides a mm of thickness
    whole = [2 * face + rim * thickness for thickness in (5, 8)]
    within = [face + rim * 5, face + rim * (5 + 1)]
    assert score.nsd == pytest.approx(sum(within) / sum(whole), abs=0.05)


def test_what_surrounds_a_structure_changes_nothing() -> None:
    generator = np.random.default_rng(1)
    maps = [generator.integers(0, 2, (4, 6, 6)) for _ in range(2)]
    padded = [np.pad(volume, 5) for volume in maps]
    assert measure(*maps, {"a": 1}, SPACING) == measure(*padded, {"a": 1}, SPACING)


def test_metrics_are_symmetric() -> None:
    generator = np.random.default_rng(2)
    maps = [generator.integers(0, 2, (4, 6, 6)) for _ in range(2)]
    assert measure(*maps, {"a": 1}, SPACING) == measure(*maps[::-1], {"a": 1}, SPACING)


def test_missed_invented_and_absent() -> None:
    prediction, reference = (box((4, 6, 6), (1, 3), (1, 3), (1, 3)) for _ in range(2))
    reference[3, 5, 5], prediction[0, 0, 0] = 2, 3
    a, b, c, d = measure(prediction, reference, LABELS, SPACING)
    diagonal = ((4 * 5) ** 2 + (6 * 2) ** 2 + (6 * 0.5) ** 2) ** 0.5
    assert [score.status for score in (a, b, c, d)] == ["scored", "missed", "invented", "absent"]
    for score in (b, c):
        assert (score.dice, score.nsd) == (0, 0)
        assert score.hd95 == score.assd == pytest.approx(diagonal)
    assert np.isnan(d[2:]).all()
    assert a[2:] == (1, 0, 0, 1)


def test_voxels_that_are_ignored_do_not_count() -> None:
    reference = box((4, 6, 6), (1, 3), (1, 3), (1, 3))
    prediction = reference.copy()
    reference[:, :, 4:] = 9
    prediction[:, :, 4:] = 1
    (score,) = measure(prediction, reference, {"a": 1}, SPACING, ignore=9)
    assert score[2:] == (1, 0, 0, 1)
    (nothing,) = measure(prediction, np.full_like(reference, 9), {"a": 1}, SPACING, ignore=9)
    assert nothing.status == "absent"


def test_shapes_that_do_not_fit_are_refused() -> None:
    for shapes, spacing in ((((2, 3), (2, 4)), (1, 1)), (((2, 3), (2, 3)), (1, 1, 1)), (((3,), (3,)), (1,))):
        with pytest.raises(ValueError, match="one shape"):
            measure(*(np.ones(shape, int) for shape in shapes), {"a": 1}, spacing)


def test_dice_equals_its_definition_and_says_missed_invented_absent() -> None:
    generator = np.random.default_rng(0)
    prediction, reference = (generator.integers(0, 3, (4, 8, 8)) for _ in range(2))
    prediction[0, 0, 0] = 3  # invented
    dice = dice_per_structure(prediction, reference, LABELS)
    for name in ("a", "b"):
        p, r = prediction == LABELS[name], reference == LABELS[name]
        assert dice[name] == pytest.approx(2 * (p & r).sum() / (p.sum() + r.sum()))
    assert dice["c"] == 0
    assert np.isnan(dice["d"])
    assert dice_per_structure(reference, prediction, LABELS)["c"] == 0


def write(file: Path, values: np.ndarray, spacing: tuple[float, float, float] = (1, 1, 1)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(values.astype(np.uint8))
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(file))


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_folders_are_compared_case_by_case(tmp_path: Path, processes: int) -> None:
    one, half = box((2, 4, 4), (0, 1), (0, 2), (0, 4)), box((2, 4, 4), (0, 1), (0, 1), (0, 4))
    for case, prediction in (("x", one), ("y", half), ("z", half), ("w", 0 * one)):
        write(tmp_path / "p" / f"{case}.nii.gz", prediction, (1, 3, 5))
        write(tmp_path / "g" / f"{case}.nii.gz", one, (1, 3, 5))
    write(tmp_path / "p" / "extra.nii.gz", one)
    modalities = {"x": "MR", "y": "CT", "z": "PET", "w": "PET"}
    scores = evaluate_folder(tmp_path / "p", tmp_path / "g", {"a": 1}, modalities, processes=processes)
    table = summarise(scores)
    assert table.loc["MR", "a"] == 1
    assert table.loc["CT", "mean"] == pytest.approx(2 / 3)
    assert table["cases"].to_dict() == {"MR": 1, "CT": 1, "PET": 2}
    by_case = scores.set_index("case")
    assert by_case.loc["y", "hd95"] == 3  # the second row of voxels lies 3 mm away, as the file says
    assert by_case.loc["w", "assd"] == pytest.approx((10**2 + 12**2 + 4**2) ** 0.5)
    told = summary(scores)["PET"]["structures"]["a"]
    assert told["dice"] == {"mean": pytest.approx(1 / 3), "std": pytest.approx((2 / 9) ** 0.5)}
    assert (told["scored"], told["missed"], told["absent"]) == (1, 1, 0)


def test_absent_structures_are_counted_and_enter_no_mean() -> None:
    def row(case: str, structure: str, status: str, dice: float) -> dict[str, object]:
        return {"case": case, "modality": "MR", "structure": structure, "status": status, "dice": dice,
                "hd95": dice, "assd": dice, "nsd": dice}  # fmt: skip

    nan = float("nan")
    scores = pd.DataFrame(
        [
            row("x", "a", "scored", 0.5),
            row("x", "b", "absent", nan),
            row("y", "a", "scored", 0.7),
            row("y", "b", "scored", 0.1),
            row("x", "c", "absent", nan),
            row("y", "c", "absent", nan),
        ]
    )
    told = summary(scores)["MR"]["structures"]
    assert told["a"]["dice"]["mean"] == pytest.approx(0.6)
    assert told["b"] == {**{m: {"mean": pytest.approx(0.1), "std": None} for m in ("dice", "hd95", "assd", "nsd")},
                         "scored": 1, "missed": 0, "invented": 0, "absent": 1}  # fmt: skip
    assert told["c"]["dice"] == {"mean": None, "std": None}
    assert told["mean"]["dice"]["mean"] == pytest.approx((0.5 + 0.4) / 2)
    assert told["mean"]["absent"] == 3
    assert "0.600 ± 0.141" in printed(scores, 2.0)


def test_what_cannot_be_compared_is_told(tmp_path: Path) -> None:
    write(tmp_path / "p" / "x.nii.gz", np.zeros((2, 4, 4)))
    write(tmp_path / "g" / "x.nii.gz", np.zeros((2, 4, 5)))
    with pytest.raises(CrossmodError, match="predict the same scan"):
        evaluate_folder(tmp_path / "p", tmp_path / "g", {"a": 1}, {})
    write(tmp_path / "g" / "y.nii.gz", np.zeros((2, 4, 4)))
    with pytest.raises(CrossmodError, match=r"y\.nii\.gz has no prediction"):
        evaluate_folder(tmp_path / "p", tmp_path / "g", {"a": 1}, {})
    with pytest.raises(CrossmodError, match="no case in common"):
        evaluate_folder(tmp_path / "nowhere", tmp_path / "g", {"a": 1}, {})


def test_other_spacings_and_other_label_values_are_told(tmp_path: Path) -> None:
    one = box((2, 4, 4), (0, 1), (0, 2), (0, 4))
    write(tmp_path / "g" / "x.nii.gz", one, (1, 3, 1))
    write(tmp_path / "p" / "x.nii.gz", one, (1, 2, 1))
    with pytest.raises(CrossmodError, match="different grids"):
        evaluate_folder(tmp_path / "p", tmp_path / "g", {"a": 1}, {})
    write(tmp_path / "p" / "x.nii.gz", one * 200, (1, 3, 1))
    with pytest.raises(CrossmodError, match=r"holds the values \[200\]"):
        evaluate_folder(tmp_path / "p", tmp_path / "g", {"a": 1}, {})


def test_values_of_no_structure_and_files_left_out_are_named(tmp_path: Path) -> None:
    one = box((2, 4, 4), (0, 1), (0, 2), (0, 4))
    for name in ("x", "y"):
        write(tmp_path / "g" / f"{name}.nii.gz", one + 4 * (one == 0))
        write(tmp_path / "p" / f"{name}.nii.gz", one + 2 * (one == 0))
    write(tmp_path / "p" / "z.nii.gz", one)
    write(tmp_path / "p" / "w.mha", one)
    (tmp_path / "g" / "._x.nii.gz").write_bytes(b"of a Mac")
    (tmp_path / "p" / "y.nii.gz").rename(tmp_path / "p" / "y.NII.GZ")
    scores = evaluate_folder(tmp_path / "p", tmp_path / "g", {"a": 1, "b": 2}, "MR")
    assert list(scores["dice"]) == [1, 0, 1, 0]
    unused, unknown = scores.attrs["notes"]
    assert "2 files" in unused
    assert "z.nii.gz, w.mha" in unused
    assert "g holds the values [4], of no structure (a=1, b=2): they are not measured" in unknown
    assert f"Warning: {unknown}" in printed(scores, 2.0)
    assert len(evaluate_folder(tmp_path / "p", tmp_path / "g", {"a": 1}, "MR", known=[1, 2, 4]).attrs["notes"]) == 1


def test_predictions_in_another_voxel_order_and_nearly_whole(tmp_path: Path) -> None:
    one = box((2, 4, 5), (0, 1), (0, 2), (0, 4))
    write(tmp_path / "g" / "x.nii.gz", one, (2, 1, 1))
    (tmp_path / "p").mkdir()
    prediction = sitk.DICOMOrient(sitk.ReadImage(str(tmp_path / "g" / "x.nii.gz"), sitk.sitkFloat32), "RAS")
    sitk.WriteImage(prediction * 0.99999, str(tmp_path / "p" / "x.nii.gz"))
    assert list(evaluate_folder(tmp_path / "p", tmp_path / "g", {"a": 1}, "MR")["dice"]) == [1]


def write_pair(folder: Path, prediction: np.ndarray, reference: np.ndarray) -> tuple[Path, Path]:
    for name, values in (("p", prediction), ("g", reference)):
        (folder / name).mkdir(exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(values), str(folder / name / "x.nii.gz"))
    return folder / "p", folder / "g"


def test_voxels_that_are_no_labels_are_told(tmp_path: Path) -> None:
    one = box((2, 4, 4), (0, 1), (0, 2), (0, 4)).astype(np.uint8)
    folders = write_pair(tmp_path, one * np.float32(0.5), one)
    with pytest.raises(CrossmodError, match=r"p/x\.nii\.gz holds 0\.5, which are no whole numbers"):
        evaluate_folder(*folders, {"a": 1}, {})
    folders = write_pair(tmp_path, one * np.float32(0.99999), one)
    assert evaluate_folder(*folders, {"a": 1}, {})["dice"].tolist() == [1]
    folders = write_pair(tmp_path, one * np.uint8(7), one)
    with pytest.raises(CrossmodError, match=r"p/x\.nii\.gz holds the values \[7\]"):
        evaluate_folder(*folders, {"a": 1}, {})


def test_a_structure_that_is_not_named_is_no_mistake_unless_the_label_table_is_whole(tmp_path: Path) -> None:
    one = box((2, 4, 4), (0, 1), (0, 2), (0, 4)).astype(np.uint8)
    two = one + box((2, 4, 4), (1, 2), (0, 2), (0, 4)).astype(np.uint8) * 3
    folders = write_pair(tmp_path, two, two)
    assert len(evaluate_folder(*folders, {"a": 1}, {})) == 1
    with pytest.raises(CrossmodError, match=r"holds the values \[3\]"):
        evaluate_folder(*folders, {"a": 1}, {}, known=[1, 2])


def test_cases_of_one_modality(tmp_path: Path) -> None:
    one = box((2, 4, 4), (0, 1), (0, 2), (0, 4))
    for folder in ("p", "g"):
        write(tmp_path / folder / "x.nii.gz", one)
    write(tmp_path / "g" / "y.nii.gz", one)  # of the other modality, and not predicted
    folders = tmp_path / "p", tmp_path / "g"
    assert evaluate_folder(*folders, {"a": 1}, {"x": "MR", "y": "CT"}, only="MR")["case"].tolist() == ["x"]
    with pytest.raises(CrossmodError, match="no case of PET"):
        evaluate_folder(*folders, {"a": 1}, {"x": "MR", "y": "CT"}, only="PET")
