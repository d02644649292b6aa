"""How the training scans are cropped, recorded for inference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

from nnunet_crossmod.nn import has_empty_border

__all__ = ["all_fill_their_box", "training_scans_fill_their_box"]


def training_scans_fill_their_box(trainer: Any) -> bool:
    """As :func:`all_fill_their_box`, of the fold's training scans."""
    folder = trainer.preprocessed_dataset_folder
    scans = infer_dataset_class(folder)(folder)
    return all_fill_their_box(scans, trainer.do_split()[0], trainer.configuration_manager.patch_size)


def all_fill_their_box(scans: Any, names: Iterable[str], patch_size: Sequence[int]) -> bool:
    """Whether no scan has an empty border in the tile that inference begins with.

    Args:
        scans: nnU-Net's data set of preprocessed scans, the modality channel last.
        names: of the training cases.
        patch_size: in voxels, of two axes or three.
    """
    corner = (slice(None), *(slice(0, size) for size in (1, *patch_size)[-3:]))
    for name in names:
        tile = torch.from_numpy(np.asarray(scans.load_case(name)[0][corner]))[None]
        tile = tile.flatten(2, 3) if len(patch_size) == 2 else tile
        if bool((tile[:, -1] > 0).any()) and has_empty_border(tile[:, :-1], tile[:, -1]):
            return False
    return True
