"""Scores: of a case, of a folder of predictions, and of methods side by side."""

from nnunet_crossmod.evaluation.folders import (
    as_json,
    evaluate_folder,
    printed,
    read_scores,
    summarise,
    summary,
    write_evaluation,
)
from nnunet_crossmod.evaluation.metrics import CONVENTIONS, METRICS, Score, dice_per_structure, measure

__all__ = [
    "CONVENTIONS",
    "METRICS",
    "Score",
    "as_json",
    "dice_per_structure",
    "evaluate_folder",
    "measure",
    "printed",
    "read_scores",
    "summarise",
    "summary",
    "write_evaluation",
]
