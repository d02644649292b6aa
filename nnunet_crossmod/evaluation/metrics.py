"""Agreement of two label maps, structure by structure: overlap and distances between surfaces in millimetres.

PyTorch and MONAI are imported where they are used: tables of scores and refusals of wrong folders need neither.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CONVENTIONS", "DIGITS", "METRICS", "TITLES", "Score", "Status", "dice_per_structure", "measure"]

Status = Literal["scored", "missed", "invented", "absent"]
METRICS = ("dice", "hd95", "assd", "nsd")
TITLES = {"dice": "Dice", "hd95": "HD95 mm", "assd": "ASSD mm", "nsd": "NSD"}
DIGITS = {"dice": 3, "hd95": 2, "assd": 2, "nsd": 3}
CONVENTIONS = {
    "dice": "2 |P ∩ R| / (|P| + |R|) over the voxels of the whole volume",
    "surface": "voxels of a structure with a face neighbour outside it, in 3D (in 2D where an image has one slice)",
    "hd95": "mm; the larger of the two directed 95th percentiles (linear interpolation) of the distances from the "
    "surface voxels of the one map to the nearest of the other",
    "assd": "mm; mean of these distances over the surface voxels of both maps together",
    "nsd": "share of both surfaces' area that lies within the tolerance of the other surface; surface elements between "
    "voxels and their areas as in DeepMind's surface-distance",
    "missed": "in the reference alone: dice 0, nsd 0, hd95 and assd the diagonal of the image in mm",
    "invented": "in the prediction alone: penalised as missed",
    "absent": "in neither map: counted, and enters no mean",
    "mean": "mean over a case's structures that are not absent, then over cases",
    "std": "sample standard deviation over cases",
    "software": "MONAI",
}


class Score(NamedTuple):
    """One structure of one case. ``hd95`` and ``assd`` in mm; all four NaN where the structure is absent."""

    structure: str
    status: Status
    dice: float
    hd95: float
    assd: float
    nsd: float


def dice_per_structure(
    prediction: np.ndarray, reference: np.ndarray, labels: Mapping[str, int], ignore: int | None = None
) -> dict[str, float]:
    """Dice of every structure of one case, over the whole volume.

    Args:
        prediction: label map, any shape.
        reference: label map of the same shape.
        labels: foreground structures, name → value.
        ignore: value of voxels in the reference that do not count.

    Returns:
        0 … 1; 0 where a structure is missed or invented, NaN where it is in neither map.
    """
    import torch
    from monai.metrics.meandice import compute_dice

    prediction = _counted(prediction, reference, ignore)
    masks = [
        torch.stack([torch.from_numpy(volume == value) for value in labels.values()])[None]
        for volume in (prediction, reference)
    ]
    dice = compute_dice(masks[0].float(), masks[1].float(), ignore_empty=False)[0]
    absent = ~(masks[0] | masks[1]).flatten(2).any(2)[0]
    return dict(zip(labels, dice.masked_fill(absent, torch.nan).tolist(), strict=True))


def measure(
    prediction: np.ndarray,
    reference: np.ndarray,
    labels: Mapping[str, int],
    spacing: Sequence[float],
    *,
    ignore: int | None = None,
    tolerance: float = 2.0,
) -> list[Score]:
    """All metrics of every structure of one case, as :data:`CONVENTIONS` defines them.

    Args:
        prediction: label map (h, w) or (d, h, w).
        reference: label map of the same shape.
        labels: foreground structures, name → value.
        spacing: mm a voxel, along the axes of the arrays.
        ignore: value of voxels in the reference that do not count.
        tolerance: of the normalised surface Dice, in mm.

    Returns:
        one score a structure, in the order of ``labels``.

    Raises:
        ValueError: shapes that differ, or a spacing that does not fit them.
    """
    if prediction.shape != reference.shape or len(spacing) != reference.ndim or reference.ndim not in (2, 3):
        raise ValueError(
            f"expected two label maps (h, w) or (d, h, w) of one shape and as many spacings, got {prediction.shape}, "
            f"{reference.shape} and {tuple(spacing)}"
        )
    diagonal = float(np.linalg.norm(np.multiply(reference.shape, spacing)))
    dice = dice_per_structure(prediction, reference, labels, ignore)
    prediction = _counted(prediction, reference, ignore)
    if reference.ndim == 3 and 1 in reference.shape:
        # every voxel of a single slice would be surface
        flat = reference.shape.index(1)
        prediction, reference = prediction.squeeze(flat), reference.squeeze(flat)
        spacing = [s for axis, s in enumerate(spacing) if axis != flat]
    scores = []
    for name, value in labels.items():
        masks = prediction == value, reference == value
        in_prediction, in_reference = (bool(mask.any()) for mask in masks)
        if in_prediction and in_reference:
            distances = _distances(*_cropped(*masks), spacing, tolerance)
            scores.append(Score(name, "scored", dice[name], *distances))
        elif in_prediction or in_reference:
            scores.append(Score(name, "missed" if in_reference else "invented", 0.0, diagonal, diagonal, 0.0))
        else:
            scores.append(Score(name, "absent", np.nan, np.nan, np.nan, np.nan))
    return scores


def _counted(prediction: np.ndarray, reference: np.ndarray, ignore: int | None) -> np.ndarray:
    """The prediction with background where the reference says nothing."""
    return prediction if ignore is None else np.where(reference == ignore, 0, prediction)


def _cropped(prediction: np.ndarray, reference: np.ndarray) -> tuple[Tensor, Tensor]:
    """Both masks cut to the box around what is in either, as (1, 1, *s): beyond it there is no surface."""
    import torch

    union = prediction | reference
    box = []
    for axis in range(union.ndim):
        occupied = np.flatnonzero(union.any(axis=tuple(other for other in range(union.ndim) if other != axis)))
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    one, two = (
        torch.from_numpy(np.ascontiguousarray(mask[tuple(box)]))[None, None].float() for mask in (prediction, reference)
    )
    return one, two


def _distances(
    prediction: Tensor, reference: Tensor, spacing: Sequence[float], tolerance: float
) -> tuple[float, float, float]:
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_dice import compute_surface_dice
    from monai.metrics.surface_distance import compute_average_surface_distance

    settings = {"include_background": True, "spacing": list(spacing)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI warns of its own deprecated arguments
        hd95 = compute_hausdorff_distance(prediction, reference, percentile=95, **settings)
        assd = compute_average_surface_distance(prediction, reference, symmetric=True, **settings)
        nsd = compute_surface_dice(prediction, reference, [tolerance], use_subvoxels=True, **settings)
    return float(hd95), float(assd), float(nsd)
