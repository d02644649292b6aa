"""Projection heads of contrastive losses."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ProjectionHead"]


class ProjectionHead(nn.Module):
    """Two linear layers with a ReLU between them: features (…, inputs) → description (…, outputs), single precision.

    Args:
        inputs: channels of the features.
        hidden: width of the layer between.
        outputs: d.
    """

    def __init__(self, inputs: int, hidden: int = 256, outputs: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))

    def forward(self, features: Tensor) -> Tensor:
        """Describe."""
        described: Tensor = self.layers(features)
        return described.float()

    def describe_at(self, features: Tensor, places: Tensor) -> Tensor:
        """Unit descriptions (n, p, d) of features (n, c, *s) at p places of the flattened map."""
        return functional.normalize(self(features.flatten(2)[:, :, places].transpose(1, 2)), dim=2)
