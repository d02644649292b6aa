"""Checkpoints are read as what they should be, weights and plain values: a file of a stranger's runs no code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_crossmod.errors import CrossmodError

__all__ = ["read_checkpoint", "what_could_run"]

SCALAR: Any = np.float64(0).__reduce__()[0]  # what rebuilds a number of numpy's, and its names in numpy 2 and 1
SCALAR_NAMES = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")
NUMPY_NUMBERS: list[Any] = [
    np.dtype,
    *{type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "b1")},
    *((SCALAR, name) for name in SCALAR_NAMES),
]
"""What nnU-Net's checkpoints hold beside tensors: the numbers of its log."""


def read_checkpoint(file: Path | str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """A checkpoint of nnU-Net or of this package, without running what a pickle may hold.

    Args:
        file: the checkpoint.
        device: that its tensors are put on.

    Raises:
        CrossmodError: a file that is no checkpoint, or that holds more than weights, numbers and text.
    """
    try:
        with torch.serialization.safe_globals(NUMPY_NUMBERS):
            checkpoint: Any = torch.load(file, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CrossmodError(
            f"{file} is no checkpoint of nnU-Net, or holds more than weights and numbers, which could run code: if you "
            'trust it, open it with torch.load(…, weights_only=False) and save {"network_weights": …} of it'
        ) from error
    except Exception as error:  # whatever a file may hold that is no pickle
        raise CrossmodError(f"{file} is no checkpoint of nnU-Net ({type(error).__name__}): is it whole?") from error
    if not isinstance(checkpoint, dict):
        raise CrossmodError(f"{file} is no checkpoint of nnU-Net: it holds a {type(checkpoint).__name__}")
    return checkpoint


def what_could_run(file: Path) -> list[str]:
    """What a checkpoint calls when it is read as nnU-Net reads it, beside tensors and numbers: nothing as a rule.

    Raises:
        CrossmodError: a file that is no checkpoint.
    """
    try:
        called = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
    except Exception as error:
        raise CrossmodError(f"{file} is no checkpoint of nnU-Net ({type(error).__name__}): copy it again") from error
    return sorted(set(called) - {"numpy.dtype", *SCALAR_NAMES})
