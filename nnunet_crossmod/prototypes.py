"""Class prototypes: running means of features (MPSCL, Eq. 4-5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nnunet_crossmod.losses.precision import full_precision
from nnunet_crossmod.pseudo_labels import labels_at

__all__ = ["PrototypeBank", "class_sums"]


@torch.no_grad()
@full_precision
def class_sums(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Sum the features of every class.

    Args:
        features: (n, d, *f).
        labels: (n, *s), integer, brought to the features' resolution by nearest neighbour; values outside
            0 … num_classes − 1 (padding, ignore) are left out.
        num_classes: k.

    Returns:
        sums (k, d) and the number of pixels (k,).

    Raises:
        ValueError: shapes that do not fit.
    """
    if features.ndim != labels.ndim + 1 or len(features) != len(labels):
        raise ValueError(
            f"expected features (n, d, *f) and labels (n, *s), got {tuple(features.shape)} and {tuple(labels.shape)}"
        )
    if labels.shape[1:] != features.shape[2:]:
        labels = labels_at(labels, features.shape[2:])
    classes = torch.arange(num_classes, device=labels.device).view(1, -1, 1)
    belongs = (labels.flatten(1)[:, None] == classes).to(features.dtype)
    return torch.einsum("nks,nds->kd", belongs, features.flatten(2)), belongs.sum((0, 2))


class PrototypeBank(nn.Module):
    """One prototype a class, kept as buffers: ``centers`` (k, d), zero for classes never seen, and ``initialised``.

    Args:
        num_classes: k, background included.
        width: d.
        momentum: α, the weight of the OLD value.

    Source: Liu et al. (MPSCL), JBHI 2022, Eq. 4-5.
    """

    centers: Tensor
    initialised: Tensor

    def __init__(self, num_classes: int, width: int, momentum: float = 0.2) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("centers", torch.zeros(num_classes, width))
        self.register_buffer("initialised", torch.tensor(False))

    def update(self, features: Tensor, labels: Tensor) -> None:
        """c ← α · c + (1 − α) · batch mean for every class in the batch; the others stay as they are.

        So do all where features are not finite.

        Args:
            features: (n, d, *f); no gradient is kept.
            labels: (n, *s), integer, as for :func:`class_sums`.
        """
        self.blend(*class_sums(features, labels, len(self.centers)))

    @torch.no_grad()
    def blend(self, sums: Tensor, counts: Tensor) -> None:
        """:meth:`update` from :func:`class_sums`, which processes may have added up."""
        present, means = _means(sums, counts, self.centers)
        self.centers.copy_(torch.where(present, torch.lerp(means, self.centers, self.momentum), self.centers))

    @torch.no_grad()
    def initialise(self, sums: Tensor, counts: Tensor) -> None:
        """Begin with the mean of every class in ``sums`` (k, d) and ``counts`` (k,)."""
        present, means = _means(sums, counts, self.centers)
        self.centers.copy_(torch.where(present, means, self.centers))
        self.initialised.fill_(True)

    def about_middle(self, *features: Tensor) -> tuple[Tensor, ...]:
        """Features (n, d, *s), and then the centers (k, d), as seen from the mean of the centers that have been seen.

        A class never seen stays zero.
        """
        present = self.centers.any(1, keepdim=True)
        middle = self.centers.sum(0) / present.sum().clamp(min=1)
        shifted = [maps - middle.view(1, -1, *[1] * (maps.ndim - 2)) for maps in features]
        return (*shifted, (self.centers - middle) * present)


def _means(sums: Tensor, counts: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    means = (sums / counts[:, None].clamp(min=1)).to(like)
    # a step that overflows in mixed precision is skipped; a prototype that took part in it would stay NaN for ever
    return (counts[:, None] > 0) & means.isfinite().all(1, keepdim=True), means
