"""Warnings of a failing image translation or adversary, from the terms that a training logs anyway."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["adversary_warnings", "collapse_warnings", "foreground_variance"]

LEAST_VARIANCE_SHARE = 0.02
LEAST_DETECTION_LOSS = 0.005
MOST_FOOLING_LOSS = 0.95
ACCURACY = (0.6, 0.9)


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
    source_variance: float, translated_variance: float, fooling: float, detection: float, tie: str
) -> list[str]:
    """Say, with numbers, by which an epoch's means show that an image translation fails.

    Args:
        source_variance: foreground variance of the source images.
        translated_variance: foreground variance of their translations, on the same scale.
        fooling: the generator's least-squares loss, 1 where every fake is detected.
        detection: the discriminator's, 0 where it is never wrong.
        tie: the hyper-parameters that tie a translation to its scan, for the advice.

    Returns:
        one sentence per failure; none for a translation that works. The generator has collapsed where the foreground of
        its images keeps less than 2 % of the source's variance; the discriminator is saturated where it detects
        every fake with certainty (its loss below 0.005, the generator's above 0.95).
    """
    warnings = []
    share = translated_variance / source_variance if source_variance > 0 else 1.0
    if share < LEAST_VARIANCE_SHARE:
        warnings.append(
            f"the generator has collapsed: the foreground variance of its images is {translated_variance:.3g}, "
            f"{100 * share:.2g} % of the source's {source_variance:.3g}; look at the translation pictures, raise "
            f"{tie} or lower the generator's learning rate"
        )
    if detection < LEAST_DETECTION_LOSS and fooling > MOST_FOOLING_LOSS:
        warnings.append(
            f"the image discriminator is saturated: its loss is {detection:.3g}, the generator's {fooling:.3g} (1 is: "
            "every fake is detected); lower the discriminator's learning rate or width"
        )
    return warnings


def adversary_warnings(means: Mapping[str, float]) -> list[str]:
    """Say which discriminators are no match for the segmenter, or too much of one.

    Args:
        means: ``player/term`` → an epoch's mean; terms named ``accuracy…`` are shares of right judgements.

    Returns:
        one sentence for every accuracy outside 0.6 … 0.9.
    """
    warnings = []
    for term, accuracy in means.items():
        player, _, name = term.partition("/")
        if not name.startswith("accuracy") or ACCURACY[0] <= accuracy <= ACCURACY[1]:
            continue
        told = f"the {player} judges {accuracy:.0%} correctly ({name})"
        if accuracy < ACCURACY[0]:
            warnings.append(f"{told}, little more than a guess: raise its learning rate, if there is a gap at all")
        else:
            warnings.append(f"{told}, so its opponent learns little from it: lower its learning rate")
    return warnings
