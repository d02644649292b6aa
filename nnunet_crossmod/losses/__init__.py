"""Losses: pure functions of tensors, one file an idea."""

from nnunet_crossmod.losses.domain_adversary import domain_accuracy, domain_confusion, domain_discrimination
from nnunet_crossmod.losses.feature_patch_contrast import feature_patch_contrast
from nnunet_crossmod.losses.margin_contrast import MarginMode, margin_contrast
from nnunet_crossmod.losses.partial_annotation import marginalise
from nnunet_crossmod.losses.prototype_cosines import prototype_cosines
from nnunet_crossmod.losses.self_information import self_information
from nnunet_crossmod.losses.structural_consistency import class_descriptors, structural_consistency

__all__ = [
    "MarginMode",
    "class_descriptors",
    "domain_accuracy",
    "domain_confusion",
    "domain_discrimination",
    "feature_patch_contrast",
    "margin_contrast",
    "marginalise",
    "prototype_cosines",
    "self_information",
    "structural_consistency",
]
