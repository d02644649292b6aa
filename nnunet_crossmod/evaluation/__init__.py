"""Metrics and pictures."""

from nnunet_crossmod.evaluation.folders import (
    evaluate_folder,
    printed,
    read_scores,
    summarise,
    summary,
    write_evaluation,
)
from nnunet_crossmod.evaluation.metrics import CONVENTIONS, METRICS, Score, dice_per_structure, measure
from nnunet_crossmod.evaluation.pictures import Row, prediction_grid

__all__ = [
    "CONVENTIONS",
    "METRICS",
    "Row",
    "Score",
    "dice_per_structure",
    "evaluate_folder",
    "measure",
    "prediction_grid",
    "printed",
    "read_scores",
    "summarise",
    "summary",
    "write_evaluation",
]
