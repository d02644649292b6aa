"""Metrics and pictures."""

from nnunet_crossmod.evaluation.metrics import dice_per_structure, evaluate_folder, summarise
from nnunet_crossmod.evaluation.pictures import Row, prediction_grid

__all__ = ["Row", "dice_per_structure", "evaluate_folder", "prediction_grid", "summarise"]
