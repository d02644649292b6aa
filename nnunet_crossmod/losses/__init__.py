"""Losses: pure functions of tensors, one file an idea."""

from nnunet_crossmod.losses.feature_patch_contrast import feature_patch_contrast
from nnunet_crossmod.losses.least_squares import discriminate, fool
from nnunet_crossmod.losses.nt_xent import nt_xent
from nnunet_crossmod.losses.partial_annotation import marginalise
from nnunet_crossmod.losses.patch_nce import patch_nce
from nnunet_crossmod.losses.structural_consistency import class_descriptors, structural_consistency

__all__ = [
    "class_descriptors",
    "discriminate",
    "feature_patch_contrast",
    "fool",
    "marginalise",
    "nt_xent",
    "patch_nce",
    "structural_consistency",
]
