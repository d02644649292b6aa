"""What the words of the report mean: columns of the tables, loss terms, model selection."""

from __future__ import annotations

import re

from nnunet_crossmod.evaluation.comparison import SPREAD
from nnunet_crossmod.evaluation.metrics import CONVENTIONS

__all__ = ["SELECTION", "meaning_of_loss", "meanings_of_columns"]

SELECTION = {
    "criterion": "source_dice x certainty x balance; the checkpoint with the best running mean is kept",
    "source_dice": "Dice of online validation, on what training may see",
    "certainty": "how certain the predictions on the target are: 0 uniform doubt, 1 certain",
    "balance": "whether structures take the same share of the voxels in target and source: 0 no, 1 yes",
}

# the part of a loss term's name after the player → what it is; the first pattern that fits
_LOSSES = (
    ("sup", "supervised segmentation loss on annotated samples"),
    ("seg", "supervised segmentation loss, summed over the modalities"),
    ("aux", "auxiliary segmentation loss on the attention maps"),
    ("csc", "structural consistency between modalities"),
    ("fpc", "contrast between patches of different organs"),
    ("mcr", "consistency of the class embeddings between modalities"),
    ("icr", "consistency of the class relations between images"),
    ("pcl", "contrast between patches of a source image and of its translation"),
    ("gcl", "contrast between whole images and their translations"),
    ("gan", "how far the generator is from fooling its discriminator"),
    ("entropy", "entropy of the predictions on the target"),
    ("reconstruction", "L1 distance between an image and its reconstruction"),
    ("cycle", "L1 distance between an image and its translation there and back"),
    ("content", "L1 distance between the contents of an image and of its translation"),
    ("local", "how far target features are from passing for source features"),
    ("global", "how far target predictions are from passing for source predictions"),
    ("fool.*", "how far target predictions are from passing for source predictions"),
    ("detect.*", "loss of the discriminator that detects which domain its input comes from"),
    ("fakes_detected", "1 where every translation is detected, 0 where all pass (not trained on)"),
    ("misjudged", "0 where the discriminator is always right (not trained on)"),
    ("teacher", "cross-entropy and Dice against the teacher's labels, where it is sure of them"),
    ("accuracy.*", "share that the discriminator judges correctly (not trained on)"),
    ("margin_source", "margin contrast of source features with the class prototypes"),
    ("margin_target", "margin contrast of target features with the class prototypes"),
    ("valid_.*", "share of the pixels labelled as this class that are trusted (not trained on)"),
    ("target_angle", "degrees between target features and their nearest prototype (not trained on)"),
    (
        "gradient_.*",
        "norm of the gradient of this term, 'segmentation': of all that are not adaptation (not trained on)",
    ),
    ("share_.*", "pull of this term as a share of the segmentation's (not trained on)"),
    ("source_volume_.*", "share of the source's voxels that are predicted as this structure (not trained on)"),
    ("volume_.*", "share of the target's voxels that are predicted as this structure (not trained on)"),
    ("lost", "share of the steps whose gradient was not finite and was left out (not trained on)"),
    ("certainty", "how certain the predictions on the target are: 0 uniform doubt, 1 certain (not trained on)"),
    (".*_variance", "variance within the foreground; near 0 means collapsed images (not trained on)"),
    ("flicker", "jumps between neighbouring slices of a translation, relative to the source (not trained on)"),
)


def meaning_of_loss(term: str) -> str:
    """What a term ``player/name`` is, in words; its player alone where the name is not known."""
    player, _, name = term.partition("/")
    return next((meaning for pattern, meaning in _LOSSES if re.fullmatch(pattern, name)), f"loss term of {player}")


def meanings_of_columns(tolerance: float) -> dict[str, str]:
    """The columns of the tables in words, with the formulas of the metrics.

    Args:
        tolerance: of the surface Dice, in mm.
    """
    return {
        "Dice": f"overlap of prediction and reference, 0 none, 1 perfect: {CONVENTIONS['dice']}",
        "HD95": f"distance between the outlines at their 95th percentile, in mm, lower is better: "
        f"{CONVENTIONS['hd95'].removeprefix('mm; ')}",
        "ASSD": f"mean distance between the outlines, in mm, lower is better: "
        f"{CONVENTIONS['assd'].removeprefix('mm; ')}",
        "NSD": f"agreement of the outlines (surface Dice) at a tolerance of {tolerance:g} mm, 0 none, 1 perfect: "
        f"{CONVENTIONS['nsd']}",
        "surface": CONVENTIONS["surface"],
        "mean": CONVENTIONS["mean"],
        "±": SPREAD.removeprefix("± "),
        "missed": f"structures that are {CONVENTIONS['missed']}",
        "invented": f"structures that are {CONVENTIONS['invented']}",
        "gap closed": "(method − floor) / (ceiling − floor) in mean Dice: 0 % at the floor, trained on the source "
        "alone; 100 % at the ceiling, trained on labelled target scans",
        "p": "p-value of Wilcoxon's signed-rank test, two-sided, paired by scan: how often chance alone would give a "
        "difference as large",
        "source, target": "the modality with labels in training, and the one without",
        "software": CONVENTIONS["software"],
    }
