"""Networks that translate an image of one modality into another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from dynamic_network_architectures.building_blocks.helper import (
    convert_dim_to_conv_op,
    get_matching_instancenorm,
)
from torch import Tensor, nn

from nnunet_crossmod.nn.intensity_map import from_unit, to_unit

__all__ = [
    "ImageTranslator",
    "ResnetGenerator",
    "as_slices",
    "changed",
    "convolution",
    "fitting",
    "flicker",
    "from_slices",
    "initialise",
    "translator_plan",
    "translator_state",
    "upsampling",
]


LARGEST = 0.999  # of an image's −1 … 1, so that its inverse hyperbolic tangent is finite


def changed(image: Tensor, change: Tensor) -> Tensor:
    """An image (n, c, *s), −1 … 1, and what a generator adds to it in front of the tanh; a change of 0 leaves it.

    What is beyond the scan's edge stays empty, see :func:`framed`.
    """
    return framed(image, (image.float().clamp(-LARGEST, LARGEST).atanh() + change.float()).tanh())


def framed(image: Tensor, made: Tensor) -> Tensor:
    """What was made of an image (n, c, *s), which itself stays where it is 0 in every channel: beyond the scan's edge.

    nnU-Net pads with 0, and so does a rotation. Scans of two modalities may differ in how much of a patch they fill; a
    generator would otherwise learn to paint tissue beyond the edge, where labels say background.
    """
    return torch.where((image == 0).all(1, keepdim=True), image.to(made.dtype), made)


def fitting(kernel: int, size: int) -> int:
    """The largest odd kernel, at most ``kernel``, that reflection can pad on an axis of this size."""
    return max(1, min(kernel, 2 * size - 1))


def convolution(axes: int, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int] | int = 1) -> Any:
    """A convolution of two or three axes that mirrors the image at its edges."""
    kind: Any = convert_dim_to_conv_op(axes)
    return kind(inputs, outputs, kernel, stride, [k // 2 for k in kernel], padding_mode="reflect")


def upsampling(
    axes: int, inputs: int, outputs: int, kernel: Sequence[int], scale: Sequence[int]
) -> tuple[nn.Module, nn.Module]:
    """The inverse of a :func:`convolution` of stride ``scale``: nearest neighbour, then a convolution.

    A transposed convolution in their place would leave a checkerboard.
    """
    enlarged = nn.Upsample(scale_factor=tuple(map(float, scale)), mode="nearest")
    return enlarged, convolution(axes, inputs, outputs, kernel)


class _Activation(nn.Sequential):
    def __init__(self, axes: int, channels: int) -> None:
        super().__init__(get_matching_instancenorm(dimension=axes)(channels), nn.ReLU())


class _ResidualBlock(nn.Module):
    def __init__(self, axes: int, channels: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(axes, channels, channels, kernel),
            _Activation(axes, channels),
            convolution(axes, channels, channels, kernel),
            get_matching_instancenorm(dimension=axes)(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        body: Tensor = self.body(x)
        return x + body


class ResnetGenerator(nn.Module):
    """Down twice, residual blocks, up twice; what comes out is added to the image. Its encoder's features can be had.

    The sum is taken before the tanh, and the last convolution begins at zero: an untrained generator returns its image,
    so that whoever learns from its translations never sees noise. What lies beyond the scan's edge stays empty.

    ``generator(x)`` translates x (n, c, *s), −1 … 1; :meth:`encode` gives the features of five layers, the input among
    them; :meth:`translate_and_encode` gives both for one pass.

    Args:
        channels: c.
        size: of the images it is built for; other sizes work where the strides divide them.
        width: channels of the first layer; doubled by either stride.
        blocks: residual blocks, at least 2.
        strides: of the two down-convolutions, an integer an axis, 1 or 2; axes of stride 1 keep their length.

    Raises:
        ValueError: a size that the strides do not divide, or fewer than two blocks.

    Source: Johnson et al., ECCV 2016, as used by CycleGAN, CUT and CISFA (width 64, nine blocks). Differs from them:
    the image is added; plain strides instead of blurred pooling; nearest-neighbour upsampling in front of a convolution
    instead of transposed convolutions, which leave a checkerboard.
    """

    def __init__(
        self,
        channels: int,
        size: Sequence[int],
        width: int = 64,
        blocks: int = 9,
        strides: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        axes = len(size)
        strides = [[2] * axes] * 2 if strides is None else [list(stride) for stride in strides]
        self.multiple = [first * second for first, second in zip(*strides, strict=True)]
        if blocks < 2 or any(length % m for length, m in zip(size, self.multiple, strict=True)):
            raise ValueError(
                f"expected at least 2 blocks and a size in multiples of {self.multiple}, got {blocks} and {list(size)}"
            )
        outer = [fitting(7, length) for length in size]
        self.stem = nn.Sequential(convolution(axes, channels, width, outer), _Activation(axes, width))
        self.down, self.activations = nn.ModuleList(), nn.ModuleList()
        kernels, length = [], list(size)
        for level, stride in enumerate(strides):
            kernels.append([fitting(3, one) for one in length])
            inputs, outputs = width * 2**level, width * 2 ** (level + 1)
            self.down.append(convolution(axes, inputs, outputs, kernels[-1], stride))
            self.activations.append(_Activation(axes, outputs))
            length = [one // s for one, s in zip(length, stride, strict=True)]
        inner = [fitting(3, one) for one in length]
        self.blocks = nn.ModuleList([_ResidualBlock(axes, 4 * width, inner) for _ in range(blocks)])
        up: list[nn.Module] = []
        for level in (1, 0):
            outputs = width * 2**level
            up += [*upsampling(axes, 2 * outputs, outputs, kernels[level], strides[level]), _Activation(axes, outputs)]
        self.up = nn.Sequential(*up, convolution(axes, width, channels, outer))
        self.feature_channels = [channels, 2 * width, 4 * width, 4 * width, 4 * width]
        self.apply(initialise)
        nn.init.zeros_(self.up[-1].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Translate x (n, c, *s), −1 … 1: the same shape."""
        return self.translate_and_encode(x)[0]

    def encode(self, x: Tensor) -> list[Tensor]:
        """Features (n, c_i, *s_i) of x: x itself, both down-convolutions, the first and the middle residual block."""
        features, _ = self._encode(x)
        return features

    def translate_and_encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The translation of x and the features that :meth:`encode` gives, for one pass."""
        features, x = self._encode(x)
        for block in self.blocks[len(self.blocks) // 2 + 1 :]:
            x = block(x)
        return changed(features[0], self.up(x)), features

    def _encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        if any(length % m for length, m in zip(x.shape[2:], self.multiple, strict=True)):
            raise ValueError(f"expected a size in multiples of {self.multiple}, got {tuple(x.shape[2:])}")
        features = [x]
        x = self.stem(x)
        for convolution, activation in zip(self.down, self.activations, strict=True):
            features.append(convolution(x))
            x = activation(features[-1])
        middle = len(self.blocks) // 2
        for position, block in enumerate(self.blocks[: middle + 1]):
            x = block(x)
            if position in (0, middle):
                features.append(x)
        return features, x


def initialise(module: nn.Module) -> None:
    """Weights of a convolution as image generators begin with: normal, deviation 0.02; apply it to a network."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def translator_plan(
    patch_size: Sequence[int], strides: Sequence[Sequence[int]], mode: Literal["volume", "slices"]
) -> tuple[bool, Sequence[int], list[Sequence[int]]]:
    """The images a translator works on and the strides of its two down-convolutions.

    Args:
        patch_size: planned size of a patch.
        strides: planned strides, one per stage of the network, the first at full resolution.
        mode: whether volumes are translated whole, or slice by slice across their first axis.

    Returns:
        whether it works slice by slice (never in 2D), the size of an image and two strides: the planned ones, at most
        2, so that thick slices are not merged.
    """
    slicewise = len(patch_size) == 3 and mode == "slices"
    first = 1 if slicewise else 0
    planned = [[min(s, 2) for s in stride[first:]] for stride in strides[1:3]]
    return slicewise, patch_size[first:], [*planned, *[[1] * len(patch_size[first:])] * (2 - len(planned))]


def as_slices(volume: Tensor) -> Tensor:
    """Slices across the first axis as images of their own: (n, c, z, *s) → (n · z, c, *s)."""
    return volume.movedim(2, 1).flatten(0, 1)


def from_slices(slices: Tensor, depth: int) -> Tensor:
    """The inverse of :func:`as_slices`: (n · depth, c, *s) → (n, c, depth, *s)."""
    return slices.reshape(-1, depth, *slices.shape[1:]).movedim(1, 2)


def flicker(volume: Tensor) -> Tensor:
    """How much neighbouring slices differ: the mean absolute difference along the first axis over the deviation.

    Args:
        volume: (n, c, z, *s), any scale, z at least 2.

    Returns:
        scalar, 0 where all slices are alike; compare it with that of the source.
    """
    volume = volume.float()
    return volume.diff(dim=2).abs().mean() / volume.std().clamp(min=1e-6)


TRANSLATOR = "translator."


def translator_state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of the translator that some player of a trainer's checkpoint trains; empty where none does."""
    players = checkpoint.get("crossmod", {}).get("players", {})
    return {
        name.removeprefix(TRANSLATOR): value
        for player in players.values()
        for module in player["modules"]
        for name, value in module.items()
        if name.startswith(TRANSLATOR)
    }


class ImageTranslator(nn.Module):
    """A generator as it is used on nnU-Net's images: z-scores in, z-scores out.

    Args:
        generator: works on −1 … 1.
        slicewise: volumes pass a 2D generator slice by slice, across their first axis.
    """

    generator: Any

    def __init__(self, generator: nn.Module, slicewise: bool = False) -> None:
        super().__init__()
        self.generator = generator
        self.slicewise = slicewise

    def forward(self, images: Tensor, modality: Tensor | None = None, wanted: Tensor | None = None) -> Tensor:
        """Translate.

        Args:
            images: (n, c, *s), z-scores.
            modality: index of each sample's modality (n,); a generator that knows one way takes no notice.
            wanted: index of the modality to show it in (n,), likewise.

        Returns:
            (n, c, *s), z-scores, single precision.
        """
        return self.restored(self.generator(self.shown(images)), images.shape[2])

    def shown(self, images: Tensor) -> Tensor:
        """What the generator sees of z-scored images: −1 … 1, slices where it works slice by slice."""
        return self.sliced(to_unit(images))

    def restored(self, shown: Tensor, depth: int) -> Tensor:
        """z-scored images of what the generator made; volumes of ``depth`` slices where it works slice by slice."""
        return from_unit(from_slices(shown, depth) if self.slicewise else shown)

    def sliced(self, images: Tensor) -> Tensor:
        """Images (n, c, *s) as they are, or their slices where the generator works slice by slice."""
        return as_slices(images) if self.slicewise else images
