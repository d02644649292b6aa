"""Networks and their blocks: they know tensors, not configurations."""

from nnunet_crossmod.nn.conditional_norm import ConditionalInstanceNorm, ModalityContext, conditional_instance_norm
from nnunet_crossmod.nn.discriminators import DiscriminatorDesign, build_discriminator
from nnunet_crossmod.nn.unet import FeatureMaps, ModalityUNet, build_unet, read_modality

__all__ = [
    "ConditionalInstanceNorm",
    "DiscriminatorDesign",
    "FeatureMaps",
    "ModalityContext",
    "ModalityUNet",
    "build_discriminator",
    "build_unet",
    "conditional_instance_norm",
    "read_modality",
]
