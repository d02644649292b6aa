"""Conditional instance normalisation: one affine per modality, one set of statistics per image (AICL, Eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ConditionalInstanceNorm", "ModalityContext", "conditional_instance_norm"]


def conditional_instance_norm(x: Tensor, weight: Tensor, bias: Tensor, modality: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalise every image and channel by its own statistics, then scale and shift by its modality's affine.

    .. math:: \\gamma_m \\frac{x - \\mu}{\\sqrt{\\sigma^2 + \\epsilon}} + \\beta_m

    The batch is folded into the channels, so that a mixed batch costs one fused call, as plain instance norm does.

    Args:
        x: features (n, c, *s).
        weight: γ, one row per modality (m, c).
        bias: β (m, c).
        modality: index of each sample's modality (n,), integer.
        eps: added to the variance.

    Returns:
        (n, c, *s).

    Raises:
        ValueError: shapes that do not fit.

    Source: AICL, MIDL 2026 submission, Eq. 1; statistics per instance and channel as in Dumoulin et al., ICLR 2017.
    """
    n, c = x.shape[:2]
    if weight.shape != bias.shape or weight.ndim != 2 or weight.shape[1] != c or modality.shape != (n,):
        raise ValueError(
            f"expected weight and bias (m, {c}) and modality ({n},), got {tuple(weight.shape)}, {tuple(bias.shape)} "
            f"and {tuple(modality.shape)}"
        )
    folded = x.reshape(1, n * c, *x.shape[2:])
    gamma, beta = weight[modality].reshape(-1), bias[modality].reshape(-1)
    return functional.instance_norm(folded, weight=gamma, bias=beta, eps=eps).reshape(x.shape)


class ModalityContext:
    """Carries what is known of the batch's modalities from the network's ``forward`` to its parts.

    The planned networks call their norms as ``norm(x)`` inside ``nn.Sequential``; these are the values they share:
    ``modality`` (n,) of the samples; ``rows`` of every modality, where the caller knows them; ``class_embeddings``
    (m, z, c), where the network has some.
    """

    def __init__(self) -> None:
        self.modality: Tensor | None = None
        self.rows: Sequence[slice | Tensor] | None = None
        self.class_embeddings: Tensor | None = None


class ConditionalInstanceNorm(nn.Module):
    """Drop-in ``norm_op`` for the planned networks whose affine depends on the modality.

    Args:
        num_features: channels c.
        eps: added to the variance.
        affine: must be true: without an affine there is nothing to condition.
        num_modalities: m.
        context: where the network leaves the modality of the current batch.
        affine_of: whose affine a modality takes, m indices; its own by default.
    """

    affine_of: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        num_modalities: int,
        context: ModalityContext,
        affine_of: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if not affine:
            raise ValueError("conditional instance norm needs affine=True: the affine is what depends on the modality")
        self.eps = eps
        self.context = context
        self.weight = nn.Parameter(torch.ones(num_modalities, num_features))
        self.bias = nn.Parameter(torch.zeros(num_modalities, num_features))
        chosen = torch.tensor(list(range(num_modalities) if affine_of is None else affine_of))
        self.register_buffer("affine_of", chosen, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (n, c, *s) with the affine of each sample's modality."""
        if self.context.modality is None:
            raise RuntimeError("no modality set: call the network, not its encoder")
        return conditional_instance_norm(x, self.weight, self.bias, self.affine_of[self.context.modality], self.eps)

    def for_modality(self, index: int) -> dict[str, Tensor]:
        """The affine (c,) of one modality: that of a plain instance norm."""
        row = int(self.affine_of[index])
        return {"weight": self.weight[row].detach().clone(), "bias": self.bias[row].detach().clone()}

    def extra_repr(self) -> str:
        """What ``print(network)`` shows."""
        return f"{self.weight.shape[1]}, modalities={self.weight.shape[0]}, eps={self.eps}"
