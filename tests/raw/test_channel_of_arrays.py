"""The modality channel: the box it fills, in images and in arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from small_scans import BOX, SHAPE, filled, image_of

from nnunet_crossmod.data import CrossmodBlock, add_modality_channel
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.raw.modality_channel import modality_channel


def test_the_box_of_the_nonzero_voxels_is_filled() -> None:
    voxels = np.zeros(SHAPE, dtype=np.float32)
    voxels[1, 0, 3], voxels[2, 4, 2], voxels[1, 2, 5] = -1.0, 0.5, 3.0
    image = image_of(voxels)
    channel = modality_channel(image, 2)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(channel), filled(*BOX, value=3))
    assert channel.GetSpacing() == image.GetSpacing()
    assert channel.GetOrigin() == image.GetOrigin()
    assert channel.GetDirection() == image.GetDirection()


def test_boxes_are_joined() -> None:
    other = image_of(filled(slice(2, 4), slice(3, 6), slice(5, 7)))
    channel = modality_channel(image_of(filled(*BOX)), 0, like=[other])
    expected = filled(slice(1, 4), slice(0, 6), slice(2, 7), value=1)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(channel), expected)


def test_nnunet_crops_as_it_would_without_the_channel() -> None:
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

    voxels = filled(*BOX) * np.random.default_rng(0).integers(0, 2, size=SHAPE)
    channel = sitk.GetArrayFromImage(modality_channel(image_of(voxels.astype(np.int16)), 1))
    without = crop_to_nonzero(voxels[None].astype(np.float32))[2]
    assert crop_to_nonzero(np.stack([voxels, channel]).astype(np.float32))[2] == without


def test_an_all_zero_image_has_no_box() -> None:
    with pytest.raises(CrossmodError, match="all zero"):
        modality_channel(image_of(filled() * 0), 0)


def test_images_on_another_grid_cannot_be_joined() -> None:
    with pytest.raises(CrossmodError, match="different grids"):
        modality_channel(image_of(filled(*BOX)), 0, like=[image_of(filled(*BOX), origin=(0, 0, 0))])


DATASET_JSON = {
    "labels": {"background": 0, "A": 1},
    "crossmod": {
        "modalities": ["mr", "ct"],
        "source": ["mr"],
        "target": ["ct"],
        "cases": {"s_mr": {"modality": "mr", "annotated": "all"}},
    },
}


@pytest.mark.parametrize("dataset", [DATASET_JSON, CrossmodBlock.from_dataset_json(DATASET_JSON)])
def test_an_array_gets_the_channel_of_its_file(dataset: Any) -> None:
    voxels = filled(*BOX)
    array = add_modality_channel(voxels[None], "ct", dataset)
    assert array.shape == (2, *SHAPE)
    np.testing.assert_array_equal(array[0], voxels)
    channel = sitk.GetArrayFromImage(modality_channel(image_of(voxels), 1))
    np.testing.assert_array_equal(array[1], channel)


def test_the_channels_of_an_array_share_a_box() -> None:
    channels = np.stack([filled(*BOX), filled(slice(0, 1), slice(0, 1), slice(0, 1))])
    array = add_modality_channel(channels, "mr", DATASET_JSON)
    np.testing.assert_array_equal(array[2], filled(slice(0, 3), slice(0, 5), slice(0, 6), value=1))


@pytest.mark.parametrize(
    ("image", "modality", "dataset", "message"),
    [
        (filled(*BOX)[None], "LGE", DATASET_JSON, "is not one of ['mr', 'ct']"),
        (filled(*BOX)[None], "ct", {}, 'no "crossmod" block'),
        (filled(*BOX)[None] * 0, "ct", DATASET_JSON, "all zero"),
        (np.ones((4, 5)), "ct", DATASET_JSON, "has no channel axis"),
    ],
)
def test_wrong_arrays(image: Any, modality: str, dataset: Any, message: str) -> None:
    with pytest.raises(CrossmodError) as error:
        add_modality_channel(image, modality, dataset)
    assert message in str(error.value)
