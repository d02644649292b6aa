"""Small scans with a box of non-zero voxels, in an oblique geometry."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk

SHAPE = (4, 6, 8)


def image_of(values: Any, origin: tuple[float, float, float] = (3.0, -4.5, 60.0)) -> sitk.Image:
    """An image of the array."""
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((1.25, 1.5, 8.0))
    image.SetOrigin(origin)
    image.SetDirection((0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0))
    return image


def filled(*box: slice, value: int = 7) -> Any:
    """An array that is zero outside the box."""
    voxels = np.zeros(SHAPE, dtype=np.int16)
    voxels[box] = value
    return voxels


BOX = (slice(1, 3), slice(0, 5), slice(2, 6))
