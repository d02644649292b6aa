"""One body, a head a domain: is this a real image of the domain that it claims to be of?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnunet_crossmod.nn.image_discriminators import ImageDiscriminator

__all__ = ["DomainImageDiscriminator"]


class DomainImageDiscriminator(nn.Module):
    """:class:`ImageDiscriminator` with an output convolution for every domain.

    Args:
        channels: of the images.
        size: of the images, in voxels.
        domains: m.
        width: channels of the first layer, doubled in every further one.

    Source: Su et al., "Mind the Gap": kernel 4; 64, 128 and 256 channels with stride, 512 without; instance norm (as in
    a PatchGAN not after the first layer), LeakyReLU 0.2.
    """

    def __init__(self, channels: int, size: Sequence[int], domains: int, width: int = 64) -> None:
        super().__init__()
        # every channel of a convolution has weights of its own: m output convolutions in one
        self.judge = ImageDiscriminator(channels, size, width, outputs=domains)

    def forward(self, image: Tensor, modality: Tensor) -> Tensor:
        """The decision of each sample's head on every patch (n, 1, *s), without a sigmoid.

        Args:
            image: (n, channels, *s).
            modality: index of the domain each image claims to be of (n,).
        """
        decisions: Tensor = self.judge(image)
        return decisions[torch.arange(len(image), device=image.device), modality][:, None]
