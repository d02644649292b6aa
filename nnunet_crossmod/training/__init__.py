"""When things happen: the base of all trainers, players, losses, the record."""

from nnunet_crossmod.training.collapse import collapse_warnings, foreground_variance
from nnunet_crossmod.training.losses import Losses
from nnunet_crossmod.training.player import Player
from nnunet_crossmod.training.trainer import CrossModalTrainer

__all__ = ["CrossModalTrainer", "Losses", "Player", "collapse_warnings", "foreground_variance"]
