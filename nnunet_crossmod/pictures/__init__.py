"""Pictures: label maps over scans, loss curves, and what the methods draw while they train."""

from nnunet_crossmod.pictures.overlays import Row, prediction_grid

__all__ = ["Row", "prediction_grid"]
