"""Tell a translation that failed from one that works, by the terms that a training logs anyway."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["collapse_warnings", "foreground_variance"]

LEAST_VARIANCE_SHARE = 0.02
LEAST_TELLING_LOSS = 0.005
MOST_FOOLING_LOSS = 0.95


@torch.no_grad()
def foreground_variance(images: Tensor, foreground: Tensor) -> Tensor:
    """Variance of the intensities of all foreground voxels of a batch.

    Args:
        images: (n, c, *s).
        foreground: (n, *s), boolean.

    Returns:
        scalar; 0 where there is no foreground.
    """
    images = images.float()
    chosen = foreground[:, None].expand_as(images).float()
    count = chosen.sum().clamp(min=1)
    mean = (images * chosen).sum() / count
    return ((images - mean).square() * chosen).sum() / count


def collapse_warnings(
    source_variance: float, translated_variance: float, fooling: float, telling: float, tie: str
) -> list[str]:
    """Say, with numbers, what an epoch's means tell of a failing image translation.

    Args:
        source_variance: foreground variance of the source images.
        translated_variance: foreground variance of their translations, on the same scale.
        fooling: the generator's least-squares loss, 1 where every fake is told.
        telling: the discriminator's, 0 where it is never wrong.
        tie: the hyper-parameters that tie a translation to its scan, for the advice.

    Returns:
        a sentence a failure; none for a translation that works. The generator has collapsed where the foreground of
        its images keeps less than 2 % of the source's variance; the discriminator is saturated where it tells every
        fake with certainty (its loss below 0.005, the generator's above 0.95).
    """
    found = []
    share = translated_variance / source_variance if source_variance > 0 else 1.0
    if share < LEAST_VARIANCE_SHARE:
        found.append(
            f"the generator has collapsed: the foreground variance of its images is {translated_variance:.3g}, "
            f"{100 * share:.2g} % of the source's {source_variance:.3g}; look at the translation pictures, raise "
            f"{tie} or lower the generator's learning rate"
        )
    if telling < LEAST_TELLING_LOSS and fooling > MOST_FOOLING_LOSS:
        found.append(
            f"the image discriminator is saturated: its loss is {telling:.3g}, the generator's {fooling:.3g} (1 is: "
            "every fake is told); lower the discriminator's learning rate or width"
        )
    return found
