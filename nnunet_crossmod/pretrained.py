"""Weights of another network as a start for one of this project's: what fits is taken, the rest is named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from nnunet_crossmod.data import CrossmodBlock
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.nn import ConditionalInstanceNorm, ConditionalLayerNorm
from nnunet_crossmod.paths import dataset_folder, let_nnunet_find_trainers, load_trainer, read_json
from nnunet_crossmod.training.input_check import planned_configuration
from nnunet_crossmod.weights import read_checkpoint

__all__ = ["Adapted", "adapt_file", "adapt_weights"]

LEAST_SHARE = 0.5
"""Of the parameters taken: below it the weights are of another architecture."""


class Adapted(NamedTuple):
    """``state`` for the network; ``share`` of the parameters of encoder and decoder that were taken; names of tensors
    that were ``spread`` to all modalities, ``cut`` by the modality channel, ``kept`` as the network begins; and of
    weights that were ``left_out``."""

    state: dict[str, Tensor]
    share: float
    spread: list[str]
    cut: list[str]
    kept: list[str]
    left_out: list[str]


def adapt_weights(network: nn.Module, weights: Mapping[str, Tensor], image_channels: int) -> Adapted:
    """Fit weights to a network; its own values stand where nothing fits.

    Segmentation layers are left as they are, as nnU-Net does.

    Args:
        network: with random weights.
        weights: ``network_weights`` of an nnU-Net checkpoint.
        image_channels: of the network, the modality channel not counted.
    """
    weights = {re.sub(r"^(module\.|_orig_mod\.)+", "", name): value for name, value in weights.items()}
    conditional = {
        f"{name}.{affine}"
        for name, module in network.named_modules(remove_duplicate=False)
        if isinstance(module, ConditionalInstanceNorm | ConditionalLayerNorm)
        for affine in ("weight", "bias")
    }
    state, spread, cut, kept = {}, [], [], []
    used = set()
    for name, own in network.state_dict().items():
        stock = re.sub(r"\bencoders\.\d+\.", "", name)  # an encoder per modality: all begin alike
        stock = re.sub(r"\b(attn|mlp)\.branch\.", r"\1.", stock)  # a transformer's branch with gains
        value = None if ".seg_layers." in name else weights.get(stock)
        fitted: Tensor | None = None
        if value is None:
            pass
        elif value.shape == own.shape:
            fitted = value
        elif name in conditional and value.shape == own.shape[1:]:
            fitted = value.expand_as(own).clone()
            spread.append(name)
        elif _is_first(own, value, image_channels):
            fitted = value[:, :image_channels].clone()
            cut.append(name)
        if fitted is None:
            kept.append(name)
        else:
            used.add(stock)
        state[name] = (own if fitted is None else fitted).detach().cpu()
    parameters = [
        name
        for name, _ in network.named_parameters()
        if name.startswith(("encoder.", "decoder.")) and ".seg_layers." not in name
    ]
    taken = sum(state[name].numel() for name in parameters if name not in kept)
    share = taken / sum(state[name].numel() for name in parameters)
    return Adapted(state, share, spread, cut, kept, sorted(set(weights) - used))


def _is_first(own: Tensor, value: Tensor, image_channels: int) -> bool:
    """Whether it is the first convolution of a network that sees the modality channel as an image."""
    wanted = (own.shape[0], image_channels + 1, *own.shape[2:])
    return own.ndim > 2 and own.shape[1] == image_channels and tuple(value.shape) == wanted


def adapt_file(
    checkpoint: Path, output: Path, dataset: int | str, trainer: str, plans_name: str, configuration: str
) -> Adapted:
    """Write a checkpoint for ``nnUNetv2_train … -pretrained_weights``.

    Args:
        checkpoint: of nnU-Net.
        output: the file to write.
        dataset: id or name.
        trainer: that will be trained.
        plans_name: as in ``-p``.
        configuration: as in ``-c``.

    Raises:
        CrossmodError: no such data set, plans or trainer, a file that is no checkpoint of nnU-Net, or weights of
            another architecture.
    """
    folder = dataset_folder("nnUNet_preprocessed", dataset)
    remedy = "plan it with nnUNetv2_plan_and_preprocess"
    plans, dataset_json = (read_json(folder / name, remedy) for name in (f"{plans_name}.json", "dataset.json"))
    network, channels = _network(trainer, plans, configuration, dataset_json)
    weights = read_checkpoint(checkpoint).get("network_weights")
    if not isinstance(weights, Mapping):
        raise CrossmodError(f"{checkpoint} is no checkpoint of nnU-Net: it has no network_weights; check -i")
    adapted = adapt_weights(network, weights, channels)
    if adapted.share < LEAST_SHARE:
        raise CrossmodError(
            f"{checkpoint} fits {100 * adapted.share:.0f} % of the network of {plans_name}, {configuration}: it is of "
            "another architecture; take over its plans with nnUNetv2_move_plans_between_datasets, then preprocess"
        )
    partial = output.with_name(f"{output.name}.partial")
    output.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"network_weights": adapted.state}, partial)
    partial.replace(output)
    return adapted


def _network(
    trainer: str, plans: dict[str, Any], configuration: str, dataset_json: Mapping[str, Any]
) -> tuple[nn.Module, int]:
    """The network that the trainer will train, and its image channels."""
    let_nnunet_find_trainers()
    kind = load_trainer(trainer)
    if not hasattr(kind, "options_of"):
        raise CrossmodError(
            f"{trainer} is none of this package's trainers: give nnUNetv2_train the weights as they are"
        )
    block = CrossmodBlock.from_dataset_json(dataset_json)
    planned_configuration(plans, configuration)
    options = kind.options_of(plans)
    plans["crossmod"] = {**options, "modalities": list(block.modalities), "target_modalities": list(block.target)}
    manager = PlansManager(plans)
    channels = len(dataset_json["channel_names"])
    heads = manager.get_label_manager(dataset_json).num_segmentation_heads
    network = kind.build_network_architecture(
        manager, manager.get_configuration(configuration), channels, heads, options["enable_deep_supervision"]
    )
    return network, channels - 1
