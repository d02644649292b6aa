"""Everything that can be wrong with a training's input, found before nnU-Net writes its first file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

from nnunet_crossmod.data import Case, CrossmodBlock, check_batch_size
from nnunet_crossmod.errors import CrossmodError, UnsupportedError
from nnunet_crossmod.plans import resolved_configuration

__all__ = ["check_input", "check_role_sizes", "mixed_orientations", "planned_configuration"]


def planned_configuration(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """One configuration of the plans, with what it inherits.

    Raises:
        CrossmodError: the plans have no such configuration.
        UnsupportedError: it is a cascade.
    """
    configurations = plans["configurations"]
    if configuration not in configurations:
        raise CrossmodError(
            f"{plans['plans_name']}.json has no configuration {configuration!r}; it has {', '.join(configurations)}"
        )
    planned = resolved_configuration(plans, configuration)
    if "previous_stage" in planned:
        raise UnsupportedError(
            f"{configuration} is a cascade, which cross-modal trainers do not do: train 3d_fullres or 2d instead"
        )
    return planned


def check_input(
    plans: Mapping[str, Any], configuration: str, planned: Mapping[str, Any], dataset_json: Mapping[str, Any]
) -> None:
    """Check channels and preprocessed data.

    Raises:
        CrossmodError: no modality channel, or data that is not preprocessed, or other cases than the block names.
    """
    channels = list(dataset_json.get("channel_names", {}).values())
    if len(channels) < 2 or channels[-1].casefold() != "nonorm":
        raise CrossmodError(
            f"dataset.json names the channels {channels}; the last one must be the modality channel, named "
            '"noNorm": write the data set with "crossmod convert"'
        )
    if not nnUNet_preprocessed.is_set():
        return
    folder = Path(nnUNet_preprocessed) / plans["dataset_name"] / planned["data_identifier"]
    if not folder.is_dir():
        raise CrossmodError(f"{folder} does not exist: run nnUNetv2_preprocess -c {configuration} first")
    try:
        kind = infer_dataset_class(str(folder))
    except AssertionError as error:
        raise CrossmodError(
            f"{folder} is empty or half-written: run nnUNetv2_preprocess -c {configuration} again"
        ) from error
    CrossmodBlock.from_dataset_json(dataset_json).check_files(kind.get_identifiers(str(folder)), str(folder))


def check_role_sizes(
    block: CrossmodBlock, cases: Mapping[str, Case], batch_size: int, target_batch_size: int | None
) -> None:
    """Raise :class:`CrossmodError` where a batch cannot hold every modality of the cases."""
    present = {case.modality for case in cases.values()}
    source, target = ([m for m in role if m in present] for role in (block.source, block.target))
    check_batch_size(batch_size, source or target)
    if source and target:
        check_batch_size(target_batch_size or batch_size, target)


def mixed_orientations(properties: Mapping[str, Mapping[str, Any]]) -> str:
    """One line that names the orientations of the scans where there are several; empty where there is one.

    Args:
        properties: nnU-Net's properties of every case; those whose reader keeps no direction do not count.
    """
    orientations: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for name, entry in properties.items():
        direction = entry.get("sitk_stuff", {}).get("direction", ())
        if len(direction) == 9:
            code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction)
            orientations[code] += 1
            examples.setdefault(code, name)
    if len(orientations) < 2:
        return ""
    counts = ", ".join(f"{count} {code} (as {examples[code]})" for code, count in orientations.most_common())
    return (
        f"WARNING: the scans lie in several orientations: {counts}. The default augmentation keeps the orientation: "
        "reorient the scans before conversion, or set rotation_degrees=180 mirror=true"
    )
