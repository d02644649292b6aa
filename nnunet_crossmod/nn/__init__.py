"""Networks and their blocks: they know tensors, not configurations."""

from nnunet_crossmod.nn.conditional_norm import ConditionalInstanceNorm, ModalityContext, conditional_instance_norm
from nnunet_crossmod.nn.external_attention import (
    ClassEmbeddings,
    ExternalAttention,
    SemanticMaps,
    semantic_correlations,
)
from nnunet_crossmod.nn.joint_architectures import (
    EncoderPerModality,
    ModalityGain,
    ModulatedUNet,
    encoder_per_modality,
)
from nnunet_crossmod.nn.unet import FeatureMaps, ModalityUNet, build_unet, read_modality

__all__ = [
    "ClassEmbeddings",
    "ConditionalInstanceNorm",
    "EncoderPerModality",
    "ExternalAttention",
    "FeatureMaps",
    "ModalityContext",
    "ModalityGain",
    "ModalityUNet",
    "ModulatedUNet",
    "SemanticMaps",
    "build_unet",
    "conditional_instance_norm",
    "encoder_per_modality",
    "read_modality",
    "semantic_correlations",
]
