"""nnU-Net's planned U-Net, aware of the modality and able to return its features."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import Tensor, nn

from nnunet_crossmod.errors import CrossmodError, UnsupportedError
from nnunet_crossmod.nn.border import has_empty_border
from nnunet_crossmod.nn.conditional_norm import ModalityContext, condition_norms
from nnunet_crossmod.nn.stock_state import stock_state_of_parts

__all__ = ["Conditioning", "FeatureMaps", "ModalityUNet", "build_unet", "read_modality"]

Network = TypeVar("Network", bound="ModalityUNet")
Conditioning = Literal["none", "encoder", "all"]


UNCROPPED = (
    "the scan has an empty border, which no training scan has: is its modality channel a constant over the whole "
    "array? nnU-Net then crops nothing, and predictions change: make it with crossmod modality-channel, or in Python "
    "with nnunet_crossmod.data.add_modality_channel"
)


class FeatureMaps(NamedTuple):
    """What ``network(image, modality, features=True)`` returns; index i is the planned stage i, 0 at full resolution.

    ``logits``: (n, k, *s) of the deep-supervision stages 0, 1, … (only stage 0 when deep supervision is off).
    ``encoder``: (n, c_i, *s_i) of all stages, the last the bottleneck. ``decoder``: all stages but the bottleneck.
    """

    logits: list[Tensor]
    encoder: list[Tensor]
    decoder: list[Tensor]


def read_modality(channel: Tensor, modalities: Sequence[str]) -> Tensor:
    """Read each sample's modality from its modality channel.

    Args:
        channel: (n, *s); ``index + 1`` on the image, 0 on padding.
        modalities: the names, in the order of the indices; only for the message.

    Returns:
        indices (n,), int64.

    Raises:
        CrossmodError: the channel is 0 everywhere, out of range or not constant on the image.
    """
    value = channel.flatten(1).amax(1)
    index = value.round().long() - 1
    level = value.reshape(-1, *[1] * (channel.ndim - 1))
    constant = ((channel == 0) | ((channel - level).abs() < 0.01)).all() & ((value - value.round()).abs() < 0.01).all()
    if not bool(constant & ((index >= 0) & (index < len(modalities))).all()):
        raise CrossmodError(
            f"the last input channel is no modality channel: it spans {float(channel.min()):.4g} to "
            f"{float(channel.max()):.4g}, but must be one of "
            f"{', '.join(f'{i + 1} ({name})' for i, name in enumerate(modalities))} on the image and 0 around it: "
            'make it with "crossmod modality-channel -i SCANS -o INPUT -m MODALITY -d DATASET"'
        )
    return index


class ModalityUNet(nn.Module):
    """A planned network, nnU-Net's U-Nets or ``SwinUNETR``, that knows the modality of its input.

    ``network(x)`` reads the modality from the last channel and returns logits as nnU-Net expects them;
    ``network(image, modality)`` takes it from the caller; ``features=True`` also returns :class:`FeatureMaps`.
    The parameters carry the names they have in the stock network.
    """

    def __init__(self, unet: Any, image_channels: int, modalities: Sequence[str], context: ModalityContext) -> None:
        super().__init__()
        self.encoder: nn.Module = unet.encoder
        self.decoder: nn.Module = unet.decoder
        self.image_channels = image_channels
        self.modalities = tuple(modalities)
        self.context = context
        self.expects_crop = False
        """Whether no training scan has an empty border: one that has was not cropped, which is worth a warning."""
        self._looks = False

    def train(self: Network, mode: bool = True) -> Network:
        """As PyTorch's; nnU-Net calls ``eval()`` before every scan, whose first tile is then looked at."""
        self._looks = self.expects_crop and not mode
        return super().train(mode)

    def forward(
        self,
        x: Tensor,
        modality: Tensor | None = None,
        features: bool = False,
        rows: Sequence[slice | Tensor] | None = None,
    ) -> Tensor | list[Tensor] | FeatureMaps:
        """Segment.

        Args:
            x: images (n, c, *s); with ``modality=None`` followed by the modality channel (n, c + 1, *s).
            modality: index of each sample's modality (n,).
            features: return :class:`FeatureMaps` instead of logits.
            rows: index of every modality's samples, where the caller knows them: a network that sends modalities
                different ways then need not wait for the device to tell.

        Returns:
            logits (n, k, *s), or a list of them, full resolution first, under deep supervision.

        Raises:
            CrossmodError: a modality channel that is missing or not valid.
        """
        x, modality = self.read_input(x, modality)
        skips = self.encode(x, modality, rows)
        if features:
            return self._decode_with_features(skips)
        logits: Tensor | list[Tensor] = self.decoder(skips)
        return logits

    def read_input(self, x: Tensor, modality: Tensor | None) -> tuple[Tensor, Tensor]:
        """Images and modality of what :meth:`forward` is given."""
        if modality is None:
            if x.shape[1] > self.image_channels + 1:
                raise CrossmodError(
                    f"got {x.shape[1]} input channels, expected {self.image_channels} image channel(s) and the "
                    "modality channel: this is no cascade, so leave out -prev_stage_predictions; or take out a channel "
                    "too many"
                )
            if x.shape[1] < self.image_channels + 1:
                raise CrossmodError(
                    f"got {x.shape[1]} input channel(s), expected {self.image_channels} image channel(s) and the "
                    'modality channel: add it with "crossmod modality-channel -i SCANS -o INPUT -m MODALITY -d DATASET"'
                )
            modality = read_modality(x[:, -1], self.modalities)
            if self._looks and has_empty_border(x[:, :-1], x[:, -1]):
                warnings.warn(UNCROPPED, stacklevel=2)
            self._looks = False
            x = x[:, :-1]
        return x, modality

    def encode(self, image: Tensor, modality: Tensor, rows: Sequence[slice | Tensor] | None = None) -> list[Tensor]:
        """The encoder's features (n, c_i, *s_i) of images (n, c, *s) of the given modalities (n,), bottleneck last."""
        self.context.modality = modality
        self.context.rows = rows
        features: list[Tensor] = self.encoder(image)
        return features

    def for_modality(self, index: int) -> dict[str, Tensor]:
        """The state dict of the stock network that this network is for one modality.

        A network that is more than the planned one overrides this, or gives the part that is more a ``for_modality`` of
        its own (see :func:`~nnunet_crossmod.nn.stock_state.stock_state`).

        Raises:
            UnsupportedError: it is more than a stock network for one modality, too; the line says why.
        """
        return stock_state_of_parts(self, index)

    def _decode_with_features(self, skips: list[Tensor]) -> FeatureMaps:
        decoder: Any = self.decoder
        x = skips[-1]
        maps = []
        for upsample, stage, skip in zip(decoder.transpconvs, decoder.stages, reversed(skips[:-1]), strict=True):
            x = stage(torch.cat((upsample(x), skip), 1))
            maps.append(x)
        levels = len(decoder.seg_layers) if decoder.deep_supervision else 1
        logits = [decoder.seg_layers[-1 - i](maps[-1 - i]) for i in range(levels)]
        return FeatureMaps(logits, skips, maps[::-1])


def build_unet(
    architecture: dict[str, Any],
    num_input_channels: int,
    num_output_channels: int,
    modalities: Sequence[str],
    *,
    conditioning: Conditioning = "encoder",
    affine_of: Sequence[int] | None = None,
    deep_supervision: bool = True,
) -> ModalityUNet:
    """Build the planned network with modality-conditional norms.

    Args:
        architecture: ``architecture`` of the plans' configuration; it is not changed.
        num_input_channels: image channels plus the modality channel.
        num_output_channels: classes k.
        modalities: their names.
        conditioning: which norms are conditional: none, the encoder's (as in AICL) or all.
        affine_of: the modality whose affine every modality takes in conditional norms; its own by default.
        deep_supervision: whether the decoder returns logits at every stage.

    Raises:
        UnsupportedError: a network without a U-Net's encoder and decoder.
    """
    context = ModalityContext()
    unet: Any = get_network_from_plans(
        architecture["network_class_name"],
        deepcopy(architecture["arch_kwargs"]),
        architecture["_kw_requires_import"],
        num_input_channels - 1,
        num_output_channels,
        allow_init=True,
        deep_supervision=deep_supervision,
    )
    if not hasattr(getattr(unet, "decoder", None), "transpconvs"):
        raise UnsupportedError(
            f"{architecture['network_class_name']} has no U-Net decoder: use nnU-Net's default or ResEnc planner, or "
            'SwinUNETR by "crossmod configure … --network swin_unetr"'
        )
    if conditioning != "none":
        part = unet.encoder if conditioning == "encoder" else unet
        condition_norms(part, len(modalities), context, affine_of)
    return ModalityUNet(unet, num_input_channels - 1, modalities, context)
