"""What training and inference know about the data: the block, the loaders, the batch."""

from nnunet_crossmod.data.augmentation import GinSamples, IntensityAugmentation
from nnunet_crossmod.data.batch import CrossModalBatch, Rows
from nnunet_crossmod.data.class_local_curves import class_local_curves
from nnunet_crossmod.data.class_mix import with_class_mix
from nnunet_crossmod.data.cut_mix import with_cut_mix
from nnunet_crossmod.data.dataset import CrossModalDataset, RegisteredScans
from nnunet_crossmod.data.intensity_augmentation import augment_intensity, spatial_part
from nnunet_crossmod.data.loader import BalancedDataLoader, RegisteredDataLoader, check_batch_size
from nnunet_crossmod.data.patches import representative_patches
from nnunet_crossmod.data.random_convolution import random_convolution
from nnunet_crossmod.raw.block import Case, CrossmodBlock
from nnunet_crossmod.raw.modality_channel import add_modality_channel

__all__ = [
    "BalancedDataLoader",
    "Case",
    "CrossModalBatch",
    "CrossModalDataset",
    "CrossmodBlock",
    "GinSamples",
    "IntensityAugmentation",
    "RegisteredDataLoader",
    "RegisteredScans",
    "Rows",
    "add_modality_channel",
    "augment_intensity",
    "check_batch_size",
    "class_local_curves",
    "random_convolution",
    "representative_patches",
    "spatial_part",
    "with_class_mix",
    "with_cut_mix",
]
