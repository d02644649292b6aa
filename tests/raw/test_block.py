"""The block: what is read, what is written back, and every way of getting it wrong."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.raw.block import CrossmodBlock


def dataset_json() -> dict[str, Any]:
    return {
        "labels": {"background": 0, "Myo": 1, "LV": [2], "RV": 3, "ignore": 4},
        "crossmod": {
            "modalities": ["bSSFP", "LGE"],
            "source": ["bSSFP"],
            "target": ["LGE"],
            "cases": {
                "a_C0": {"modality": "bSSFP", "annotated": "all", "subject": "a"},
                "a_LGE": {"modality": "LGE", "annotated": ["RV", "Myo"], "subject": "a"},
                "b_LGE": {"modality": "LGE", "annotated": [], "labelled": False},
            },
            "test": {"c_LGE": {"modality": "LGE", "subject": "c"}},
        },
    }


def test_cases_are_read() -> None:
    block = CrossmodBlock.from_dataset_json(dataset_json())
    assert block.labels == {"Myo": 1, "LV": 2, "RV": 3}
    assert block.cases["a_C0"].visible == {1, 2, 3}
    assert block.cases["a_LGE"].visible == {1, 3}
    assert block.cases["a_LGE"].subject == "a"
    assert not block.cases["b_LGE"].annotated
    assert not block.cases["b_LGE"].labelled
    assert block.cases["b_LGE"].subject == "b_LGE"
    assert block.cases["a_C0"].labelled
    assert not block.test["c_LGE"].annotated
    assert not block.registered


def test_pseudo_labels_are_annotation_but_no_real_labels() -> None:
    content = dataset_json()
    content["crossmod"]["cases"]["b_LGE"] = {"modality": "LGE", "annotated": "all", "subject": "b", "pseudo": True}
    block = CrossmodBlock.from_dataset_json(content)
    case = block.cases["b_LGE"]
    assert (case.annotated, case.pseudo, case.labelled) == (True, True, False)
    assert block.pseudo_labelled == ["b_LGE"]
    assert block.to_json()["cases"]["b_LGE"] == content["crossmod"]["cases"]["b_LGE"]


def test_roles_and_modality_indices() -> None:
    block = CrossmodBlock.from_dataset_json(dataset_json())
    assert [block.modality_index(name) for name in ("a_C0", "a_LGE")] == [0, 1]
    assert [block.is_target(name) for name in ("a_C0", "a_LGE")] == [False, True]


def test_what_is_written_reads_back_as_the_same_block() -> None:
    content = dataset_json()
    content["crossmod"]["registered"] = True
    block = CrossmodBlock.from_dataset_json(content)
    written = block.to_json()
    assert CrossmodBlock.from_dataset_json({**content, "crossmod": written}) == block
    assert written["cases"]["a_C0"]["annotated"] == "all"
    assert written["cases"]["a_LGE"]["annotated"] == ["Myo", "RV"]
    assert written["cases"]["b_LGE"]["labelled"] is False
    assert "labelled" not in written["cases"]["a_C0"]


def broken(path: str, value: Any) -> dict[str, Any]:
    """The content with one entry changed; ``path`` is separated by slashes, and None takes the entry out."""
    content = copy.deepcopy(dataset_json())
    *parents, last = path.split("/")
    place = content
    for parent in parents:
        place = place[parent]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("crossmod", None, 'has no "crossmod" block'),
        ("crossmod", [], 'has no "crossmod" block'),
        ("crossmod/modalities", None, 'needs "modalities"'),
        ("crossmod/modalities", "bSSFP", 'needs "modalities"'),
        ("crossmod/source", [], 'needs "source"'),
        ("crossmod/target", ["LGE", "LGE"], 'twice in "target"'),
        ("crossmod/source", ["CT"], "names 'CT' as source, but its modalities are"),
        ("crossmod/target", ["bSSFP"], "modality 'bSSFP' must be listed as either"),
        ("crossmod/modalities", ["bSSFP", "LGE", "T2"], "modality 'T2' must be listed as either"),
        ("crossmod/cases", None, 'needs "cases"'),
        ("crossmod/cases", {}, "lists no cases"),
        ("crossmod/cases/a_C0/modality", "CT", "case 'a_C0' has modality 'CT', but the modalities are"),
        ("crossmod/cases/a_C0/modality", None, "case 'a_C0' has modality None"),
        ("crossmod/cases/a_LGE/annotated", ["LA"], "case 'a_LGE' is annotated with 'LA', but the labels are"),
        ("crossmod/cases/a_LGE/annotated", None, "case 'a_LGE' needs \"annotated\""),
        ("crossmod/cases/a_LGE/annotated", "RV", "got 'RV'"),
        ("crossmod/cases/b_LGE/annotated", "all", "case 'b_LGE' is annotated but \"labelled\" is false"),
        ("crossmod/cases/a_C0/pseudo", 1, "must be true or false"),
        ("crossmod/cases/b_LGE", {"modality": "LGE", "annotated": [], "labelled": True, "pseudo": True}, "both"),
        ("crossmod/test/c_LGE/modality", "CT", "case 'c_LGE' has modality 'CT'"),
    ],
)
def test_each_mistake_is_told_in_one_line_that_names_the_file(path: str, value: Any, told: str) -> None:
    with pytest.raises(CrossmodError) as error:
        CrossmodBlock.from_dataset_json(broken(path, value), "raw/Dataset511/dataset.json")
    assert told in str(error.value)
    assert "raw/Dataset511/dataset.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_regions_are_refused() -> None:
    with pytest.raises(NotImplementedError, match="'heart' is a region"):
        CrossmodBlock.from_dataset_json(broken("labels/heart", [1, 2]))


def test_the_files_must_be_the_cases() -> None:
    block = CrossmodBlock.from_dataset_json(dataset_json())
    block.check_files(["a_C0", "b_LGE", "a_LGE"], "folder")
    with pytest.raises(CrossmodError, match=r"'a_C0' stands in .* but not in folder \(and 1 more\)"):
        block.check_files(["a_LGE"], "folder")
    with pytest.raises(CrossmodError, match="'z' lies in folder but not in"):
        block.check_files([*block.cases, "z"], "folder")
