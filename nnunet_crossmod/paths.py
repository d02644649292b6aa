"""Where things lie, how nnU-Net's JSON files are read, and which device computes."""

from __future__ import annotations

import ast
import json
import os
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nnunet_crossmod.errors import CrossmodError, did_you_mean

__all__ = [
    "FINAL",
    "check_output_file",
    "check_output_folder",
    "check_trainer",
    "dataset_folder",
    "device_of",
    "find_dataset_json",
    "let_nnunet_find_trainers",
    "load_trainer",
    "model_folder",
    "models_of",
    "nnunet_folder",
    "read_json",
    "read_plans",
    "trainer_names",
    "trainers_folder",
    "write_whole",
]

FINAL = "checkpoint_final.pth"
"""What nnU-Net calls the checkpoint of a training that has ended."""


def trainers_folder() -> Path:
    """The folder that ``nnUNet_extTrainer`` must name."""
    spec = find_spec("nnunet_crossmod.trainers")
    if spec is None or not spec.submodule_search_locations:
        raise CrossmodError("the trainers are not installed: pip install nnunet-crossmod")
    return Path(spec.submodule_search_locations[0]).resolve()


def trainer_names() -> list[str]:
    """The public trainer classes in that folder, read without importing them."""
    return sorted(
        node.name
        for file in trainers_folder().glob("*_trainer*.py")
        for node in ast.parse(file.read_bytes()).body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Trainer") and not node.name.startswith("_")
    )


def nnunet_folder(variable: str) -> Path:
    """One of nnU-Net's three folders, by the name of its variable; it may not exist yet.

    Raises:
        CrossmodError: the variable is not set.
    """
    if not (folder := os.environ.get(variable)):
        raise CrossmodError(f"{variable} is not set: export {variable}=/a/folder")
    return Path(folder)


def dataset_folder(variable: str, dataset: int | str) -> Path:
    """The data set's folder below ``$nnUNet_raw``, ``$nnUNet_preprocessed`` or ``$nnUNet_results``.

    Args:
        variable: the name of the variable.
        dataset: the id (``511``) or the full name (``"Dataset511_MSCMRSeg"``).

    Raises:
        CrossmodError: the variable is not set or names no folder, or there is no such data set, or there are several.
    """
    base = nnunet_folder(variable)
    if not base.is_dir():
        raise CrossmodError(f"{variable} names {base}, which does not exist: correct it, or mkdir -p {base}")
    folders = sorted(path for path in base.glob(_pattern(dataset)) if path.is_dir())
    if not folders:
        remedy = {
            "nnUNet_raw": '"crossmod convert"',
            "nnUNet_results": f"nnUNetv2_train {dataset} CONFIGURATION FOLD -tr TRAINER",
        }.get(variable, f"nnUNetv2_plan_and_preprocess -d {dataset}")
        raise CrossmodError(f"{base} has no data set {dataset}: make it with {remedy}")
    if len(folders) > 1:
        raise CrossmodError(f"{base} has several data sets {dataset}: give the full name of one, as {folders[0].name}")
    return folders[0]


def model_folder(dataset: int | str, trainer: str, plans: str, configuration: str) -> Path:
    """The folder of a trained model below ``$nnUNet_results``.

    Raises:
        CrossmodError: there is no such model; the message names those there are.
    """
    of_dataset = dataset_folder("nnUNet_results", dataset)
    folder = of_dataset / f"{trainer}__{plans}__{configuration}"
    if not folder.is_dir():
        trained = [path.name.split("__") for path in sorted(of_dataset.glob("*__*__*")) if path.is_dir()]
        there = "; ".join(f"-tr {t} -p {p} -c {c}" for t, p, c in (name for name in trained if len(name) == 3))
        raise CrossmodError(f"{folder} does not exist; trained on {of_dataset.name}: {there or 'nothing yet'}")
    return folder


def read_plans(dataset: int | str, plans: str, configuration: str | None = None) -> dict[str, Any]:
    """Plans of a planned data set.

    Args:
        dataset: id or name.
        plans: their name.
        configuration: must be one of theirs.

    Raises:
        CrossmodError: the data set is not planned, or has no plans of that name, or they have no such configuration.
    """
    folder = dataset_folder("nnUNet_preprocessed", dataset)
    file, remedy = folder / f"{plans}.json", f"plan again with nnUNetv2_plan_and_preprocess -d {dataset}"
    if not file.is_file():
        names = sorted(path.stem for path in folder.glob("*Plans*.json"))
        there = f"; plans of this data set: {', '.join(names)}" if names else f": {remedy}"
        raise CrossmodError(f"{file} does not exist{did_you_mean(plans, names)}{there}")
    content: dict[str, Any] = read_json(file, remedy)
    known = content["configurations"]
    if configuration is not None and configuration not in known:
        near = did_you_mean(configuration, known)
        raise CrossmodError(f"{file} has no configuration {configuration!r}{near}; it has {', '.join(known)}")
    return content


def let_nnunet_find_trainers() -> None:
    """Put the trainers into nnU-Net's own variable, for this process, where they are not named there."""
    named, wanted = _named_trainer_folders(), str(trainers_folder())
    if wanted not in named:
        os.environ["nnUNet_extTrainer"] = os.pathsep.join([*named, wanted])  # noqa: SIM112 - nnU-Net's spelling


def find_dataset_json(dataset: int | str) -> Path:
    """The ``dataset.json`` of a data set, from ``$nnUNet_raw``, ``$nnUNet_preprocessed`` or a cross-modal model of it.

    Raises:
        CrossmodError: none of the folders holds the data set, or it is ambiguous.
    """
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        base = os.environ.get(variable)
        if base and any(Path(base).glob(f"{_pattern(dataset)}/dataset.json")):
            return dataset_folder(variable, dataset) / "dataset.json"
    for model in models_of(dataset):
        file = model / "dataset.json"
        if file.is_file() and "crossmod" in read_json(file, "export or train the model again"):
            return file
    raise CrossmodError(
        f"data set {dataset} lies neither in $nnUNet_raw nor in $nnUNet_preprocessed, nor has $nnUNet_results a "
        "cross-modal model of it: set them as for nnU-Net, or name the dataset.json of a trained model"
    )


def models_of(dataset: int | str) -> list[Path]:
    """The folders of all trained models of a data set, nnU-Net's own among them; none where no results are named."""
    results = os.environ.get("nnUNet_results")  # noqa: SIM112 - nnU-Net's spelling
    return sorted(Path(results).glob(f"{_pattern(dataset)}/*__*__*")) if results else []


def _pattern(dataset: int | str) -> str:
    return f"Dataset{int(dataset):03d}_*" if str(dataset).isdigit() else str(dataset)


def check_trainer(name: str) -> list[str]:
    """Look for a trainer without importing anything; returns the folders whose files name it.

    Raises:
        CrossmodError: none does.
    """
    own, word = str(trainers_folder()), re.compile(rf"\b{re.escape(name)}\b".encode())
    folders = [own] if name in trainer_names() else []
    for folder in _named_trainer_folders() if name.isidentifier() else ():
        if folder != own and any(word.search(file.read_bytes()) for file in Path(folder).rglob("*.py")):
            folders.append(folder)
    if not folders:
        raise _no_trainer(name)
    return folders


def load_trainer(name: str) -> Any:
    """The trainer class of that name, among this project's and those in the folders of ``nnUNet_extTrainer``.

    Raises:
        CrossmodError: there is none.
    """
    for folder in check_trainer(name):
        trainer = _trainer_in(folder, name)
        if trainer is not None:
            return trainer
    raise _no_trainer(name)


@cache
def _trainer_in(folder: str, name: str) -> Any:
    """nnU-Net's search, once: it imports every file of the folder each time."""
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    return recursive_find_python_class(folder, name, None, folder, cleanup_imports_from_base_folder=True)


def _no_trainer(name: str) -> CrossmodError:
    known = trainer_names()
    return CrossmodError(
        f"there is no trainer {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}, and those of your own "
        "where nnUNet_extTrainer names their folder"
    )


def check_output_folder(folder: Path, flag: str = "-o") -> None:
    """Look, before any work is done, whether a folder can be written.

    Args:
        folder: it may not exist yet.
        flag: that names it, for the message.

    Raises:
        CrossmodError: it or a folder above it is a file, or may not be written.
    """
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not place.is_dir():
        raise CrossmodError(f"{flag} {folder}: {place} is a file: name a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise CrossmodError(f"{flag} {folder}: {place} cannot be written: allow it, or name another place")


def check_output_file(file: Path, flag: str = "-o") -> None:
    """Look, before any work is done, whether a file can be written.

    Args:
        file: it may exist, and would be replaced.
        flag: that names it, for the message.

    Raises:
        CrossmodError: it is a folder, or lies in one that cannot be written.
    """
    if file.is_dir():
        raise CrossmodError(f"{flag} {file} is a folder: name a file")
    check_output_folder(file.parent, flag)
    if file.exists() and not os.access(file, os.W_OK):
        raise CrossmodError(f"{flag} {file} cannot be written: allow it, or name another file")


def read_json(path: Path, remedy: str) -> Any:
    """The content of a JSON file.

    Raises:
        CrossmodError: the file is missing or damaged; the message ends with ``remedy``.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CrossmodError(f"{path} does not exist: {remedy}") from error
    except OSError as error:
        raise CrossmodError(f"{path} cannot be read ({error.strerror}): {remedy}") from error
    except ValueError as error:
        raise CrossmodError(f"{path} cannot be read as JSON ({error}): {remedy}") from error


def write_whole(path: Path, text: str) -> None:
    """Write a text file that is there whole or not at all, whenever the process is killed."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def device_of(name: str) -> str:
    """The device itself; for ``auto`` CUDA where it is there, else the CPU.

    Raises:
        CrossmodError: CUDA is asked for and not there.
    """
    if name not in ("auto", "cuda"):
        return name
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise CrossmodError("PyTorch finds no CUDA device: add -device cpu")
    return "cuda" if torch.cuda.is_available() else "cpu"


def _named_trainer_folders() -> list[str]:
    named = os.environ.get("nnUNet_extTrainer", "").split(os.pathsep)  # noqa: SIM112 - nnU-Net's spelling
    return [str(Path(folder).resolve()) for folder in named if folder.strip()]
