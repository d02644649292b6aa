"""Using a trained model: its modality channel, predictions, the stock model of one modality."""

from nnunet_crossmod.inference.predictor import Predictor

__all__ = ["Predictor"]
