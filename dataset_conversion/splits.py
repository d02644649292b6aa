"""Cross-validation folds for a cross-modality data set: subjects stay together, modalities are balanced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.raw.block import Case

__all__ = ["splits"]


def splits(cases: Mapping[str, Case], folds: int = 5, seed: int = 12345) -> list[dict[str, list[str]]]:
    """Divide the cases into folds in the form of nnU-Net's ``splits_final.json``.

    * All scans of a subject lie on one side: a subject validated in a fold has no scan in that fold's training, not
      even an unlabelled one.
    * Only cases whose label file holds real labels are validated; subjects without any are always in training.
    * Each fold validates its share of every modality, as evenly as the subjects allow.
    * Each fold validates an annotated subject (online validation sees no label more than training does) and trains on
      another.

    Args:
        cases: the training cases by name.
        folds: folds wanted, at least 2. Fewer are made where fewer subjects are annotated.
        seed: decides which subject lands in which fold.

    Returns:
        One ``{"train": [names], "val": [names]}`` per fold, names sorted.

    Raises:
        CrossmodError: fewer than two folds wanted, or fewer than two annotated subjects.
    """
    if folds < 2:
        raise CrossmodError(f"{folds} folds were asked for: a split into training and validation needs at least 2")
    labelled: dict[str, Counter[str]] = {}
    for case in cases.values():
        if case.labelled:
            labelled.setdefault(case.subject, Counter())[case.modality] += 1
    annotated = {case.subject for case in cases.values() if case.annotated}
    if len(annotated) < 2:
        raise CrossmodError(
            f"{len(annotated)} of {len({case.subject for case in cases.values()})} subjects are annotated: "
            "annotate at least two, one to train on and one to validate, or move a test subject to training (--test, "
            "--split)"
        )
    fold_of = _assign(labelled, annotated, min(folds, len(annotated)), seed)
    return [
        {
            "train": sorted(name for name, case in cases.items() if fold_of.get(case.subject) != fold),
            "val": sorted(name for name, case in cases.items() if fold_of.get(case.subject) == fold and case.labelled),
        }
        for fold in range(max(fold_of.values()) + 1)
    ]


def _assign(subjects: Mapping[str, Counter[str]], annotated: set[str], folds: int, seed: int) -> dict[str, int]:
    """Subject → fold: an annotated subject goes where fewest of its kind are; then each where its modalities are
    scarcest so far, then where fewest cases are."""
    total: Counter[str] = sum(subjects.values(), Counter())
    filled: list[Counter[str]] = [Counter() for _ in range(folds)]
    with_annotation = [0] * folds
    order = [sorted(subjects)[index] for index in np.random.default_rng(seed).permutation(len(subjects))]
    # Subjects with many scans are the hardest to balance; those with few level the folds afterwards.
    order.sort(key=lambda subject: (subject not in annotated, -subjects[subject].total()))
    fold_of = {}
    for subject in order:

        def crowding(fold: int, scans: Counter[str] = subjects[subject], name: str = subject) -> tuple[float, ...]:
            share = sum(count * filled[fold][modality] / total[modality] for modality, count in scans.items())
            return with_annotation[fold] if name in annotated else 0, round(share, 9), filled[fold].total()

        fold_of[subject] = min(range(folds), key=crowding)
        with_annotation[fold_of[subject]] += subject in annotated
        filled[fold_of[subject]] += subjects[subject]
    return fold_of
