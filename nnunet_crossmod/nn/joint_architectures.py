"""What modalities share: not the encoder, or everything but a gain per channel (EAM, Eq. 13-15)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.residual import BasicBlockD, BottleneckD
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from torch import Tensor, nn

from nnunet_crossmod.nn.conditional_norm import ModalityContext
from nnunet_crossmod.nn.stock_state import stock_state
from nnunet_crossmod.nn.unet import FeatureMaps, ModalityUNet

__all__ = ["EncoderPerModality", "GainedBranch", "ModalityGain", "ModulatedUNet", "encoder_per_modality"]


class EncoderPerModality(nn.Module):
    """Drop-in encoder that sends every sample through the encoder of its modality.

    Args:
        encoders: alike in structure, in the order of the modalities.
        context: where the network leaves the modality of the current batch.

    Source: Yang et al., MIDL 2023, appendix, architecture V1.
    """

    def __init__(self, encoders: Sequence[Any], context: ModalityContext) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.output_channels = encoders[0].output_channels
        self.context = context

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features (n, c_i, *s_i) of every stage of the images (n, c, *s), in their order."""
        rows = self.context.rows
        if rows is None:
            rows = _rows_of(self.context.modality, len(self.encoders))
        present = [(encoder, chosen) for encoder, chosen in zip(self.encoders, rows, strict=True) if _any(chosen)]
        if len(present) == 1:
            alone: list[Tensor] = present[0][0](x)
            return alone
        stages = zip(*(encoder(x[chosen]) for encoder, chosen in present), strict=True)
        return [_in_order(parts, [chosen for _, chosen in present], len(x)) for parts in stages]

    def for_modality(self, index: int) -> dict[str, Tensor]:
        """The encoder of one modality, in the names of the stock encoder."""
        return stock_state(self.encoders[index], index)


def encoder_per_modality(networks: Sequence[ModalityUNet]) -> ModalityUNet:
    """One network with the encoder of each of the given ones, in the order of the modalities, and the first's decoder.

    Raises:
        ValueError: not one network per modality.
    """
    first = networks[0]
    if len(networks) != len(first.modalities):
        raise ValueError(f"expected {len(first.modalities)} networks, one a modality, got {len(networks)}")
    decoder: Any = first.decoder
    first.encoder = decoder.encoder = EncoderPerModality([network.encoder for network in networks], first.context)
    return first


def _rows_of(modality: Tensor | None, modalities: int) -> list[slice | Tensor]:
    if modality is None:
        raise RuntimeError("no modality set: call the network, not its encoder")
    known = modality.tolist()
    return [
        torch.tensor([i for i, m in enumerate(known) if m == wanted], dtype=torch.long, device=modality.device)
        for wanted in range(modalities)
    ]


def _any(chosen: slice | Tensor) -> bool:
    return chosen.stop > chosen.start if isinstance(chosen, slice) else len(chosen) > 0


def _in_order(parts: Sequence[Tensor], rows: Sequence[slice | Tensor], samples: int) -> Tensor:
    merged = parts[0].new_empty(samples, *parts[0].shape[1:])
    for part, chosen in zip(parts, rows, strict=True):
        merged[chosen] = part
    return merged


class ModalityGain(nn.Module):
    """Scale every channel by a gain of the modality, derived from its class embeddings.

    .. math:: \\Omega = w_1 Q, \\quad \\Phi = \\mathrm{diag}(1 + \\Omega W)

    A linear map of each channel right behind a norm: a modality's gains fold into that norm's affine.

    Args:
        classes: z.
        width: c of the class embeddings.
        channels: of the features that are scaled.
        context: where the network leaves the modality and the class embeddings.

    Source: Yang et al., MIDL 2023, Eq. 13-15. Differs from the paper: 1 is added and W begins at 0, so that training
    begins at the network that all modalities share.
    """

    def __init__(self, classes: int, width: int, channels: int, context: ModalityContext) -> None:
        super().__init__()
        self.context = context
        self.mix = nn.Parameter(torch.randn(1, classes) / math.sqrt(classes))
        self.project = nn.Linear(width, channels, bias=False)
        nn.init.zeros_(self.project.weight)

    def gains(self, class_embeddings: Tensor) -> Tensor:
        """Gains (m, channels) from the class embeddings (m, z, c)."""
        gains: Tensor = 1 + self.project((self.mix @ class_embeddings)[:, 0])
        return gains

    def of_samples(self) -> Tensor:
        """Gains of each sample's modality (n, channels)."""
        if self.context.modality is None or self.context.class_embeddings is None:
            raise RuntimeError("no modality set: call the network, not its encoder")
        return self.gains(self.context.class_embeddings)[self.context.modality]

    def of_modality(self, index: int) -> Tensor:
        """Gains of one modality (channels,), without gradient."""
        if self.context.class_embeddings is None:
            raise RuntimeError("no class embeddings set: ask the network, not its encoder")
        return self.gains(self.context.class_embeddings)[index].detach()

    def forward(self, x: Tensor) -> Tensor:
        """Scale (n, channels, *s) by the gains of each sample's modality."""
        gains = self.of_samples()
        return x * gains.to(x.dtype).reshape(*gains.shape, *[1] * (x.ndim - 2))


class GainedBranch(nn.Module):
    """A branch of a transformer's block, attention or feed-forward, whose output passes a :class:`ModalityGain`.

    Args:
        branch: tokens (n · windows, tokens, c) or (n, *s, c) → the same.
        last: name of the linear layer that it ends with, into which a modality's gains fold.
        gain: of c channels.
    """

    def __init__(self, branch: nn.Module, last: str, gain: ModalityGain) -> None:
        super().__init__()
        self.branch = branch
        self.last = last
        self.gain = gain

    def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """As the branch's."""
        out = self.branch(x, *arguments, **options)
        gains = self.gain.of_samples()
        gains = gains.repeat_interleave(len(out) // len(gains), 0)  # the windows of a sample follow each other
        scaled: Tensor = out * gains.to(out.dtype).reshape(len(out), *[1] * (out.ndim - 2), -1)
        return scaled

    def for_modality(self, index: int) -> dict[str, Tensor]:
        """The branch for one modality, in the names of the stock branch."""
        state = stock_state(self.branch, index)
        factor = self.gain.of_modality(index)
        state[f"{self.last}.weight"] = state[f"{self.last}.weight"] * factor[:, None]
        state[f"{self.last}.bias"] = state[f"{self.last}.bias"] * factor
        return state


class ModulatedUNet(ModalityUNet):
    """A network all modalities share, but for a gain on every residual branch of its encoder.

    The branch of a residual block is what the block adds to its input; nnU-Net's planned networks have such blocks in
    the encoder alone. A transformer's block has two, attention and feed-forward, as in the paper. A plain network has
    none: there the block without its shortcut is taken, that is the normalised output of every convolution of the
    encoder. Gains of convolutions stand behind a norm, before the non-linearity.

    Args:
        network: what to modulate; it becomes part of this network.

    Source: Yang et al., MIDL 2023, appendix, architecture V3.
    """

    def __init__(self, network: ModalityUNet) -> None:
        super().__init__(network, network.image_channels, network.modalities, network.context)
        encoder: Any = network.encoder
        classes: Any = network.decoder.num_classes
        width = encoder.output_channels[-2]
        self.class_embeddings = nn.Parameter(torch.randn(len(self.modalities), classes, width))

        def gain(channels: int) -> ModalityGain:
            return ModalityGain(classes, width, channels, self.context)

        from monai.networks.nets.swin_unetr import SwinTransformerBlock  # seconds, where no network is built

        transformer = [block for block in encoder.modules() if isinstance(block, SwinTransformerBlock)]
        for block in transformer:
            block.attn = GainedBranch(block.attn, "proj", gain(block.dim))
            block.mlp = GainedBranch(block.mlp, "linear2", gain(block.dim))
        residual = [block for block in encoder.modules() if isinstance(block, BasicBlockD | BottleneckD)]
        for block in residual:
            block.squeeze_excitation = gain(block.output_channels)
            block.apply_se = True
        if transformer or residual:
            return
        for block in list(encoder.modules()):
            if isinstance(block, ConvDropoutNormReLU):
                behind_norm = list(block.all_modules).index(block.norm) + 1
                block.all_modules.insert(behind_norm, gain(block.output_channels))

    def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor | list[Tensor] | FeatureMaps:
        """As :meth:`ModalityUNet.forward`."""
        self.context.class_embeddings = self.class_embeddings
        return super().forward(x, *arguments, **options)

    def for_modality(self, index: int) -> dict[str, Tensor]:
        """As :meth:`ModalityUNet.for_modality`: the gains fold into the affines of the norms they stand behind."""
        self.context.class_embeddings = self.class_embeddings
        state = super().for_modality(index)
        del state["class_embeddings"]
        for name, gain in self.named_modules(remove_duplicate=False):
            if not isinstance(gain, ModalityGain) or f"{name}.project.weight" not in state:
                continue
            state = {key: value for key, value in state.items() if not key.startswith(f"{name}.")}
            block, _, place = name.rpartition(".")
            if place == "squeeze_excitation":
                whole: Any = self.get_submodule(block)
                last = "conv3" if isinstance(whole, BottleneckD) else "conv2"
                place = str(len(getattr(whole, last).all_modules) - 1)
                names = [f"{block}.{last}.norm", f"{block}.{last}.all_modules.{place}"]
            else:
                block = block.removesuffix(".all_modules")
                names = [f"{block}.norm", f"{block}.all_modules.{int(place) - 1}"]
            factor = gain.of_modality(index)
            for each in names:
                for affine in ("weight", "bias"):
                    state[f"{each}.{affine}"] = state[f"{each}.{affine}"] * factor
        return state
