"""Losses: pure functions of tensors, one file an idea."""

from nnunet_crossmod.losses.feature_patch_contrast import feature_patch_contrast
from nnunet_crossmod.losses.partial_annotation import marginalise
from nnunet_crossmod.losses.structural_consistency import class_descriptors, structural_consistency

__all__ = ["class_descriptors", "feature_patch_contrast", "marginalise", "structural_consistency"]
