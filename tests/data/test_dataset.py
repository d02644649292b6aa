"""Labels are hidden where a case is loaded, before anything else runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnunet_crossmod.data import BalancedDataLoader, Case, CrossModalDataset, CrossmodBlock, RegisteredScans
from nnunet_crossmod.data.loader import check_batch_size
from nnunet_crossmod.errors import CrossmodError

LABELS = {"a": 1, "b": 2}
SEG = np.array([[[[-1, 0, 1], [2, 2, 3]]]], dtype=np.int16)
LOCATIONS = {1: np.array([[0, 0, 0, 2]]), 2: np.array([[0, 0, 1, 0]]), (-1, 0, 1, 2): np.array([[0, 0, 0, 1]])}


class Inner:
    source_folder = "folder"
    seg = SEG

    def load_case(self, identifier: str) -> Any:
        data = np.stack([np.full(self.seg.shape[1:], 5.0), np.full(self.seg.shape[1:], 1.0)])
        return data, self.seg, None, {"class_locations": LOCATIONS, "spacing": [1, 1, 1]}


def block_of(cases: dict[str, Case], registered: bool = False) -> CrossmodBlock:
    return CrossmodBlock(("T1", "T1c"), ("T1",), ("T1c",), cases, LABELS, registered)


def load(visible: set[int], **kwargs: Any) -> Any:
    cases = {"x": Case("x", "T1", frozenset(visible), "x")}
    return CrossModalDataset(Inner(), cases, block_of(cases), **kwargs).load_case("x")


EVERYTHING = (slice(None),) * 4


def test_a_fully_visible_case_is_left_alone() -> None:
    _, seg, previous, properties = load({1, 2})
    assert seg is SEG
    assert previous is None
    assert properties["class_locations"] is LOCATIONS


def test_of_a_hidden_case_nothing_is_read() -> None:
    _, seg, _, properties = load(set())
    assert not seg[EVERYTHING].any()
    assert all(len(found) == 0 for found in properties["class_locations"].values())
    assert set(properties["class_locations"]) == set(LOCATIONS)
    assert properties["spacing"] == [1, 1, 1]


def test_of_a_partly_annotated_case_only_the_visible_labels_stand() -> None:
    _, seg, _, properties = load({2})
    assert seg[EVERYTHING].tolist() == [[[[-1, 0, 0], [2, 2, 3]]]]
    assert {key: len(found) for key, found in properties["class_locations"].items()} == {1: 0, 2: 1, (-1, 0, 1, 2): 0}
    assert SEG[0, 0, 0, 2] == 1


def test_training_drops_the_modality_channel_and_validation_keeps_it() -> None:
    data = load({1, 2})[0]
    assert data.shape == (1, 1, 2, 3)
    assert (data[EVERYTHING] == 5).all()
    assert load({1, 2}, keep_modality_channel=True)[0].shape[0] == 2


def pair(registered_shapes: tuple[tuple[int, ...], ...] = ((1, 1, 2, 3), (1, 1, 2, 3))) -> CrossModalDataset:
    class TwoScans(Inner):
        def load_case(self, identifier: str) -> Any:
            self.seg = np.full(registered_shapes[identifier == "s_T1c"], 1 if identifier == "s_T1" else 2, np.int16)
            return super().load_case(identifier)

    cases = {
        "s_T1": Case("s_T1", "T1", frozenset({1}), "s"),
        "s_T1c": Case("s_T1c", "T1c", frozenset({2}), "s"),
        "lonely_T1": Case("lonely_T1", "T1", frozenset({1}), "lonely"),
    }
    return CrossModalDataset(TwoScans(), cases, block_of(cases, True))


def test_registered_scans_of_a_subject_are_stacked_in_the_order_of_the_modalities() -> None:
    scans = RegisteredScans(pair())
    assert scans.identifiers == ["s"]
    data, seg, _, _ = scans.load_case("s")
    assert data.shape == (2, 1, 2, 3)
    assert seg[EVERYTHING][:, 0, 0, 0].tolist() == [1, 2]


def test_registered_scans_of_different_shape_are_refused() -> None:
    with pytest.raises(CrossmodError, match="s_T1, s_T1c"):
        RegisteredScans(pair(((1, 1, 2, 3), (1, 1, 2, 4))))


def test_no_registered_subject_is_refused() -> None:
    scans = pair()
    del scans.cases["s_T1c"]
    with pytest.raises(CrossmodError, match="pairing=unpaired"):
        RegisteredScans(scans)


def test_a_batch_must_hold_every_modality() -> None:
    with pytest.raises(CrossmodError, match="at least 2"):
        check_batch_size(1, ["T1", "T1c"])
    check_batch_size(2, ["T1", "T1c"])


class Labels:
    """What nnU-Net's loader asks of its label manager."""

    all_labels = [0, 1, 2]  # noqa: RUF012
    has_ignore_label = True


def test_balanced_batches_alternate_and_draw_every_case() -> None:
    cases = {f"{m}{i}": Case(f"{m}{i}", m, frozenset(), f"{i}") for m, n in (("T1", 2), ("T1c", 9)) for i in range(n)}
    data = CrossModalDataset(Inner(), cases, block_of(cases))
    loader = BalancedDataLoader(data, 3, (4, 4), (4, 4), Labels(), target_batch_size=2)
    drawn = [loader.get_indices() for _ in range(60)]
    assert all([cases[name].modality for name in batch] == ["T1", "T1c", "T1", "T1c", "T1"] for batch in drawn)
    assert {name for batch in drawn for name in batch} == set(cases)


@pytest.mark.parametrize("batch_size", [2, 3, 4, 12])
def test_foreground_is_forced_in_every_modality(batch_size: int) -> None:
    cases = {m: Case(m, m, frozenset({1}), m) for m in ("T1", "T1c")}
    data = CrossModalDataset(Inner(), cases, block_of(cases))
    sizes = {"target_batch_size": batch_size, "oversample_foreground_percent": 0.33}
    loader = BalancedDataLoader(data, batch_size, (4, 4), (4, 4), Labels(), **sizes)
    assert loader.batch_size == 2 * batch_size
    forced = np.array([[loader.get_do_oversample(i) for i in range(2 * batch_size)] for _ in range(300)]).mean(0)
    assert (abs(forced - 0.33) < 0.12).all()


def test_a_hidden_case_is_cropped_anywhere(recwarn: pytest.WarningsRecorder) -> None:
    cases = {"x": Case("x", "T1", frozenset(), "x")}
    scans = CrossModalDataset(Inner(), cases, block_of(cases))
    loader = BalancedDataLoader(scans, 1, (4, 4), (4, 4), Labels(), target_batch_size=1)
    hidden = {key: [] for key in LOCATIONS}
    for force in (False, True):
        corners = {tuple(loader.get_bbox((1, 20, 20), force, hidden)[0]) for _ in range(200)}
        assert len({corner[1] for corner in corners}) > 10
    assert not [w for w in recwarn if "annotated" in str(w.message)]
