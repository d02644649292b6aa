"""Networks and their blocks: they know tensors, not configurations."""

from nnunet_crossmod.nn.conditional_norm import ConditionalInstanceNorm, ModalityContext, conditional_instance_norm
from nnunet_crossmod.nn.stock_state import stock_state
from nnunet_crossmod.nn.unet import FeatureMaps, ModalityUNet, build_unet, read_modality

__all__ = [
    "ConditionalInstanceNorm",
    "FeatureMaps",
    "ModalityContext",
    "ModalityUNet",
    "build_unet",
    "conditional_instance_norm",
    "read_modality",
    "stock_state",
]
