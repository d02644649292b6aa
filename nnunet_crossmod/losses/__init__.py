"""Losses: pure functions of tensors, one file an idea."""

from nnunet_crossmod.losses.adversarial import (
    Game,
    detect,
    detection_accuracy,
    fool,
    probability_of_real,
    signed_decision,
)
from nnunet_crossmod.losses.feature_patch_contrast import feature_patch_contrast
from nnunet_crossmod.losses.margin_contrast import MarginMode, margin_contrast
from nnunet_crossmod.losses.nt_xent import nt_xent
from nnunet_crossmod.losses.partial_annotation import marginalise
from nnunet_crossmod.losses.patch_nce import patch_nce
from nnunet_crossmod.losses.prototype_cosines import prototype_cosines
from nnunet_crossmod.losses.pseudo_label_loss import trusted_dice_ce
from nnunet_crossmod.losses.self_information import self_information
from nnunet_crossmod.losses.semantic_consistency import (
    image_consistency,
    image_consistency_of_all,
    modality_consistency,
    modality_consistency_of_all,
)
from nnunet_crossmod.losses.structural_consistency import class_descriptors, structural_consistency

__all__ = [
    "Game",
    "MarginMode",
    "class_descriptors",
    "detect",
    "detection_accuracy",
    "feature_patch_contrast",
    "fool",
    "image_consistency",
    "image_consistency_of_all",
    "margin_contrast",
    "marginalise",
    "modality_consistency",
    "modality_consistency_of_all",
    "nt_xent",
    "patch_nce",
    "probability_of_real",
    "prototype_cosines",
    "self_information",
    "signed_decision",
    "structural_consistency",
    "trusted_dice_ce",
]
