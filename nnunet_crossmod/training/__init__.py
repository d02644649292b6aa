"""When things happen: the base of all trainers, players, losses, the record."""

from nnunet_crossmod.training.collapse import collapse_warnings, foreground_variance
from nnunet_crossmod.training.losses import Losses
from nnunet_crossmod.training.player import Player
from nnunet_crossmod.training.trainer import CrossModalTrainer
from nnunet_crossmod.training.translating import CollapseTerms, TranslatingTrainer, TranslationMode

__all__ = [
    "CollapseTerms",
    "CrossModalTrainer",
    "Losses",
    "Player",
    "TranslatingTrainer",
    "TranslationMode",
    "collapse_warnings",
    "foreground_variance",
]
