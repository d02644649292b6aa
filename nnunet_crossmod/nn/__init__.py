"""Networks and their blocks: they know tensors, not configurations."""

from nnunet_crossmod.nn.aligned_unet import AlignedFeatureMaps, AlignedUNet, FeatureSide, build_aligned_unet
from nnunet_crossmod.nn.border import has_empty_border
from nnunet_crossmod.nn.conditional_norm import (
    ConditionalInstanceNorm,
    ConditionalLayerNorm,
    ModalityContext,
    condition_norms,
    conditional_instance_norm,
)
from nnunet_crossmod.nn.discriminators import (
    DiscriminatorDesign,
    DomainImageDiscriminator,
    ImageDiscriminator,
    build_discriminator,
    build_feature_discriminator,
)
from nnunet_crossmod.nn.external_attention import (
    ClassEmbeddings,
    ExternalAttention,
    SemanticMaps,
    semantic_correlations,
)
from nnunet_crossmod.nn.generators import (
    ImageTranslator,
    ResnetGenerator,
    as_slices,
    flicker,
    from_slices,
    translator_plan,
    translator_state,
)
from nnunet_crossmod.nn.intensity_map import from_unit, to_unit
from nnunet_crossmod.nn.joint_architectures import EncoderPerModality, ModalityGain, ModulatedUNet, encoder_per_modality
from nnunet_crossmod.nn.local_alignment import local_feature_mask
from nnunet_crossmod.nn.projection import ProjectionHead
from nnunet_crossmod.nn.stock_state import stock_state
from nnunet_crossmod.nn.style_translator import AdaINAutoEncoder, StyleTranslator, adaptive_instance_norm
from nnunet_crossmod.nn.unet import FeatureMaps, ModalityUNet, build_unet, read_modality

__all__ = [
    "AdaINAutoEncoder",
    "AlignedFeatureMaps",
    "AlignedUNet",
    "ClassEmbeddings",
    "ConditionalInstanceNorm",
    "ConditionalLayerNorm",
    "DiscriminatorDesign",
    "DomainImageDiscriminator",
    "EncoderPerModality",
    "ExternalAttention",
    "FeatureMaps",
    "FeatureSide",
    "ImageDiscriminator",
    "ImageTranslator",
    "ModalityContext",
    "ModalityGain",
    "ModalityUNet",
    "ModulatedUNet",
    "ProjectionHead",
    "ResnetGenerator",
    "SemanticMaps",
    "StyleTranslator",
    "adaptive_instance_norm",
    "as_slices",
    "build_aligned_unet",
    "build_discriminator",
    "build_feature_discriminator",
    "build_unet",
    "condition_norms",
    "conditional_instance_norm",
    "encoder_per_modality",
    "flicker",
    "from_slices",
    "from_unit",
    "has_empty_border",
    "local_feature_mask",
    "read_modality",
    "semantic_correlations",
    "stock_state",
    "to_unit",
    "translator_plan",
    "translator_state",
]
