"""Checkpoints: nnU-Net's own, with everything beside the network that a training needs to continue."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any

import torch

from nnunet_crossmod.errors import CrossmodError

__all__ = ["FORMAT", "read_addition", "write_checkpoint"]

FORMAT = 2
"""Version of what stands under ``"crossmod"`` in a checkpoint."""


def write_checkpoint(filename: str, write_nnunet: Callable[[Any], None], complete: Callable[[Any], None]) -> None:
    """Write nnU-Net's checkpoint and what is added to it; never half-written.

    Args:
        filename: of the checkpoint.
        write_nnunet: nnU-Net's own ``save_checkpoint``, given a buffer instead of a file name.
        complete: adds to the dictionary that nnU-Net wrote.
    """
    buffer = io.BytesIO()
    write_nnunet(buffer)
    buffer.seek(0)
    checkpoint = torch.load(buffer, map_location="cpu", weights_only=False)
    complete(checkpoint)
    checkpoint["crossmod"]["format"] = FORMAT
    temporary = f"{filename}.partial"
    torch.save(checkpoint, temporary)
    os.replace(temporary, filename)


def read_addition(filename: str, device: torch.device) -> dict[str, Any]:
    """What :func:`write_checkpoint` added.

    Raises:
        CrossmodError: the checkpoint is of a stock trainer or of another version of this package.
    """
    addition: dict[str, Any] | None = torch.load(filename, map_location=device, weights_only=False).get("crossmod")
    version = None if addition is None else addition.get("format", 1)
    if addition is None or version != FORMAT:
        writer = "a stock trainer" if version is None else f"another version of nnunet-crossmod (format {version})"
        raise CrossmodError(
            f"{filename} was written by {writer}, this version reads format {FORMAT}: train again without --c, or "
            "continue with what wrote it"
        )
    return addition
