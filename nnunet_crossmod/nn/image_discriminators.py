"""Discriminators of images and of label maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["ImageDiscriminator"]

_ACTIVATION = ("LEAKYRELU", {"negative_slope": 0.2})


class ImageDiscriminator(nn.Module):
    """Judges every patch of an image by itself (PatchGAN): 4-wide convolutions, instance norm, leaky ReLU 0.2.

    MONAI's ``PatchDiscriminator``, which halves all axes alike, where every axis is long enough for it. On the short
    axes of an anisotropic volume the same layers go without stride, 3 wide: they keep their length.

    Args:
        channels: of the image; classes k for a softmax map.
        size: of the images, in voxels.
        width: channels of the first layer, doubled in every further one.
        layers: convolutions after the first; all but the last of them halve. The paper's 70 x 70 patches have 3.
        outputs: decisions on every patch.
    """

    def __init__(self, channels: int, size: Sequence[int], width: int = 64, layers: int = 3, outputs: int = 1) -> None:
        super().__init__()
        # imported here: MONAI's networks take seconds, and inference needs none of them
        from monai.networks.nets.patchgan_discriminator import PatchDiscriminator

        # MONAI's layers halve `layers` times, then both last ones take a voxel each: one must be left
        if min(size) >= 3 * 2**layers:
            self.layers: nn.Module = PatchDiscriminator(
                len(size),
                width,
                channels,
                out_channels=outputs,
                num_layers_d=layers,
                activation=_ACTIVATION,
                norm="INSTANCE",
            )
        else:
            self.layers = _anisotropic(channels, size, width, layers, outputs)

    def forward(self, image: Tensor) -> Tensor:
        """The decision on every patch (n, outputs, *s), without a sigmoid, of an image (n, channels, *s)."""
        decision: Tensor | list[Tensor] = self.layers(image)
        return decision if isinstance(decision, Tensor) else decision[-1]


def _anisotropic(channels: int, size: Sequence[int], width: int, layers: int, decisions: int) -> nn.Module:
    from monai.networks.blocks.convolutions import Convolution
    from monai.networks.utils import normal_init

    length, built = list(size), []
    inputs = channels
    for layer in range(layers + 2):
        first, last = layer == 0, layer == layers + 1
        halved = [one >= 8 and layer < layers for one in length]
        outputs = decisions if last else width * 2**layer
        options: dict[str, Any] = {"conv_only": True} if last else {"act": _ACTIVATION}
        built.append(
            Convolution(
                len(size),
                inputs,
                outputs,
                strides=[2 if h else 1 for h in halved],
                kernel_size=[4 if h else 3 for h in halved],
                padding=1,
                norm=None if first or last else "INSTANCE",
                bias=first or last,
                **options,
            )
        )
        inputs, length = outputs, [one // 2 if h else one for one, h in zip(length, halved, strict=True)]
    network: nn.Module = nn.Sequential(*built).apply(normal_init)
    return network
