"""Cross-validation folds for a cross-modality data set: subjects stay together, modalities are balanced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from nnunet_crossmod.data.block import Case
from nnunet_crossmod.errors import CrossmodError

__all__ = ["splits"]


def splits(cases: Mapping[str, Case], folds: int = 5, seed: int = 12345) -> list[dict[str, list[str]]]:
    """Divide the cases into folds in the form of nnU-Net's ``splits_final.json``.

    * All scans of a subject lie on one side: a subject validated in a fold has no scan in that fold's training, not
      even an unlabelled one.
    * Only cases whose label file holds real labels are validated; subjects without any are always in training.
    * Each fold validates its share of every modality, as evenly as the subjects allow.
    * The only annotated subject of a data set is never held out: training would see no label at all.

    Args:
        cases: the training cases by name.
        folds: folds wanted, at least 2. Fewer are made where fewer subjects can be held out.
        seed: decides which subject lands in which fold.

    Returns:
        One ``{"train": [names], "val": [names]}`` a fold, names sorted.

    Raises:
        CrossmodError: fewer than two folds wanted, or fewer than two subjects that can be held out.
    """
    if folds < 2:
        raise CrossmodError(f"{folds} folds were asked for: a split into training and validation needs at least 2")
    labelled: dict[str, Counter[str]] = {}
    for case in cases.values():
        if case.labelled:
            labelled.setdefault(case.subject, Counter())[case.modality] += 1
    annotated = {case.subject for case in cases.values() if case.annotated}
    held_out = sorted(labelled.keys() - (annotated if len(annotated) == 1 else set()))
    if len(held_out) < 2:
        raise CrossmodError(
            f"{len(held_out)} of {len({case.subject for case in cases.values()})} subjects can be held out for "
            "validation: label at least two subjects (three if one alone is annotated), or move a test subject to "
            "training"
        )
    fold_of = _assign({subject: labelled[subject] for subject in held_out}, min(folds, len(held_out)), seed)
    return [
        {
            "train": sorted(name for name, case in cases.items() if fold_of.get(case.subject) != fold),
            "val": sorted(name for name, case in cases.items() if fold_of.get(case.subject) == fold and case.labelled),
        }
        for fold in range(max(fold_of.values()) + 1)
    ]


def _assign(subjects: Mapping[str, Counter[str]], folds: int, seed: int) -> dict[str, int]:
    """Subject → fold: each subject goes where its modalities are scarcest so far, then where fewest cases are."""
    total: Counter[str] = sum(subjects.values(), Counter())
    filled: list[Counter[str]] = [Counter() for _ in range(folds)]
    order = [sorted(subjects)[index] for index in np.random.default_rng(seed).permutation(len(subjects))]
    # Subjects with many scans are the hardest to balance; those with few level the folds afterwards.
    order.sort(key=lambda subject: -subjects[subject].total())
    fold_of = {}
    for subject in order:

        def crowding(fold: int, scans: Counter[str] = subjects[subject]) -> tuple[float, int]:
            share = sum(count * filled[fold][modality] / total[modality] for modality, count in scans.items())
            return round(share, 9), filled[fold].total()

        fold_of[subject] = min(range(folds), key=crowding)
        filled[fold_of[subject]] += subjects[subject]
    return fold_of
