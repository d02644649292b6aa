"""Losses: pure functions of tensors, one file an idea."""

from nnunet_crossmod.losses.adversarial_game import (
    GanLoss,
    adversarial_confusion,
    adversarial_discrimination,
    certainty,
)
from nnunet_crossmod.losses.domain_adversary import domain_accuracy, domain_confusion, domain_discrimination
from nnunet_crossmod.losses.feature_patch_contrast import feature_patch_contrast
from nnunet_crossmod.losses.least_squares import discriminate, fool
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
    "GanLoss",
    "MarginMode",
    "adversarial_confusion",
    "adversarial_discrimination",
    "certainty",
    "class_descriptors",
    "discriminate",
    "domain_accuracy",
    "domain_confusion",
    "domain_discrimination",
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
    "prototype_cosines",
    "self_information",
    "structural_consistency",
    "trusted_dice_ce",
]
