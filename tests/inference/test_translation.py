"""Translated scans are written where their scans lie, whatever nnU-Net's reader did to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_crossmod.inference.translation import _as_stored


@pytest.mark.parametrize("axes", ["LPS", "RAS", "PIR", "SAL"])
@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIOWithReorient])
def test_what_a_reader_gave_is_written_back_onto_the_grid_of_the_file(
    axes: str, reader: type[SimpleITKIO] | type[NibabelIOWithReorient], tmp_path: Path
) -> None:
    image = sitk.GetImageFromArray(np.random.default_rng(0).random((4, 5, 6), dtype=np.float32))
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetOrigin((7.0, -8.0, 9.0))
    image = sitk.DICOMOrient(image, axes)
    sitk.WriteImage(image, str(tmp_path / "scan.nii.gz"))
    voxels, _ = reader().read_images([str(tmp_path / "scan.nii.gz")])
    stored = _as_stored(voxels[0], tmp_path / "scan.nii.gz", reader is NibabelIOWithReorient)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(stored), sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(stored.GetDirection(), image.GetDirection(), atol=1e-6)
    np.testing.assert_allclose(stored.GetOrigin(), image.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(stored.GetSpacing(), image.GetSpacing(), atol=1e-6)
