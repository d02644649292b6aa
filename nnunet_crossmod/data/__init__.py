"""What training and inference know about the data: the block, the loaders, the batch."""

from nnunet_crossmod.data.block import Case, CrossmodBlock

__all__ = ["Case", "CrossmodBlock"]
