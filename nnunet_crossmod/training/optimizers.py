"""Optimisers of the players."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

__all__ = ["OptimizerName", "build_optimizer"]

OptimizerName = Literal["sgd", "adam", "adamw"]


def build_optimizer(
    modules: Sequence[nn.Module],
    name: OptimizerName,
    lr: float,
    weight_decay: float,
    betas: Sequence[float],
) -> torch.optim.Optimizer:
    """The optimiser of that name over the trainable parameters of the modules.

    Norms and biases are not decayed: an affine of a modality that gets no gradient in a step would drift to zero.

    Args:
        modules: what is trained.
        name: ``sgd`` is nnU-Net's, with Nesterov momentum 0.99.
        lr: initial learning rate.
        weight_decay: of all other parameters.
        betas: of Adam and AdamW.
    """
    norms = {
        id(parameter)
        for module in modules
        for layer in module.modules()
        if "Norm" in type(layer).__name__
        for parameter in layer.parameters(recurse=False)
    }
    trainable = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trainable if p.ndim >= 2 and id(p) not in norms]},
        {"params": [p for p in trainable if p.ndim < 2 or id(p) in norms], "weight_decay": 0.0},
    ]
    if name == "sgd":
        return torch.optim.SGD(groups, lr, weight_decay=weight_decay, momentum=0.99, nesterov=True)
    kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    return kind(groups, lr, betas=(betas[0], betas[1]), weight_decay=weight_decay)
