"""Where things lie."""

from __future__ import annotations

import ast
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nnunet_crossmod.errors import CrossmodError

__all__ = ["dataset_folder", "load_trainer", "trainer_names", "trainers_folder"]


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
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Trainer") and not node.name.startswith("_")
    )


def dataset_folder(variable: str, dataset_id: int) -> Path:
    """The data set's folder below ``$nnUNet_raw`` or ``$nnUNet_preprocessed``.

    Raises:
        CrossmodError: the variable is not set, or there is no data set of that id, or there are several.
    """
    base = os.environ.get(variable)
    if not base:
        raise CrossmodError(f"{variable} is not set: export {variable}=/a/folder")
    found = sorted(path for path in Path(base).glob(f"Dataset{dataset_id:03d}_*") if path.is_dir())
    if not found:
        remedy = '"crossmod convert"' if variable == "nnUNet_raw" else f"nnUNetv2_plan_and_preprocess -d {dataset_id}"
        raise CrossmodError(f"{base} has no data set {dataset_id:03d}: make it with {remedy}")
    if len(found) > 1:
        raise CrossmodError(
            f"{base} has several data sets {dataset_id:03d}: keep one of {', '.join(p.name for p in found)}"
        )
    return found[0]


def load_trainer(name: str) -> Any:
    """The trainer class of that name, found as nnU-Net finds it.

    Raises:
        CrossmodError: there is none.
    """
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    folder = str(trainers_folder())
    trainer = recursive_find_python_class(folder, name, None, folder, cleanup_imports_from_base_folder=True)
    if trainer is None:
        raise CrossmodError(f"there is no trainer {name!r}; there are {', '.join(trainer_names())}")
    return trainer
