"""``crossmod modality-channel``: the folder of new scans that gets its modality channel."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from small_scans import BOX, SHAPE, filled, image_of

from nnunet_crossmod.cli import main
from nnunet_crossmod.commands import modality_channel as command
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.inference.modality_channel import add_modality_channel
from nnunet_crossmod.inference.scans import find_cases, unused_files
from nnunet_crossmod.paths import find_dataset_json


class Workplace:
    """A data set with ``channels`` image channels, and a folder of new scans."""

    def __init__(self, root: Path, channels: int = 1) -> None:
        self.scans, self.output, self.root = root / "scans", root / "in", root
        self.scans.mkdir(parents=True)
        names = {str(n): f"image{n}" for n in range(channels)}
        content = {
            "channel_names": {**names, str(channels): "noNorm"},
            "labels": {"background": 0, "A": 1},
            "file_ending": ".nii.gz",
            "crossmod": {
                "modalities": ["mr", "ct"],
                "source": ["mr"],
                "target": ["ct"],
                "cases": {"s_mr": {"modality": "mr", "annotated": "all"}},
            },
        }
        self.dataset_json = root / "dataset.json"
        self.dataset_json.write_text(json.dumps(content))

    def save(self, name: str, image: sitk.Image | None = None) -> Path:
        path = self.scans / name
        sitk.WriteImage(image_of(filled(*BOX)) if image is None else image, str(path))
        return path

    def add(self, modality: str = "ct", **arguments: Any) -> list[str]:
        return add_modality_channel(self.scans, self.output, modality, self.dataset_json, **arguments)

    def fails(self, *told: str, modality: str = "ct", **arguments: Any) -> None:
        """The call fails with one line that holds ``told``, and neither an output nor a rest of one appears."""
        before = sorted(path for path in self.root.rglob("*"))
        with pytest.raises(CrossmodError) as error:
            self.add(modality, **arguments)
        assert [part for part in told if part not in str(error.value)] == [], str(error.value)
        assert "\n" not in str(error.value)
        assert sorted(path for path in self.root.rglob("*")) == before


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


@pytest.fixture
def two_channels(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path, channels=2)


@pytest.mark.parametrize("names", [("a.nii.gz", "b_2019.nii.gz"), ("a_0000.nii.gz", "b_2019_0000.nii.gz")])
def test_scans_get_their_channel(place: Workplace, names: tuple[str, str]) -> None:
    files = [place.save(name) for name in names]
    assert place.add() == ["a", "b_2019"]
    assert sorted(path.name for path in place.output.iterdir()) == [
        f"{case}_{channel}.nii.gz" for case in ("a", "b_2019") for channel in ("0000", "0001")
    ]
    assert (place.output / "a_0000.nii.gz").samefile(files[0])
    channel = sitk.ReadImage(str(place.output / "a_0001.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(channel), filled(*BOX, value=2))


def test_several_channels_share_a_box(two_channels: Workplace) -> None:
    two_channels.save("a_0000.nii.gz")
    two_channels.save("a_0001.nii.gz", image_of(filled(slice(0, 1), slice(0, 1), slice(0, 1))))
    two_channels.add("mr")
    channel = sitk.ReadImage(str(two_channels.output / "a_0002.nii.gz"))
    expected = filled(slice(0, 3), slice(0, 5), slice(0, 6), value=1)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(channel), expected)


def test_files_are_copied_where_links_are_refused(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    file = place.save("a.nii.gz")

    def refuse(*_: Any) -> None:
        raise OSError("cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    place.add()
    copy = place.output / "a_0000.nii.gz"
    assert not copy.samefile(file)
    assert copy.read_bytes() == file.read_bytes()


def test_nnunet_reads_the_channels_together(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    place.save("a.nii.gz")
    place.add()
    images, _ = SimpleITKIO().read_images([str(path) for path in sorted(place.output.iterdir())])
    assert images.shape == (2, *SHAPE)
    assert "WARNING" not in capsys.readouterr().out


def test_an_unknown_modality_lists_the_known_ones(place: Workplace) -> None:
    place.save("a.nii.gz")
    place.fails("'LGE'", "['mr', 'ct']", "dataset.json", modality="LGE")


def test_wrong_file_endings(place: Workplace) -> None:
    place.save("a.nii.gz")
    place.save("b.mha")
    place.fails("b.mha", "does not end in .nii.gz")


def test_other_files_are_left_alone(place: Workplace) -> None:
    place.save("a.nii.gz")
    (place.scans / "notes.txt").write_text("seen")
    (place.scans / ".DS_Store").write_text("")
    assert place.add() == ["a"]


def test_an_input_folder_without_scans(place: Workplace) -> None:
    place.fails("holds no *.nii.gz file")
    place.scans.rmdir()
    place.fails(str(place.scans), "does not exist")


def test_a_folder_that_has_its_modality_channel_already(place: Workplace) -> None:
    place.save("a_0000.nii.gz")
    place.save("a_0001.nii.gz")
    place.fails("a_0001.nii.gz", "is channel 1")


def test_names_with_and_without_a_channel_number(place: Workplace) -> None:
    place.save("a_0000.nii.gz")
    place.save("b.nii.gz")
    place.fails("b.nii.gz", "name it b_0000.nii.gz")


def test_a_missing_channel(two_channels: Workplace) -> None:
    for name in ("a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz"):
        two_channels.save(name)
    two_channels.fails("case 'b'", "b_0001.nii.gz")


def test_plain_names_do_not_say_which_channel(two_channels: Workplace) -> None:
    two_channels.save("a.nii.gz")
    two_channels.fails("a.nii.gz", "2 image channels", "case_0001.nii.gz")


def test_channels_on_different_grids(two_channels: Workplace) -> None:
    two_channels.save("a_0000.nii.gz")
    two_channels.save("a_0001.nii.gz", image_of(filled(*BOX), origin=(3.0, -4.5, 68.0)))
    two_channels.fails("case 'a'", "a_0000.nii.gz", "a_0001.nii.gz", "origin")


def with_nan() -> Any:
    voxels = filled(*BOX).astype(np.float32)
    voxels[1, 1, 1] = np.nan
    return image_of(voxels)


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (with_nan(), "1 NaN"),
        (image_of(np.zeros(SHAPE, dtype=np.int16)), "all zero"),
        (sitk.JoinSeries([image_of(filled(*BOX))] * 2), "4D"),
        (sitk.GetImageFromArray(np.ones((5, 5), dtype=np.float32)), "2D"),
    ],
)
def test_unusable_images(place: Workplace, image: sitk.Image, told: str) -> None:
    place.save("a.nii.gz")
    place.save("b.nii.gz", image)
    place.fails("b.nii.gz", told)


@pytest.mark.parametrize("share", [0.2, 0.95])
def test_truncated_images(place: Workplace, share: float) -> None:
    noise = np.random.default_rng(0).integers(1, 900, size=SHAPE).astype(np.int16)
    file = place.save("a.nii.gz", image_of(noise))
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    place.fails("a.nii.gz", "cannot be read")


def test_an_output_folder_in_use(place: Workplace) -> None:
    place.save("a.nii.gz")
    place.add()
    (place.scans / "a.nii.gz").rename(place.scans / "b.nii.gz")
    place.fails("already holds a_0000.nii.gz", "--overwrite")
    assert place.add(overwrite=True) == ["b"]
    assert sorted(path.name for path in place.output.iterdir()) == ["b_0000.nii.gz", "b_0001.nii.gz"]


def test_an_empty_output_folder_is_used(place: Workplace) -> None:
    place.save("a.nii.gz")
    place.output.mkdir()
    assert place.add() == ["a"]


def test_overwriting_spares_what_is_not_a_channel(place: Workplace) -> None:
    place.save("a.nii.gz")
    place.output.mkdir()
    (place.output / "thesis.tex").write_text("three years")
    place.fails("holds thesis.tex", overwrite=True)


@pytest.mark.parametrize("where", ["scans", "."])
def test_the_output_may_not_be_or_hold_the_input(place: Workplace, where: str) -> None:
    place.save("a_0000.nii.gz")
    place.output = place.root / where
    place.fails("is or holds the input folder", overwrite=True)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "does not exist"),
        ("{", "cannot be read as JSON"),
        ("{}", 'no "crossmod" block'),
    ],
)
def test_an_unusable_dataset_json(place: Workplace, content: str | None, told: str) -> None:
    place.save("a.nii.gz")
    if content is None:
        place.dataset_json.unlink()
    else:
        place.dataset_json.write_text(content)
    place.fails("dataset.json", told)


def test_data_sets_are_found_as_nnunet_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "pre"))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "res"))
    trained = ("res/Dataset014_C/A__P__2d", "res/Dataset014_C/B__P__2d")
    for place in ("raw/Dataset011_A", "pre/Dataset011_A", "pre/Dataset012_B", *trained):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "dataset.json").write_text('{"crossmod": {}}' if "/B__" in place else "{}")
    assert find_dataset_json("11") == tmp_path / "raw" / "Dataset011_A" / "dataset.json"
    assert find_dataset_json("Dataset012_B") == tmp_path / "pre" / "Dataset012_B" / "dataset.json"
    assert find_dataset_json("14") == tmp_path / trained[1] / "dataset.json"
    with pytest.raises(CrossmodError, match="data set 13 lies neither"):
        find_dataset_json("13")


def test_several_modalities_in_one_folder(place: Workplace) -> None:
    place.save("a_mr.nii.gz")
    place.save("b_ct.nii.gz")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    words = ["-i", str(place.scans), "-o", str(place.output), "--dataset-json", str(place.dataset_json)]
    command.run(parser.parse_args([*words, "-m", "mr=*_mr", "ct=*_ct"]))
    for case, value in (("a_mr", 1), ("b_ct", 2)):
        channel = sitk.ReadImage(str(place.output / f"{case}_0001.nii.gz"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(channel), filled(*BOX, value=value))


def test_the_command_line(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    place.save("a.nii.gz")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    words = ["-i", str(place.scans), "-o", str(place.output), "-m", "mr", "--dataset-json", str(place.dataset_json)]
    command.run(parser.parse_args(words))
    assert (place.output / "a_0001.nii.gz").is_file()
    assert "mr scans ready for nnUNetv2_predict: 1" in capsys.readouterr().out


def swapped(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A model that was trained before source and target, and with them the order, were swapped; the command's words."""
    content = json.loads(place.dataset_json.read_text())
    content["crossmod"]["modalities"] = ["ct", "mr"]
    model = place.root / "results" / "Dataset011_A" / "AICLTrainer__nnUNetPlans__2d"
    raw = place.root / "raw" / "Dataset011_A"
    for folder, described in ((model, content), (raw, json.loads(place.dataset_json.read_text()))):
        folder.mkdir(parents=True)
        (folder / "dataset.json").write_text(json.dumps(described))
    (model / "plans.json").write_text(json.dumps({"crossmod": {"modalities": ["ct", "mr"]}}))
    monkeypatch.setenv("nnUNet_raw", str(place.root / "raw"))
    monkeypatch.setenv("nnUNet_results", str(place.root / "results"))
    return ["modality-channel", "-i", str(place.scans), "-o", str(place.output), "-m", "mr", "-d", "11"]


def test_the_model_numbers_the_modalities(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    place.save("a.nii.gz")
    words = swapped(place, monkeypatch)
    assert main([*words, "-tr", "AICLTrainer", "-c", "2d"]) == 0
    channel = sitk.ReadImage(str(place.output / "a_0001.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(channel), filled(*BOX, value=2))


def test_a_data_set_whose_models_number_otherwise_is_not_enough(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place.save("a.nii.gz")
    assert main(swapped(place, monkeypatch)) == 1
    said = capsys.readouterr().err
    assert "AICLTrainer__nnUNetPlans__2d numbers modalities in the order ct, mr" in said
    assert "-tr, -p and -c" in said
    assert not place.output.exists()


def test_numbered_scans_are_told_from_channels(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"scan_{number:04d}.nii.gz").touch()
    with pytest.raises(
        CrossmodError, match=r"if these files are scans of their own, add _0000 .* scan_0001_0000\.nii\.gz"
    ):
        find_cases(tmp_path, ".nii.gz", 1)


def test_capital_endings_and_sub_folders(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.nii.gz").touch()
    with pytest.raises(CrossmodError, match=r"in sub-folders only, as deep/a\.nii\.gz: move or link"):
        find_cases(tmp_path, ".nii.gz", 1)
    (tmp_path / "B.NII.GZ").touch()
    (tmp_path / "._B.nii.gz").touch()
    assert find_cases(tmp_path, ".nii.gz", 1) == {"B": [tmp_path / "B.NII.GZ"]}
    assert unused_files(tmp_path, {"B": [tmp_path / "B.NII.GZ"]}).endswith("are not used: deep/a.nii.gz")
