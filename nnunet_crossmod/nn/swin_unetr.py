"""SwinUNETR, its parts in the places where nnU-Net's U-Nets have theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_crossmod.errors import UnsupportedError

__all__ = ["SwinDecoder", "SwinEncoder", "SwinUNETR"]

LEVELS = 5
"""How often SwinUNETR halves: an axis of the patch must be a multiple of 2 to that power."""


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (n, c, *s), without an affine."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (n, c, *s)."""
        last = x.movedim(1, -1)
        return functional.layer_norm(last, last.shape[-1:]).movedim(-1, 1)


class SwinEncoder(nn.Module):
    """The Swin transformer and the convolutions that its hidden states pass.

    ``stages`` lead from one scale to the next: the image, its patches, four transformer layers. ``heads`` make of what
    each stage gives the features that the decoder sees. ``output_channels`` are those of the features.

    Args:
        network: MONAI's network, whose parts are taken over.
        width: its ``feature_size``.
    """

    def __init__(self, network: Any, width: int) -> None:
        super().__init__()
        swin = network.swinViT
        embedding = nn.Sequential(swin.patch_embed, swin.pos_drop)
        layers = [swin.layers1[0], swin.layers2[0], swin.layers3[0], swin.layers4[0]]
        self.stages = nn.ModuleList([nn.Identity(), embedding, *layers])
        self.heads = nn.ModuleList(
            [
                network.encoder1,
                *(nn.Sequential(ChannelNorm(), b) for b in (network.encoder2, network.encoder3, network.encoder4)),
                ChannelNorm(),
                nn.Sequential(ChannelNorm(), network.encoder10),
            ]
        )
        self.output_channels = [width, *(width * 2**i for i in range(LEVELS))]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features (n, c_i, *s_i) of images (n, c, *s): strides 1, 2, 4, … 32."""
        features = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            features.append(head(x))
        return features


class SwinDecoder(nn.Module):
    """The residual convolutions on the way up, one output at full resolution.

    Args:
        network: MONAI's network, whose parts are taken over.
        encoder: held as nnU-Net's decoders hold theirs.
        num_classes: of the output.
    """

    def __init__(self, network: Any, encoder: SwinEncoder, num_classes: int) -> None:
        super().__init__()
        blocks = [network.decoder5, network.decoder4, network.decoder3, network.decoder2, network.decoder1]
        self.encoder = encoder
        self.transpconvs = nn.ModuleList(block.transp_conv for block in blocks)
        self.stages = nn.ModuleList(block.conv_block for block in blocks)
        self.seg_layers = nn.ModuleList([network.out])
        self.num_classes = num_classes
        self.deep_supervision = False

    def forward(self, skips: Sequence[Tensor]) -> Tensor:
        """Logits (n, k, *s) of the encoder's features."""
        x = skips[-1]
        for upsample, stage, skip in zip(self.transpconvs, self.stages, reversed(skips[:-1]), strict=True):
            x = stage(torch.cat((upsample(x), skip), 1))
        logits: Tensor = self.seg_layers[0](x)
        return logits


class SwinUNETR(nn.Module):
    """MONAI's SwinUNETR as nnU-Net builds networks, with the encoder and decoder of a U-Net.

    Args:
        input_channels, num_classes: of images and logits.
        n_dims: 2 or 3.
        strides: of the stages, for nnU-Net, which reads them from the plans: (1, …), then five times (2, …).
        feature_size: channels at full resolution, a multiple of 12.
        depths, num_heads: of the four transformer layers.
        window_size: of the attention, in tokens.
        deep_supervision: there is none.

    Raises:
        UnsupportedError: ``deep_supervision``.
        ValueError: strides that are not the network's.

    Source: Hatamizadeh et al., Swin UNETR, BrainLes 2021; network and defaults are MONAI's, its instance norms have an
    affine.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        n_dims: int,
        strides: Sequence[Sequence[int]],
        feature_size: int = 48,
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        deep_supervision: bool = False,
        n_stages: int = LEVELS + 1,
    ) -> None:
        from monai.networks.nets.swin_unetr import SwinUNETR as MonaiSwinUNETR  # seconds, where no network is built

        super().__init__()
        if deep_supervision:
            raise UnsupportedError("SwinUNETR has one output: set enable_deep_supervision=false")
        own = [[1] * n_dims, *[[2] * n_dims] * LEVELS]
        if [list(stride) for stride in strides] != own or n_stages != len(own):
            raise ValueError(f"SwinUNETR has the strides {own}, got {strides}")
        network = MonaiSwinUNETR(
            in_channels=input_channels,
            out_channels=num_classes,
            feature_size=feature_size,
            depths=depths,
            num_heads=num_heads,
            window_size=window_size,
            norm_name=("instance", {"affine": True}),
            spatial_dims=n_dims,
        )
        self.encoder = SwinEncoder(network, feature_size)
        self.decoder = SwinDecoder(network, self.encoder, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, k, *s) of images (n, c, *s), every axis a multiple of 32."""
        logits: Tensor = self.decoder(self.encoder(x))
        return logits
