"""Folds: subjects on one side, modalities balanced, only real labels validated."""

from __future__ import annotations

from collections import Counter

import pytest

from nnunet_crossmod.dataset_conversion.splits import splits
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.raw.block import Case

ALL = frozenset({1, 2})


def make(*rows: tuple[str, str, bool, bool]) -> dict[str, Case]:
    """Cases from (subject, modality, labelled, annotated)."""
    return {
        f"{subject}_{modality}": Case(
            f"{subject}_{modality}", modality, ALL if annotated else frozenset(), subject, labelled
        )
        for subject, modality, labelled, annotated in rows
    }


def mixed() -> dict[str, Case]:
    """11 subjects with both scans labelled, 7 with only a labelled mr, 4 unlabelled ct, 6 mr with unlabelled ct."""
    rows = [(f"both{n}", m, True, m == "mr") for n in range(11) for m in ("mr", "ct")]
    rows += [(f"mr{n}", "mr", True, True) for n in range(7)]
    rows += [(f"ct{n}", "ct", False, False) for n in range(4)]
    rows += [(f"half{n}", m, m == "mr", m == "mr") for n in range(6) for m in ("mr", "ct")]
    return make(*rows)


@pytest.mark.parametrize("seed", range(5))
def test_subjects_stay_together_and_only_real_labels_are_validated(seed: int) -> None:
    cases = mixed()
    validated: list[str] = []
    for fold in splits(cases, folds=5, seed=seed):
        training = {cases[name].subject for name in fold["train"]}
        validation = {cases[name].subject for name in fold["val"]}
        assert not training & validation
        assert all(cases[name].labelled for name in fold["val"])
        assert {f"ct{n}_ct" for n in range(4)} <= set(fold["train"])
        neither = set(cases) - set(fold["train"]) - set(fold["val"])
        assert neither == {f"{s}_ct" for s in validation if s.startswith("half")}
        validated += fold["val"]
    assert sorted(validated) == sorted(name for name, case in cases.items() if case.labelled)


def unpaired() -> dict[str, Case]:
    """13 subjects with a labelled mr and 8 others with a labelled ct."""
    return make(*[(f"m{n}", "mr", True, True) for n in range(13)], *[(f"c{n}", "ct", True, False) for n in range(8)])


@pytest.mark.parametrize("cases", [mixed(), unpaired()], ids=["mixed", "unpaired"])
@pytest.mark.parametrize("seed", range(5))
def test_every_fold_validates_its_share_of_each_modality(cases: dict[str, Case], seed: int) -> None:
    folds = splits(cases, folds=5, seed=seed)
    for modality in ("mr", "ct"):
        counts = [sum(cases[name].modality == modality for name in fold["val"]) for fold in folds]
        assert sum(counts) == sum(case.labelled for case in cases.values() if case.modality == modality)
        assert max(counts) - min(counts) <= 1, (modality, counts)


def test_the_seed_decides_and_the_order_of_the_cases_does_not() -> None:
    cases = mixed()
    backwards = dict(reversed(cases.items()))
    assert splits(cases, seed=3) == splits(backwards, seed=3)
    assert len({str(splits(cases, seed=seed)) for seed in range(4)}) == 4


def test_fewer_labelled_subjects_than_folds_make_fewer_folds() -> None:
    cases = make(*[(f"s{n}", "mr", True, True) for n in range(3)], ("t0", "ct", False, False))
    folds = splits(cases, folds=5)
    assert Counter(name for fold in folds for name in fold["val"]) == {"s0_mr": 1, "s1_mr": 1, "s2_mr": 1}
    assert len(folds) == 3


@pytest.mark.parametrize(("annotated", "others"), [(3, 8), (2, 1), (9, 2)])
def test_every_fold_trains_on_and_validates_an_annotated_subject(annotated: int, others: int) -> None:
    rows = [(f"s{n}", "mr", True, True) for n in range(annotated)]
    cases = make(*rows, *[(f"t{n}", "ct", True, False) for n in range(others)])
    folds = splits(cases, folds=5)
    assert len(folds) == min(5, annotated)
    for fold in folds:
        assert any(cases[name].annotated for name in fold["train"])
        assert any(cases[name].annotated for name in fold["val"])


@pytest.mark.parametrize(
    ("cases", "told"),
    [
        (make(("s", "mr", True, True), ("t", "ct", False, False)), "1 of 2 subjects"),
        (make(("s", "mr", True, True), ("t", "ct", True, False)), "1 of 2 subjects"),
        (make(("s", "mr", True, False), ("t", "ct", False, False)), "0 of 2 subjects"),
    ],
)
def test_too_few_subjects_to_hold_out_are_an_error_with_a_remedy(cases: dict[str, Case], told: str) -> None:
    with pytest.raises(CrossmodError, match=told) as error:
        splits(cases)
    assert "annotate at least two" in str(error.value)


def test_one_fold_is_refused() -> None:
    with pytest.raises(CrossmodError, match="at least 2"):
        splits(mixed(), folds=1)
