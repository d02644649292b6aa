"""Losses: pure functions of tensors, one file an idea."""

from nnunet_crossmod.losses.feature_patch_contrast import feature_patch_contrast
from nnunet_crossmod.losses.partial_annotation import marginalise
from nnunet_crossmod.losses.semantic_consistency import (
    image_consistency,
    image_consistency_of_all,
    modality_consistency,
    modality_consistency_of_all,
)
from nnunet_crossmod.losses.structural_consistency import class_descriptors, structural_consistency

__all__ = [
    "class_descriptors",
    "feature_patch_contrast",
    "image_consistency",
    "image_consistency_of_all",
    "marginalise",
    "modality_consistency",
    "modality_consistency_of_all",
    "structural_consistency",
]
