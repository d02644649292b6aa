"""Everything that can be wrong with a training's input, found before nnU-Net writes its first file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

from nnunet_crossmod.data import Case, CrossmodBlock, check_batch_size
from nnunet_crossmod.errors import CrossmodError, UnsupportedError
from nnunet_crossmod.plans import resolved_configuration
from nnunet_crossmod.training.loading import check_fold

__all__ = [
    "check_fold_of",
    "check_input",
    "check_role_sizes",
    "mixed_orientations",
    "planned_configuration",
    "unlike_plans",
]


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
        CrossmodError: no modality channel, data that is not preprocessed, or with other plans, or other cases than the
            block names.
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
    number = int(plans["dataset_name"][7:10])  # nnU-Net's command takes no name
    command = f"nnUNetv2_preprocess -d {number} -plans_name {plans['plans_name']} -c {configuration}"
    if not folder.is_dir():
        raise CrossmodError(f"{folder} does not exist: run {command} first")
    try:
        kind = infer_dataset_class(str(folder))
    except AssertionError as error:
        raise CrossmodError(f"{folder} is empty or half-written: run {command} again") from error
    CrossmodBlock.from_dataset_json(dataset_json).check_files(kind.get_identifiers(str(folder)), str(folder))
    if difference := unlike_plans(kind(str(folder)), plans, planned):
        raise CrossmodError(
            f"{folder} was not preprocessed with {plans['plans_name']}.json ({difference}): run {command}"
        )


def unlike_plans(scans: Any, plans: Mapping[str, Any], planned: Mapping[str, Any]) -> str:
    """By what preprocessed scans show that they were made with other plans; empty where nothing shows.

    Spacing is compared by the shape of every scan, normalisation by the z-scores of the first.

    Args:
        scans: nnU-Net's data set of the preprocessed folder.
        plans: that training uses.
        planned: their configuration, with what it inherits.
    """
    for number, name in enumerate(scans.identifiers):
        data, _, _, properties = scans.load_case(name)
        original = [properties["spacing"][axis] for axis in plans["transpose_forward"]]
        spacing = [*original[: 3 - len(planned["spacing"])], *planned["spacing"]]
        expected = compute_new_shape(properties["shape_after_cropping_and_before_resampling"], original, spacing)
        if list(data.shape[1:]) != expected.tolist():
            wanted = " × ".join(f"{length:.3g}" for length in planned["spacing"])
            return (
                f"{name} is of {_product(data.shape[1:])} voxels there, of {_product(expected)} at the plans' spacing "
                f"of {wanted} mm"
            )
        schemes = planned["normalization_schemes"]
        if len(schemes) != len(data):
            return f"{name} has {len(data)} channels there, {len(schemes)} in the plans"
        if number == 0:
            for index, scheme in enumerate(schemes):
                values = np.asarray(data[index], dtype=np.float64)
                mean, deviation = values.mean(), values.std()
                if scheme == "ZScoreNormalization" and not (abs(mean) < 0.2 and 0.5 < deviation < 1.2):
                    return f"channel {index} of {name} has mean {mean:.3g} ± {deviation:.3g}, the plans want z-scores"
    return ""


def _product(shape: Iterable[int]) -> str:
    return " × ".join(map(str, shape))


def check_fold_of(plans: Mapping[str, Any], fold: int | str) -> None:
    """As :func:`~.loading.check_fold`, of the preprocessed data set that the plans are of."""
    if nnUNet_preprocessed.is_set():
        check_fold(Path(nnUNet_preprocessed) / plans["dataset_name"] / "splits_final.json", fold)


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
