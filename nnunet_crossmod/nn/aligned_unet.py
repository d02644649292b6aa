"""A U-Net that holds a domain discriminator of its own features and masks the target's features by it (GLUA)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from nnunet_crossmod.errors import UnsupportedError
from nnunet_crossmod.losses.adversarial import Game, signed_decision
from nnunet_crossmod.nn.discriminators import build_feature_discriminator
from nnunet_crossmod.nn.local_alignment import local_feature_mask
from nnunet_crossmod.nn.unet import ModalityUNet

__all__ = ["AlignedFeatureMaps", "AlignedUNet", "FeatureSide", "build_aligned_unet"]

FeatureSide = Literal["encoder", "decoder"]


class AlignedFeatureMaps(NamedTuple):
    """As :class:`FeatureMaps`, with the tapped features f (n, c, *f) as they were before the mask and the
    discriminator's logits on them (n, 1, *f)."""

    logits: list[Tensor]
    encoder: list[Tensor]
    decoder: list[Tensor]
    tapped: Tensor
    decisions: Tensor


class AlignedUNet(ModalityUNet):
    """:class:`ModalityUNet` whose features at one stage pass :func:`local_feature_mask`, for target modalities alone.

    Everything after the tapped stage sees the masked features. The discriminator is part of the network, since
    inference needs it, but frozen: gradients run through it to the features and never into its weights, until a player
    of its own thaws it for its own step.

    Args:
        unet: the network to extend; its encoder and decoder are taken over.
        discriminator: features (n, c, *f) → logits (n, 1, *f).
        targets: names of the target modalities.
        side: whether the tapped stage is one of the encoder or of the decoder.
        stage: its index, 0 at full resolution.
        detached: take the mask as a constant instead of as a function of the features.
        game: that the discriminator plays; the mask is large where its decisions are certain, in either.

    Raises:
        ValueError: a stage that the network does not have.
    """

    is_target: Tensor

    def __init__(
        self,
        unet: ModalityUNet,
        discriminator: nn.Module,
        targets: Sequence[str],
        side: FeatureSide,
        stage: int,
        detached: bool = False,
        game: Game = "bce",
    ) -> None:
        super().__init__(unet, unet.image_channels, unet.modalities, unet.context)
        stages = len(unet.encoder.stages) if side == "encoder" else len(unet.decoder.stages)  # type: ignore[arg-type]
        if not 0 <= stage < stages:
            raise ValueError(f"the {side} has stages 0 … {stages - 1}, got {stage}")
        self.local_discriminator = discriminator.requires_grad_(False)
        self.tap = (side, stage)
        self.detached = detached
        self.game: Game = game
        is_target = torch.tensor([name in targets for name in self.modalities])
        self.register_buffer("is_target", is_target, persistent=False)

    def forward(  # type: ignore[override]
        self, x: Tensor, modality: Tensor | None = None, features: bool = False
    ) -> Tensor | list[Tensor] | AlignedFeatureMaps:
        """Segment; arguments and errors as :class:`ModalityUNet`'s, ``features=True`` gives
        :class:`AlignedFeatureMaps`."""
        image, modality = self.read_input(x, modality)
        self.context.modality = modality
        encoder: Any = self.encoder
        decoder: Any = self.decoder
        tapped = decisions = image
        stem = getattr(encoder, "stem", None)
        heads = getattr(encoder, "heads", None)  # a Swin encoder's, beside the path from stage to stage
        x = image if stem is None else stem(image)
        skips: list[Tensor] = []
        for index, stage in enumerate(encoder.stages):
            x = stage(x)
            skip = x if heads is None else heads[index](x)
            if self.tap == ("encoder", index):
                tapped = skip
                skip, decisions = self.masked(skip, modality)
            skips.append(skip)
            x = skip if heads is None else x
        x = skips[-1]
        maps: list[Tensor] = []
        for index in range(len(decoder.stages)):
            x = decoder.stages[index](torch.cat((decoder.transpconvs[index](x), skips[-index - 2]), 1))
            if self.tap == ("decoder", len(decoder.stages) - 1 - index):
                tapped = x
                x, decisions = self.masked(x, modality)
            maps.append(x)
        levels = len(decoder.seg_layers) if decoder.deep_supervision else 1
        logits = [decoder.seg_layers[-1 - i](maps[-1 - i]) for i in range(levels)]
        if features:
            return AlignedFeatureMaps(logits, skips, maps[::-1], tapped, decisions)
        return logits if decoder.deep_supervision else logits[0]

    def masked(self, features: Tensor, modality: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, c, *f), those of target modalities masked, and the discriminator's logits (n, 1, *f)."""
        decisions: Tensor = self.local_discriminator(features)
        signed = signed_decision(decisions.detach() if self.detached else decisions, self.game)
        raised = local_feature_mask(features, signed)
        chosen = self.is_target[modality].view(-1, *[1] * (features.ndim - 1))
        return torch.where(chosen, raised, features), decisions

    def for_modality(self, index: int) -> dict[str, Tensor]:
        """As :meth:`ModalityUNet.for_modality`; for a source modality the mask does not act, and nothing is lost.

        Raises:
            UnsupportedError: a target modality, whose features the discriminator masks also at inference.
        """
        if bool(self.is_target[index]):
            raise UnsupportedError(
                f"features of {self.modalities[index]} pass a mask that a discriminator makes, at inference too; "
                'no stock network has one: predict with "crossmod predict", or train with local_alignment=false'
            )
        state = super().for_modality(index)
        return {name: value for name, value in state.items() if not name.startswith("local_discriminator.")}


def build_aligned_unet(
    unet: Any,
    patch_size: Sequence[int],
    strides: Sequence[Sequence[int]],
    targets: Sequence[str],
    side: FeatureSide,
    stage: int | None,
    width: int,
    *,
    detached: bool = False,
    game: Game = "bce",
) -> AlignedUNet:
    """An :class:`AlignedUNet` with its discriminator D1.

    Args:
        unet: the network.
        patch_size: planned size of its input.
        strides: planned strides, one per stage, the first at full resolution.
        targets, side, detached, game: of the :class:`AlignedUNet`.
        stage: whose features are aligned; ``None`` is the bottleneck of the encoder, or the decoder's full resolution.
        width: channels of D1's first layer.
    """
    if stage is None:
        stage = len(unet.encoder.output_channels) - 1 if side == "encoder" else 0
    stride = [math.prod(axis) for axis in zip(*strides[: stage + 1], strict=True)]
    size = [length // step for length, step in zip(patch_size, stride, strict=True)]
    discriminator = build_feature_discriminator(unet.encoder.output_channels[stage], size, width)
    return AlignedUNet(unet, discriminator, targets, side, stage, detached, game)
