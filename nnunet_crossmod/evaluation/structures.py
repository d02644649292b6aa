"""Which structures to measure, and of which modality a case is: from a data set or from words of the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nnunet_crossmod.errors import CrossmodError, did_you_mean
from nnunet_crossmod.paths import find_dataset_json, read_json
from nnunet_crossmod.raw.block import CrossmodBlock, entry_of

__all__ = ["Structures", "check_references", "of_dataset", "of_words"]


class Structures(NamedTuple):
    """Foreground ``labels``, name → value; ``modalities``, case → modality, or one for all; ``ending`` of files."""

    labels: Mapping[str, int]
    modalities: Mapping[str, str] | str
    ending: str = ".nii.gz"
    ignore: int | None = None

    def chosen(self, names: Sequence[str] | None) -> Mapping[str, int]:
        """The labels of the named structures; of all of them for ``None``.

        Raises:
            CrossmodError: a name that is not among them.
        """
        unknown = [name for name in names or () if name not in self.labels]
        if unknown:
            near = did_you_mean(unknown[0], self.labels)
            raise CrossmodError(f"-s: there is no structure {unknown[0]!r}{near}; there are {', '.join(self.labels)}")
        return self.labels if names is None else {name: self.labels[name] for name in names}

    def check_modality(self, name: str) -> None:
        """Raise :class:`CrossmodError` where cases have modalities, but none has this one."""
        known = {name} if isinstance(self.modalities, str) else set(self.modalities.values())
        if name and name not in known:
            raise CrossmodError(
                f"-m: there is no modality {name!r}{did_you_mean(name, known)}; there are {', '.join(sorted(known))}"
            )


def of_dataset(dataset: int | str) -> Structures:
    """What the ``dataset.json`` of a data set says."""
    file = find_dataset_json(dataset)
    return _of_json(read_json(file, "convert the data set again"), str(file))


def _of_json(dataset_json: Mapping[str, Any], where: str) -> Structures:
    block = CrossmodBlock.from_dataset_json(dataset_json, where)
    modalities = {case.name: case.modality for case in (*block.cases.values(), *block.test.values())}
    ending = entry_of(dataset_json, "file_ending", where)
    return Structures(block.labels, modalities, ending, dataset_json["labels"].get("ignore"))


def check_references(folder: Path) -> None:
    """Refuse pseudo-labels as references.

    Args:
        folder: of label maps; where it lies in a data set, that data set's block says which of them models have made.

    Raises:
        CrossmodError: it holds pseudo-labels.
    """
    file = folder.resolve().parent / "dataset.json"
    if not file.is_file():
        return
    dataset_json = read_json(file, "convert the data set again")
    if "crossmod" not in dataset_json:
        return
    block = CrossmodBlock.from_dataset_json(dataset_json, str(file))
    for case in block.pseudo_labelled:
        if (folder / f"{case}{dataset_json['file_ending']}").is_file():
            raise CrossmodError(
                f"-g {folder} holds pseudo-labels (case {case!r}), which are no reference: name a folder of real labels"
            )


def of_words(words: Sequence[str], modality: str = "") -> Structures:
    """``NAME=VALUE`` words, or one JSON file: name → value, or a ``dataset.json``.

    Raises:
        CrossmodError: a word of another form, an unreadable file, no structure.
    """
    if len(words) == 1 and "=" not in words[0]:
        return _of_file(Path(words[0]), modality)
    values: dict[str, int] = {}
    for word in words:
        name, _, value = word.partition("=")
        if not name or not value.isdecimal():
            raise CrossmodError(f"-l takes NAME=VALUE with an integer, or one JSON file, got {word!r}")
        if name in values or int(value) in values.values():
            raise CrossmodError(f"-l {word}: give every structure once, with a value of its own")
        values[name] = int(value)
    return _of_labels(values, modality, "-l")


def _of_file(file: Path, modality: str) -> Structures:
    content = read_json(file, "give -l NAME=VALUE words, or a JSON file of name → value")
    if isinstance(content, dict) and "crossmod" in content:
        return _of_json(content, str(file))
    labels = content.get("labels", content) if isinstance(content, dict) else None
    if not isinstance(labels, dict) or not all(isinstance(value, int) for value in labels.values()):
        raise CrossmodError(f'-l {file} must hold an object of name → integer, as {{"Myo": 1, "LV": 2}}')
    return _of_labels(labels, modality, str(file))


def _of_labels(labels: Mapping[str, int], modality: str, where: str) -> Structures:
    foreground = {name: value for name, value in labels.items() if value != 0 and name != "ignore"}
    if not foreground:
        raise CrossmodError(f"{where} names no structure with a value other than 0")
    return Structures(foreground, modality, ignore=labels.get("ignore"))
