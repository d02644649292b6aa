"""The ``"crossmod"`` block of ``dataset.json``: which case is of which modality, and what training may see of it.

.. code-block:: json

    "crossmod": {
      "modalities": ["bSSFP", "LGE"], "source": ["bSSFP"], "target": ["LGE"], "registered": false,
      "cases": {
        "patient02_C0":  {"modality": "bSSFP", "annotated": "all", "subject": "patient02"},
        "patient07_LGE": {"modality": "LGE", "annotated": [], "subject": "patient07", "labelled": false},
        "patient08_LGE": {"modality": "LGE", "annotated": "all", "subject": "patient08", "pseudo": true}
      },
      "test": {"patient01_LGE": {"modality": "LGE", "subject": "patient01"}}
    }

``annotated`` is what *training* may see of a case: ``"all"``, a list of label names (partial annotation) or ``[]``.
``labelled`` says whether the label file holds real labels (the default) or only nnU-Net's ignore label. ``pseudo`` says
that models made the label file (``crossmod self-train``): training may learn from it, but it is no reference.
``registered`` declares that scans of one subject lie on one grid. ``test`` names the cases of ``imagesTs``.
``orientations``, if it is there, lists for each modality where the axes x, y and z of its scans run to (``LPS``: left,
posterior, superior).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nnunet_crossmod.errors import CrossmodError, UnsupportedError

__all__ = ["Case", "CrossmodBlock", "entry_of"]


@dataclass(frozen=True)
class Case:
    """One scan. ``visible`` holds the foreground label values that training may see; ``subject`` whose scan it is.

    ``labelled``: its label file holds real labels; ``pseudo``: it holds those of models, and ``labelled`` is false.
    """

    name: str
    modality: str
    visible: frozenset[int]
    subject: str
    labelled: bool = True
    pseudo: bool = False

    @property
    def annotated(self) -> bool:
        """Whether training may see any label of this case."""
        return bool(self.visible)


@dataclass(frozen=True)
class CrossmodBlock:
    """The parsed and checked block. ``labels`` are the foreground labels, name → value (1 … k − 1)."""

    modalities: tuple[str, ...]
    source: tuple[str, ...]
    target: tuple[str, ...]
    cases: Mapping[str, Case]
    labels: Mapping[str, int]
    registered: bool = False
    test: Mapping[str, Case] = field(default_factory=dict)
    orientations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def from_dataset_json(cls, dataset_json: Mapping[str, Any], where: str = "dataset.json") -> CrossmodBlock:
        """Read and check the block.

        Args:
            dataset_json: the content of ``dataset.json``.
            where: how error messages name that file.

        Raises:
            CrossmodError: no block, an unknown modality or label name, or a modality without a role.
            UnsupportedError: region-based labels.
        """
        block = dataset_json.get("crossmod")
        if not isinstance(block, Mapping):
            raise CrossmodError(
                f'{where} has no "crossmod" block: write the data set with "crossmod convert", or use a stock trainer'
            )
        labels = _foreground_labels(dataset_json, where)
        modalities, source, target = (_names(block, key, where) for key in ("modalities", "source", "target"))
        for role, names in (("source", source), ("target", target)):
            unknown = [name for name in names if name not in modalities]
            if unknown:
                raise CrossmodError(
                    f'{where}: "crossmod" names {unknown[0]!r} as {role}, but its modalities are {list(modalities)}'
                )
        adrift = [name for name in modalities if (name in source) == (name in target)]
        if adrift:
            raise CrossmodError(f'{where}: modality {adrift[0]!r} must be listed as either "source" or "target"')
        cases = {
            name: _case(name, entry, modalities, labels, where)
            for name, entry in _entries(block, "cases", where).items()
        }
        if not cases:
            raise CrossmodError(f'{where}: "crossmod" lists no cases: list every training case with its modality')
        test = {
            name: _case(name, {"annotated": [], **entry}, modalities, labels, where)
            for name, entry in (_entries(block, "test", where) if "test" in block else {}).items()
        }
        registered = _flag(block, "registered", False, f'{where}: "crossmod"')
        orientations = {
            name: tuple(map(str, codes)) for name, codes in block.get("orientations", {}).items() if name in modalities
        }
        return cls(modalities, source, target, cases, labels, registered, test, orientations)

    def to_json(self) -> dict[str, Any]:
        """The block as it stands in ``dataset.json``."""
        values = {value: name for name, value in self.labels.items()}

        def entry(case: Case) -> dict[str, Any]:
            everything = case.visible == frozenset(self.labels.values())
            names: str | list[str] = "all" if everything else [values[value] for value in sorted(case.visible)]
            written = {"modality": case.modality, "annotated": names, "subject": case.subject}
            if case.pseudo:
                return {**written, "pseudo": True}
            return written if case.labelled else {**written, "labelled": False}

        return {
            "modalities": list(self.modalities),
            "source": list(self.source),
            "target": list(self.target),
            "registered": self.registered,
            **({"orientations": {k: list(v) for k, v in self.orientations.items()}} if self.orientations else {}),
            "cases": {name: entry(case) for name, case in sorted(self.cases.items())},
            "test": {
                name: {"modality": case.modality, "subject": case.subject} for name, case in sorted(self.test.items())
            },
        }

    @property
    def target_annotated(self) -> bool:
        """Whether training may see a label of any target scan."""
        return any(case.annotated for case in self.cases.values() if case.modality in self.target)

    @property
    def pseudo_labelled(self) -> list[str]:
        """The training cases whose labels are those of models."""
        return [name for name, case in self.cases.items() if case.pseudo]

    def modality_index(self, case: str) -> int:
        """Position of the case's modality in ``modalities``; the modality channel holds this number plus one."""
        return self.modalities.index(self.cases[case].modality)

    def is_target(self, case: str) -> bool:
        """Whether the case is of a target modality."""
        return self.cases[case].modality in self.target

    def check_files(self, names: Iterable[str], where: str) -> None:
        """Compare the block's cases with the cases found on disk.

        Args:
            names: the cases found.
            where: the folder they were found in, for the message.

        Raises:
            CrossmodError: a case is named in the block but not on disk, or the reverse.
        """
        names_on_disk = set(names)
        missing = sorted(set(self.cases) - names_on_disk)
        if missing:
            raise CrossmodError(
                f'case {missing[0]!r} stands in the "crossmod" block of dataset.json but not in {where}'
                f"{_and_more(missing)}: add its files and preprocess again, or take it out of the block"
            )
        unnamed = sorted(names_on_disk - set(self.cases))
        if unnamed:
            raise CrossmodError(
                f'case {unnamed[0]!r} lies in {where} but not in the "crossmod" block of dataset.json'
                f"{_and_more(unnamed)}: add it there with its modality, or remove its files"
            )


def entry_of(dataset_json: Mapping[str, Any], key: str, where: str) -> Any:
    """An entry that every ``dataset.json`` must have.

    Args:
        dataset_json: the content.
        key: of the entry.
        where: how the message names that file.

    Raises:
        CrossmodError: it has none.
    """
    if key not in dataset_json:
        raise CrossmodError(f'{where} has no "{key}": convert the data set again')
    return dataset_json[key]


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _entries(block: Mapping[str, Any], key: str, where: str) -> Mapping[str, Mapping[str, Any]]:
    value = block.get(key)
    if not isinstance(value, Mapping) or not all(isinstance(entry, Mapping) for entry in value.values()):
        raise CrossmodError(f'{where}: "crossmod" needs "{key}", an object with one object per case')
    return value


def _flag(entry: Mapping[str, Any], key: str, default: bool, what: str) -> bool:
    value = entry.get(key, default)
    if not isinstance(value, bool):
        raise CrossmodError(f'{what} has "{key}": {value!r}; it must be true or false')
    return value


def _names(block: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = block.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise CrossmodError(f'{where}: "crossmod" needs "{key}", a list of modality names')
    if len(set(value)) != len(value):
        raise CrossmodError(f'{where}: "crossmod" lists a modality twice in "{key}": {value}')
    return tuple(value)


def _foreground_labels(dataset_json: Mapping[str, Any], where: str) -> dict[str, int]:
    labels = dataset_json.get("labels")
    if not isinstance(labels, Mapping):
        raise CrossmodError(f'{where}: needs "labels", an object of name: value')
    regions = [name for name, value in labels.items() if isinstance(value, list | tuple) and len(value) > 1]
    if regions:
        raise UnsupportedError(
            f"{where}: label {regions[0]!r} is a region; cross-modal trainers need plain labels: give every label one "
            "integer, or train with a stock nnU-Net trainer"
        )
    plain = {name: value[0] if isinstance(value, list | tuple) and value else value for name, value in labels.items()}
    for name, value in plain.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise CrossmodError(f"{where}: label {name!r} has the value {value!r}; it must be a whole number")
    return {name: value for name, value in plain.items() if value != 0 and name != "ignore"}


def _case(
    name: str, entry: Mapping[str, Any], modalities: tuple[str, ...], labels: Mapping[str, int], where: str
) -> Case:
    modality = entry.get("modality")
    if modality not in modalities:
        raise CrossmodError(
            f"{where}: case {name!r} has modality {modality!r}, but the modalities are {list(modalities)}"
        )
    annotated = entry.get("annotated")
    if annotated == "all":
        visible = frozenset(labels.values())
    elif isinstance(annotated, list):
        unknown = [label for label in annotated if not isinstance(label, str) or label not in labels]
        if unknown:
            raise CrossmodError(
                f"{where}: case {name!r} is annotated with {unknown[0]!r}, but the labels are {list(labels)}"
            )
        visible = frozenset(labels[label] for label in annotated)
    else:
        raise CrossmodError(
            f'{where}: case {name!r} needs "annotated": "all", a list of label names, or [] for none; got {annotated!r}'
        )
    pseudo = _flag(entry, "pseudo", False, f"{where}: case {name!r}")
    labelled = _flag(entry, "labelled", not pseudo, f"{where}: case {name!r}")
    if pseudo and labelled:
        raise CrossmodError(f'{where}: case {name!r} cannot be both "labelled" and "pseudo": take one of them out')
    if visible and not labelled and not pseudo:
        raise CrossmodError(f'{where}: case {name!r} is annotated but "labelled" is false: give it a label file')
    return Case(name, modality, visible, str(entry.get("subject", name)), labelled, pseudo)
