"""An auto-encoder that moves images between domains by adaptive instance norms in both of its halves (GLUA)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_crossmod.nn.generators import ImageTranslator, changed, convolution, fitting, initialise, upsampling

__all__ = ["AdaINAutoEncoder", "StyleTranslator", "adaptive_instance_norm"]


def adaptive_instance_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalise every image and channel by its own statistics, then scale and shift it as its style says.

    .. math:: \\gamma \\frac{x - \\mu}{\\sqrt{\\sigma^2 + \\epsilon}} + \\beta

    Args:
        x: features (n, c, *s), more than one voxel each.
        weight: γ (n, c), one an image.
        bias: β (n, c).
        eps: added to the variance.

    Returns:
        (n, c, *s).

    Raises:
        ValueError: shapes that do not fit.

    Source: Huang and Belongie, ICCV 2017, Eq. 8; γ and β come from a network of the domain as in Su et al.,
    "Mind the Gap".
    """
    n, c = x.shape[:2]
    if weight.shape != (n, c) or bias.shape != (n, c):
        raise ValueError(f"expected weight and bias ({n}, {c}), got {tuple(weight.shape)} and {tuple(bias.shape)}")
    folded = x.reshape(1, n * c, *x.shape[2:])
    normed = functional.instance_norm(folded, weight=weight.reshape(-1), bias=bias.reshape(-1), eps=eps)
    return normed.reshape(x.shape)


class _Layer(nn.Module):
    """Convolution, adaptive norm, ReLU."""

    def __init__(self, conv: nn.Module, channels: int) -> None:
        super().__init__()
        self.convolution = conv
        self.norms = [channels]

    def forward(self, x: Tensor, affines: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        (weight, bias), *_ = affines
        return functional.relu(adaptive_instance_norm(self.convolution(x), weight, bias))


class _ResidualBlock(nn.Module):
    """Two convolutions with an adaptive norm each, added to what came in."""

    def __init__(self, axes: int, channels: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.first = convolution(axes, channels, channels, kernel)
        self.second = convolution(axes, channels, channels, kernel)
        self.norms = [channels, channels]

    def forward(self, x: Tensor, affines: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        first, second = affines
        y = functional.relu(adaptive_instance_norm(self.first(x), *first))
        return x + adaptive_instance_norm(self.second(y), *second)


class _Half(nn.Module):
    """Layers, and the multi-layer perceptron that makes their affines of the domain."""

    def __init__(self, layers: Sequence[_Layer | _ResidualBlock], domains: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norms = [layer.norms for layer in layers]
        self.domains = domains
        numbers = 2 * sum(map(sum, self.norms))
        self.style = nn.Sequential(
            nn.Linear(domains, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, numbers)
        )

    def forward(self, x: Tensor, modality: Tensor) -> Tensor:
        numbers = self.style(torch.eye(self.domains, dtype=x.dtype, device=x.device)[modality])
        sizes = [size for norms in self.norms for channels in norms for size in (channels, channels)]
        parts = iter(numbers.split(sizes, 1))
        for layer, norms in zip(self.layers, self.norms, strict=True):
            # around 1, so that an untrained network begins with plain instance norms
            x = layer(x, [(1 + next(parts), next(parts)) for _ in norms])
        return x


class AdaINAutoEncoder(nn.Module):
    """``decode(encode(x, i), j, x)`` shows an image x of domain i as one of domain j; for i = j it reconstructs it.

    Encoder: convolutions of kernel 7, then 3 and 3 with stride, residual blocks. The decoder mirrors it with
    nearest-neighbour upsampling; what comes out is added to x in front of a tanh, and its last convolution begins at
    zero: an untrained network returns its image. Every norm is adaptive; a perceptron (m → 256 → 256 → all γ and β) in
    each half makes their affines of the one-hot domain.

    Args:
        channels: c.
        size: of the images it is built for; other sizes work where the strides divide them.
        domains: m.
        width: channels of the first layer, doubled by either stride.
        blocks: residual blocks in each half.
        strides: of the two down-convolutions, an integer an axis, 1 or 2; axes of stride 1 keep their length.
        hidden: width of the perceptrons.

    Raises:
        ValueError: a size that the strides do not divide.

    Source: Su et al., "Mind the Gap" (no released code). Differs: the image is added; no transposed convolutions; γ is
    1 + what the perceptron gives.
    """

    def __init__(
        self,
        channels: int,
        size: Sequence[int],
        domains: int,
        width: int = 64,
        blocks: int = 4,
        strides: Sequence[Sequence[int]] | None = None,
        hidden: int = 256,
    ) -> None:
        super().__init__()
        axes = len(size)
        strides = [[2] * axes] * 2 if strides is None else [list(stride) for stride in strides]
        self.multiple = [first * second for first, second in zip(*strides, strict=True)]
        self._check(size)
        outer = [fitting(7, length) for length in size]
        down: list[_Layer | _ResidualBlock] = [_Layer(convolution(axes, channels, width, outer), width)]
        kernels, length = [], list(size)
        for level, stride in enumerate(strides):
            kernels.append([fitting(3, one) for one in length])
            outputs = 2 * width * 2**level
            down.append(_Layer(convolution(axes, outputs // 2, outputs, kernels[-1], stride), outputs))
            length = [one // s for one, s in zip(length, stride, strict=True)]
        inner = [fitting(3, one) for one in length]

        def residual() -> list[_Layer | _ResidualBlock]:
            return [_ResidualBlock(axes, 4 * width, inner) for _ in range(blocks)]

        up = residual()
        for level in (1, 0):
            outputs = width * 2**level
            enlarge = upsampling(axes, 2 * outputs, outputs, kernels[level], strides[level])
            up.append(_Layer(nn.Sequential(*enlarge), outputs))
        self.encoder = _Half([*down, *residual()], domains, hidden)
        self.decoder = _Half(up, domains, hidden)
        self.last = convolution(axes, width, channels, outer)
        self.apply(initialise)
        nn.init.zeros_(self.last.weight)

    def _check(self, size: Sequence[int]) -> None:
        if any(length % m for length, m in zip(size, self.multiple, strict=True)):
            raise ValueError(f"expected a size in multiples of {self.multiple}, got {list(size)}")

    def encode(self, image: Tensor, modality: Tensor) -> Tensor:
        """The content (n, 4 · width, *f) of images (n, c, *s), −1 … 1, of the given domains (n,)."""
        self._check(image.shape[2:])
        content: Tensor = self.encoder(image, modality)
        return content

    def decode(self, content: Tensor, modality: Tensor, image: Tensor) -> Tensor:
        """The image (n, c, *s), −1 … 1, that shows a content in the given domains (n,).

        Args:
            content: what :meth:`encode` gave of ``image``.
            modality: wanted domains.
            image: (n, c, *s), to which the change is added; empty beyond the scan's edge, as the result is.
        """
        return changed(image, self.last(self.decoder(content, modality)))

    def forward(self, image: Tensor, modality: Tensor, wanted: Tensor) -> Tensor:
        """Show images (n, c, *s) of the domains ``modality`` (n,) as images of the domains ``wanted`` (n,)."""
        return self.decode(self.encode(image, modality), wanted, image)


class StyleTranslator(ImageTranslator):
    """An auto-encoder of several domains as it is used on nnU-Net's images: z-scores in, z-scores out."""

    generator: AdaINAutoEncoder

    def forward(self, images: Tensor, modality: Tensor, wanted: Tensor) -> Tensor:  # type: ignore[override]
        """Translate.

        Args:
            images: (n, c, *s), z-scores.
            modality: index of each sample's modality (n,).
            wanted: index of the modality to show it in (n,).

        Returns:
            (n, c, *s), z-scores, single precision; 0 beyond the scan's edge.
        """
        shown = self.shown(images)
        repeats = len(shown) // max(1, len(images))
        own, target = (index.repeat_interleave(repeats) for index in (modality, wanted))
        return self.restored(self.generator(shown, own, target), images.shape[2])
