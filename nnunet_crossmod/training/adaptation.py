"""How far adaptation may pull: its gradients are held to a share of the segmentation's.

A fixed weight means something else with every data set, network and stage of the training. Here the norm of every
adaptation term's gradient is measured now and then, over the parameters that the segmentation loss reaches as well, and
a term whose weighted gradient is longer than ``share`` times the segmentation's is scaled down to it. A term is never
scaled up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from nnunet_crossmod.losses.processes import summed
from nnunet_crossmod.training.drift import SHARE
from nnunet_crossmod.training.losses import Losses

__all__ = ["GradientShare"]

EVERY = 50  # steps between measurements: each costs one backward pass per term
MOMENTUM = 0.5
SEGMENTATION = "segmentation"


class GradientShare:
    """Measures gradients and scales the terms of adaptation.

    Args:
        parameters: of the network.
        share: largest norm of a weighted term's gradient, as a share of that of all other terms together.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], share: float) -> None:
        self.parameters = list(parameters)
        self.share = share
        self.norms: dict[str, Tensor] = {}
        # a compiled network otherwise frees what a second backward pass would read
        torch._functorch.config.donated_buffer = False

    def hold(self, losses: Losses, step: int, scaled: Callable[[Tensor], Tensor] = lambda loss: loss) -> Losses:
        """Scale the adaptation terms of an objective, and log their gradients and shares.

        Args:
            losses: terms with a graph behind them.
            step: of the training; every 50th is measured, and the first of a new term.
            scaled: the gradient scaler's ``scale``: half precision loses the small gradients otherwise.
        """
        terms = [name for name in losses.adapting if losses.weights[name] != 0]
        if not terms:
            return losses
        if step % EVERY == 0 or any(name not in self.norms for name in terms):
            self._measure(losses, terms, scaled)
        reference = self.norms[SEGMENTATION]
        losses.figures["gradient_segmentation"] = _or_zero(reference)
        for name in terms:
            pull = abs(losses.weights[name]) * self.norms[name] / reference.clamp(min=1e-12)
            scale = (self.share / pull.clamp(min=1e-12)).clamp(max=1.0)
            # what has overflowed ever since it was first measured does not pull yet
            losses.scales[name] = torch.where(pull.isfinite() & reference.isfinite(), scale, 0.0)
            losses.figures[f"gradient_{name}"] = _or_zero(self.norms[name])
            losses.figures[f"{SHARE}{name}"] = _or_zero(pull) * losses.scales[name]
        return losses

    def state_dict(self) -> dict[str, Tensor]:
        """The norms, for the checkpoint."""
        return dict(self.norms)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore them."""
        self.norms = dict(state)

    def _measure(self, losses: Losses, terms: list[str], scaled: Callable[[Tensor], Tensor]) -> None:
        rest = [losses.weights[n] * losses.terms[n] for n in losses.weights if losses.weights[n] and n not in terms]
        trained = [parameter for parameter in self.parameters if parameter.requires_grad]
        segmentation = scaled(torch.stack(rest).sum())
        gradients = torch.autograd.grad(segmentation, trained, retain_graph=True, allow_unused=True)
        shared = [parameter for parameter, gradient in zip(trained, gradients, strict=True) if gradient is not None]
        norms = {SEGMENTATION: self._norm([gradient for gradient in gradients if gradient is not None])}
        for name in terms:
            term = scaled(losses.terms[name])
            norms[name] = self._norm(torch.autograd.grad(term, shared, retain_graph=True, materialize_grads=True))
        for name, norm in norms.items():
            before = self.norms.get(name, norm)
            averaged = torch.where(before.isfinite(), torch.lerp(norm, before, MOMENTUM), norm)
            self.norms[name] = torch.where(norm.isfinite(), averaged, before)

    def _norm(self, gradients: Iterable[Tensor]) -> Tensor:
        """Of the gradients together, as they are averaged over the processes."""
        *gradients, processes = summed(*gradients, torch.ones((), device=self.parameters[0].device))
        total: Tensor = torch.stack([norm.float() for norm in torch._foreach_norm(gradients)]).norm()
        return total / processes


def _or_zero(figure: Tensor) -> Tensor:
    """A figure for the log, 0 where it is not finite."""
    return torch.where(figure.isfinite(), figure, 0.0)
