"""What holds for any input: of losses, of what may be seen of labels, and of the block that says so."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nnunet_crossmod.data.dataset import CrossModalDataset
from nnunet_crossmod.losses import (
    feature_patch_contrast,
    margin_contrast,
    marginalise,
    nt_xent,
    structural_consistency,
    trusted_dice_ce,
)
from nnunet_crossmod.raw.block import Case, CrossmodBlock

ALIKE_EVERY_TIME = settings(derandomize=True, deadline=None, max_examples=30)
SEEDS = st.integers(0, 2**31)


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@ALIKE_EVERY_TIME
@given(SEEDS, st.integers(1, 12), st.integers(1, 4))
def test_organ_patches_have_no_order_and_no_length(seed: int, patches: int, organs: int) -> None:
    g = random(seed)
    x = torch.randn(patches, 5, generator=g)
    organ = torch.randint(-1, organs, (patches,), generator=g)
    modality = torch.randint(0, 2, (patches,), generator=g)
    loss = feature_patch_contrast(x, organ, modality)
    order = torch.randperm(patches, generator=g)
    scales = torch.rand(patches, 1, generator=g) + 0.1
    again = feature_patch_contrast((x * scales)[order], organ[order], modality[order])
    assert torch.isfinite(loss)
    assert loss >= 0
    torch.testing.assert_close(loss, again, rtol=1e-4, atol=1e-5)


@ALIKE_EVERY_TIME
@given(SEEDS, st.integers(2, 8))
def test_pairs_have_no_order_and_no_first_member(seed: int, pairs: int) -> None:
    g = random(seed)
    a, b = torch.randn(2, pairs, 6, generator=g)
    order = torch.randperm(pairs, generator=g)
    loss = nt_xent(a, b, 0.2)
    torch.testing.assert_close(loss, nt_xent(b[order], a[order], 0.2), rtol=1e-4, atol=1e-5)


@ALIKE_EVERY_TIME
@given(SEEDS, st.integers(2, 5))
def test_modalities_that_agree_are_most_consistent(seed: int, classes: int) -> None:
    """Orthogonal descriptors that match their own class cost less than the same ones with two classes exchanged."""
    g = random(seed)
    a = torch.linalg.qr(torch.randn(8, classes, generator=g))[0].T[None]
    swapped = a[:, [1, 0, *range(2, classes)]]
    assert structural_consistency(a, a) < structural_consistency(a, swapped)


@ALIKE_EVERY_TIME
@given(SEEDS, st.floats(0.0, 1.5), st.floats(0.0, 1.5))
def test_a_wider_margin_never_costs_less(seed: int, one: float, other: float) -> None:
    g = random(seed)
    features, prototypes = torch.randn(2, 6, 4, 4, generator=g), torch.randn(3, 6, generator=g)
    labels = torch.randint(-1, 3, (2, 4, 4), generator=g)
    narrow, wide = (margin_contrast(features, prototypes, labels, m) for m in sorted((one, other)))
    assert torch.isfinite(wide)
    assert wide >= narrow - 1e-5


@ALIKE_EVERY_TIME
@given(SEEDS, st.floats(0.0, 1.0))
def test_what_is_not_trusted_does_not_count(seed: int, share: float) -> None:
    g = random(seed)
    logits = torch.randn(2, 4, 6, 6, generator=g)
    labels = torch.randint(0, 4, (2, 6, 6), generator=g)
    trusted = torch.rand(2, 6, 6, generator=g) < share
    others = torch.where(trusted, labels, torch.randint(0, 4, labels.shape, generator=g))
    noise = torch.where(trusted[:, None], logits, torch.randn(logits.shape, generator=g))
    loss = trusted_dice_ce(logits, labels, trusted)
    assert torch.isfinite(loss)
    assert torch.equal(loss, trusted_dice_ce(noise, others, trusted))
    right = torch.nn.functional.one_hot(labels, 4).movedim(-1, 1) * 100.0
    assert trusted_dice_ce(right, labels, trusted) <= loss + 1e-6


@ALIKE_EVERY_TIME
@given(SEEDS, st.sets(st.integers(1, 4)))
def test_classes_that_are_not_annotated_are_background_and_lose_no_probability(seed: int, annotated: set[int]) -> None:
    g = random(seed)
    logits = torch.randn(2, 5, 3, 3, generator=g, dtype=torch.float64)
    labels = torch.randint(0, 5, (2, 1, 3, 3), generator=g)
    labels = labels.where(torch.isin(labels, torch.tensor([0, *sorted(annotated)])), 0)
    merged, renumbered = marginalise(logits, labels, sorted(annotated))
    kept = [0, *sorted(annotated)]
    assert merged.shape[1] == len(kept)
    before, after = logits.softmax(1), merged.softmax(1)
    for new, old in enumerate(kept[1:], 1):
        torch.testing.assert_close(after[:, new], before[:, old])
    torch.testing.assert_close(after.sum(1), torch.ones_like(after[:, 0]))
    assert set(renumbered.unique().tolist()) <= set(range(len(kept)))


LABELS = {"Myo": 1, "LV": 2, "RV": 3}
ANNOTATED = st.one_of(st.just("all"), st.lists(st.sampled_from(sorted(LABELS)), unique=True))


class Files:
    """nnU-Net's data set of one case."""

    source_folder = ""

    def __init__(self, labels: np.ndarray[Any, Any]) -> None:
        self.labels = labels

    def load_case(self, name: str) -> Any:
        places = {value: np.argwhere(self.labels == value) for value in LABELS.values()}
        return np.zeros((2, *self.labels.shape[1:])), self.labels, None, {"class_locations": places}


@ALIKE_EVERY_TIME
@given(SEEDS, st.sets(st.integers(1, 3)))
def test_no_label_shows_that_training_may_not_see(seed: int, visible: set[int]) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, 4, size=(1, 3, 6, 6)).astype(np.int16)
    block = CrossmodBlock(("A", "B"), ("A",), ("B",), {}, LABELS)
    case = Case("x", "B", frozenset(visible), "x")
    _, seg, _, properties = CrossModalDataset(Files(labels), {"x": case}, block).load_case("x")
    whole = tuple(slice(None) for _ in labels.shape)
    shown = np.asarray(seg[whole])
    assert set(np.unique(shown)) <= {-1, 0, *visible}
    for value in visible:
        assert np.array_equal(shown == value, labels == value)
    for value, places in properties["class_locations"].items():
        assert (len(places) > 0) == (value in visible and bool((labels == value).any()))
    if not visible:  # not even the padding, which follows the labels' array
        assert not shown.any()


@ALIKE_EVERY_TIME
@given(st.dictionaries(st.text(min_size=1, max_size=8), st.tuples(st.sampled_from("AB"), ANNOTATED), min_size=1))
def test_a_block_is_read_as_it_was_written(cases: dict[str, tuple[str, Any]]) -> None:
    assume({modality for modality, _ in cases.values()} == {"A", "B"})
    entries = {name: {"modality": m, "annotated": a, "subject": name} for name, (m, a) in cases.items()}
    written = {"modalities": ["A", "B"], "source": ["A"], "target": ["B"], "registered": False, "cases": entries}
    read = CrossmodBlock.from_dataset_json({"labels": {"background": 0, **LABELS}, "crossmod": written})
    for name, (modality, annotated) in cases.items():
        expected = set(LABELS.values()) if annotated == "all" else {LABELS[label] for label in annotated}
        assert read.cases[name].visible == expected
        assert read.cases[name].modality == modality
    again = json.loads(json.dumps(read.to_json()))
    assert CrossmodBlock.from_dataset_json({"labels": {"background": 0, **LABELS}, "crossmod": again}) == read
