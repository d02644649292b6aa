"""Using a trained model: its modality channel, predictions, the stock model of one modality."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunet_crossmod.inference.predictor import Predictor

__all__ = ["Predictor"]


def __getattr__(name: str) -> Any:
    """Import PyTorch and nnU-Net with the predictor, not with what only reads arguments and files."""
    if name == "Predictor":
        from nnunet_crossmod.inference.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
