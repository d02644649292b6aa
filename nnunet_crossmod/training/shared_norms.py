"""Whose conditional norms a modality takes."""

from __future__ import annotations

from collections.abc import Mapping

from nnunet_crossmod.raw.block import Case, CrossmodBlock

__all__ = ["affine_of"]


def affine_of(block: CrossmodBlock, seen: Mapping[str, Case], *, shared: bool) -> list[int]:
    """For every modality the index of the one whose affine its conditional norms take.

    An affine that no label holds would move wherever a loss of adaptation is cheapest, and an optimiser that divides by
    the gradient's size would move it so at any weight of that loss: it is the first annotated source's.

    Args:
        block: of the data set.
        seen: its cases as training may see them.
        shared: otherwise every modality has its own.
    """
    modalities = block.modalities
    held = {case.modality for case in seen.values() if case.annotated} if shared else set(modalities)
    first = next((modalities.index(modality) for modality in block.source if modality in held), 0)
    return [index if modality in held else first for index, modality in enumerate(modalities)]
