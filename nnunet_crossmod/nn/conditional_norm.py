"""Conditional normalisation: one affine per modality, one set of statistics per image (AICL, Eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase

__all__ = [
    "ConditionalInstanceNorm",
    "ConditionalLayerNorm",
    "ModalityContext",
    "condition_norms",
    "conditional_instance_norm",
]


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


class ModalityAffine(nn.Module):
    """A norm whose affine depends on the modality.

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
            raise ValueError("a conditional norm needs affine=True: the affine is what depends on the modality")
        self.eps = eps
        self.context = context
        self.weight = nn.Parameter(torch.ones(num_modalities, num_features))
        self.bias = nn.Parameter(torch.zeros(num_modalities, num_features))
        chosen = torch.tensor(list(range(num_modalities) if affine_of is None else affine_of))
        self.register_buffer("affine_of", chosen, persistent=False)

    def rows(self) -> Tensor:
        """The row of the affine that each sample of the current batch takes (n,)."""
        if self.context.modality is None:
            raise RuntimeError("no modality set: call the network, not its encoder")
        return self.affine_of[self.context.modality]

    def for_modality(self, index: int) -> dict[str, Tensor]:
        """The affine (c,) of one modality: that of a plain norm."""
        row = int(self.affine_of[index])
        return {"weight": self.weight[row].detach().clone(), "bias": self.bias[row].detach().clone()}

    def extra_repr(self) -> str:
        """What ``print(network)`` shows."""
        return f"{self.weight.shape[1]}, modalities={self.weight.shape[0]}, eps={self.eps}"


class ConditionalInstanceNorm(ModalityAffine):
    """Instance norm of (n, c, *s) with the affine of each sample's modality (AICL, Eq. 1)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (n, c, *s)."""
        return conditional_instance_norm(x, self.weight, self.bias, self.rows(), self.eps)


class ConditionalLayerNorm(ModalityAffine):
    """Layer norm over the last axis of (n, *s, c), as transformers have it, with the affine of each sample's
    modality."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (n, *s, c)."""
        rows, shape = self.rows(), (len(x), *[1] * (x.ndim - 2), x.shape[-1])
        normalised = functional.layer_norm(x, x.shape[-1:], eps=self.eps)
        gamma, beta = self.weight[rows].reshape(shape), self.bias[rows].reshape(shape)
        return normalised * gamma.to(normalised.dtype) + beta.to(normalised.dtype)


def condition_norms(
    module: nn.Module, num_modalities: int, context: ModalityContext, affine_of: Sequence[int] | None = None
) -> None:
    """Make every norm in a module conditional, in place: layer norms, and instance norms in place of all others.

    A norm that is registered under several names, as nnU-Net's are, stays one.

    Args:
        module: what holds the norms, freshly built.
        num_modalities, context, affine_of: of the :class:`ModalityAffine`.

    Raises:
        ValueError: a norm without an affine.
    """
    shared: Any = {"num_modalities": num_modalities, "context": context, "affine_of": affine_of}
    made: dict[nn.Module, ModalityAffine] = {}
    for parent in list(module.modules()):
        for name, norm in parent._modules.items():
            if isinstance(norm, nn.LayerNorm) and norm not in made:
                made[norm] = ConditionalLayerNorm(
                    norm.normalized_shape[-1], norm.eps, norm.elementwise_affine, **shared
                )
            elif isinstance(norm, _NormBase) and norm not in made:
                made[norm] = ConditionalInstanceNorm(norm.num_features, norm.eps, norm.affine, **shared)
            if norm in made:
                parent._modules[name] = made[norm]
