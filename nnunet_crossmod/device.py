"""Where to compute."""

from __future__ import annotations

from nnunet_crossmod.errors import CrossmodError

__all__ = ["device_of"]


def device_of(name: str) -> str:
    """The device itself; for ``auto`` CUDA where it is there, else the CPU.

    Raises:
        CrossmodError: CUDA is asked for and not there.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise CrossmodError("PyTorch finds no CUDA device: add -device cpu")
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
