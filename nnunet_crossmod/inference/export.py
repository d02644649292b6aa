"""``crossmod export``: a trained model as an ordinary nnU-Net model for one modality.

Conditional norms become that modality's plain ones, the modality channel goes, the trainer becomes ``nnUNetTrainer``.
What comes out costs what a stock network costs, and needs nothing of this package, unless the network is one that
nnU-Net does not have.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nnunet_crossmod.errors import CrossmodError, UnsupportedError
from nnunet_crossmod.inference.trained_model import TrainedModel, open_model
from nnunet_crossmod.paths import FINAL, check_output_file
from nnunet_crossmod.plans import resolved_configuration

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Exported", "export_model", "stock_dataset_json", "stock_plans"]

TRAINER = "nnUNetTrainer"
TOLERANCE = 1e-5
OF_NNUNET = (
    "channel_names",
    "labels",
    "regions_class_order",
    "file_ending",
    "overwrite_image_reader_writer",
    "numTraining",
    "name",
    "description",
    "reference",
    "citation",
    "licence",
    "release",
)
"""What a ``dataset.json`` keeps in the zip."""
_DATASET_NAME = re.compile(r"Dataset\d{3}_\S+")


class Exported(NamedTuple):
    """What was written: the zip, the names in it, the largest relative difference of logits that was seen, and what to
    know before it is used (nothing as a rule)."""

    file: Path
    dataset: str
    plans: str
    configurations: tuple[str, ...]
    folds: tuple[int | str, ...]
    difference: float
    caution: str


def export_model(
    folders: Sequence[Path],
    modality: str,
    output: Path,
    *,
    folds: Sequence[int | str] | None = None,
    checkpoints: Sequence[str] = (FINAL,),
    dataset: str | None = None,
    plans: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write the model of one modality as a zip that ``nnUNetv2_install_pretrained_model_from_zip`` installs.

    Every network is compared with the stock network that the exported plans describe, on random tiles, before anything
    is written.

    Args:
        folders: ``TRAINER__PLANS__CONFIGURATION``, one a configuration, of one data set, trainer and plans.
        modality: which one the model is for.
        output: the zip.
        folds: which ones; ``None`` takes all that have the checkpoints.
        checkpoints: file names; the first decides which folds are finished.
        dataset: name the data set is given in the zip (``Dataset511_Heart``); its own by default.
        plans: name the plans are given in the zip; their own by default.
        overwrite: replace the zip.

    Raises:
        CrossmodError: a model, fold or checkpoint that is missing, or a modality the model was not trained on.
        UnsupportedError: the network is more than a stock network for one modality, too.
    """
    if output.suffix != ".zip":
        raise CrossmodError(f"-o {output} must end in .zip")
    check_output_file(output)
    if output.exists() and not overwrite:
        raise CrossmodError(f"{output} exists: name another -o, or add --overwrite")
    if not checkpoints:
        raise CrossmodError("no checkpoint is named: leave out -chk, or name one")
    models = [open_model(folder, folds, checkpoints[0]) for folder in folders]
    first = models[0]
    first.index_of(modality)
    if any(model.folds != first.folds for model in models):
        trained = "; ".join(f"{model.configuration}: {', '.join(map(str, model.folds))}" for model in models)
        raise CrossmodError(f"the configurations have different folds ({trained}): say which with -f")
    dataset = _checked_name(dataset or str(first.plans["dataset_name"]), _DATASET_NAME, "Dataset511_Heart")
    plans = _checked_name(plans or str(first.plans["plans_name"]), re.compile(r"(?!.*__)[\w.-]+"), "nnUNetPlans_LGE")
    differences = []
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            for model in models:
                place = f"{dataset}/{TRAINER}__{plans}__{model.configuration}"
                written = stock_plans(model.plans, plans, dataset)
                described = stock_dataset_json(model.dataset_json, _provenance(model, modality))
                _write_json(archive, f"{place}/plans.json", written)
                _write_json(archive, f"{place}/dataset.json", described)
                for name, content in _files(model.folder, model.folds):
                    archive.writestr(f"{place}/{name}", content)
                for checkpoint in checkpoints:
                    opened = open_model(model.folder, model.folds, checkpoint)
                    for fold, content, difference in _stock_checkpoints(opened, modality, written, described):
                        # weights hardly shrink: they are stored as they are
                        archive.writestr(f"{place}/fold_{fold}/{checkpoint}", content, zipfile.ZIP_STORED)
                        differences.append(difference)
        os.replace(partial, output)
    finally:
        partial.unlink(missing_ok=True)
    configurations = tuple(model.configuration for model in models)
    cautions = " ".join(filter(None, [first.caution(modality), _needed_where_it_predicts(models)]))
    return Exported(output, dataset, plans, configurations, first.folds, max(differences), cautions)


def _needed_where_it_predicts(models: Sequence[TrainedModel]) -> str:
    """What must be installed beside nnU-Net for the network, nothing as a rule."""
    for model in models:
        network = resolved_configuration(model.plans, model.configuration)["architecture"]["network_class_name"]
        package = network.partition(".")[0]
        if package == __name__.partition(".")[0]:
            return (
                f"nnU-Net has no {network.rpartition('.')[2]} of its own: the model predicts "
                "with nnUNetv2_predict where nnunet-crossmod is installed too (nnUNet_extTrainer need not be set)."
            )
    return ""


def stock_plans(plans: Mapping[str, Any], name: str, dataset: str) -> dict[str, Any]:
    """The plans without the modality channel and the trainer's hyper-parameters.

    The modality channel fills the box that nnU-Net crops to, so whatever was normalised within the non-zero mask was
    normalised within that box: without the channel that is said by ``use_mask_for_norm: false``.
    """
    stock = deepcopy(dict(plans))
    stock.pop("crossmod", None)
    stock["plans_name"], stock["dataset_name"] = name, dataset
    for planned in stock["configurations"].values():
        if "normalization_schemes" in planned:
            planned["normalization_schemes"] = planned["normalization_schemes"][:-1]
        if "use_mask_for_norm" in planned:
            planned["use_mask_for_norm"] = [False] * (len(planned["use_mask_for_norm"]) - 1)
    stock["foreground_intensity_properties_per_channel"] = _without_last_channel(
        stock["foreground_intensity_properties_per_channel"]
    )
    return stock


def stock_dataset_json(dataset_json: Mapping[str, Any], provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What nnU-Net reads of a ``dataset.json``, without the modality channel, and where the model comes from.

    All else stays behind: the cases' block, what a conversion recorded, paths; case names are patients.
    """
    stock = {name: deepcopy(value) for name, value in dataset_json.items() if name in OF_NNUNET}
    stock["channel_names"] = _without_last_channel(stock["channel_names"])
    stock["exported_from"] = dict(provenance)
    return stock


def _without_last_channel(channels: Mapping[str, Any]) -> dict[str, Any]:
    last = max(map(int, channels))
    return {number: value for number, value in channels.items() if int(number) != last}


def _provenance(model: TrainedModel, modality: str) -> dict[str, str]:
    try:
        release = version("nnunet-crossmod")
    except PackageNotFoundError:
        release = "unknown"
    return {
        "modality": modality,
        "trainer": model.trainer,
        "plans": str(model.plans["plans_name"]),
        "by": f"nnunet-crossmod {release}",
    }


def _stock_checkpoints(
    model: TrainedModel, modality: str, plans: dict[str, Any], dataset_json: dict[str, Any]
) -> Iterator[tuple[int | str, bytes, float]]:
    """Fold, checkpoint and largest relative difference of logits, fold by fold."""
    import torch
    from torch._dynamo import OptimizedModule

    index = model.index_of(modality)
    predictor = model.load(device=torch.device("cpu"))
    network: Any = predictor.network._orig_mod if isinstance(predictor.network, OptimizedModule) else predictor.network
    if not hasattr(network, "for_modality"):
        raise UnsupportedError(
            f"{model.trainer} trains a {type(network).__name__}, which does not say what it is for one modality: "
            'predict with "crossmod predict"'
        )
    for fold, weights in zip(model.folds, predictor.list_of_parameters, strict=True):
        network.load_state_dict(weights)
        state = network.for_modality(index)
        difference = _compare(network.eval(), index, state, plans, dataset_json, model)
        buffer = io.BytesIO()
        torch.save(
            {
                "network_weights": state,
                "trainer_name": TRAINER,
                "init_args": {
                    "plans": plans,
                    "configuration": model.configuration,
                    "fold": fold,
                    "dataset_json": dataset_json,
                },
                "inference_allowed_mirroring_axes": predictor.allowed_mirroring_axes,
            },
            buffer,
        )
        yield fold, buffer.getvalue(), difference


def _compare(
    network: Any,
    index: int,
    state: dict[str, Tensor],
    plans: dict[str, Any],
    dataset_json: dict[str, Any],
    model: TrainedModel,
) -> float:
    """Build the stock network that the exported plans describe, load the weights strictly, compare logits of a tile.

    Returns:
        the largest difference, relative to the largest logit.

    Raises:
        UnsupportedError: the weights do not fit the stock network, or it computes something else.
    """
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    configuration = manager.get_configuration(model.configuration)
    channels = determine_num_input_channels(manager, configuration, dataset_json)
    heads = manager.get_label_manager(dataset_json).num_segmentation_heads
    stock = nnUNetTrainer.build_network_architecture(
        manager, configuration, channels, heads, enable_deep_supervision=False
    ).eval()
    try:
        stock.load_state_dict(state, strict=True)
    except RuntimeError as error:
        unfit = " ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise UnsupportedError(
            f"{model.trainer} trains a network that is more than {type(stock).__name__} for one modality "
            f'({unfit[:200]}): predict with "crossmod predict"'
        ) from error
    tile = torch.randn(1, channels, *_tile(configuration), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(torch.cat((tile, torch.full_like(tile[:, :1], index + 1)), 1))
        stock_logits = stock(tile)
    difference = float((stock_logits - expected).abs().max() / expected.abs().max().clamp(min=1))
    if not difference <= TOLERANCE:
        raise UnsupportedError(
            f"{model.trainer} trains a network that computes something else than the stock {type(stock).__name__} with "
            f'its weights (logits differ by {difference:.2g}): predict with "crossmod predict"'
        )
    return difference


def _tile(configuration: Any) -> list[int]:
    """A tile of the patch's shape, but small: two voxels an axis at the lowest stage, where the patch has as many."""
    strides = configuration.configuration["architecture"]["arch_kwargs"].get("strides")
    if strides is None:
        return list(configuration.patch_size)
    totals = [math.prod(axis) for axis in zip(*strides, strict=True)]
    return [min(size, 2 * total) for size, total in zip(configuration.patch_size, totals, strict=True)]


def _files(folder: Path, folds: Sequence[int | str]) -> Iterator[tuple[str, bytes]]:
    """What goes along as it is: curves, postprocessing; and the fingerprint without the modality channel."""
    fingerprint = folder / "dataset_fingerprint.json"
    if fingerprint.is_file():
        content = json.loads(fingerprint.read_text())
        name = "foreground_intensity_properties_per_channel"
        if name in content:
            content[name] = _without_last_channel(content[name])
        yield fingerprint.name, json.dumps(content, indent=2).encode()
    kept = [f"fold_{fold}/progress.png" for fold in folds]
    for folder_of_folds in sorted(folder.glob("crossval_results_folds_*")):
        kept += [f"{folder_of_folds.name}/postprocessing.pkl", f"{folder_of_folds.name}/postprocessing.json"]
    for file in ("postprocessing.pkl", "postprocessing.json", *kept):
        if (folder / file).is_file():
            yield file, (folder / file).read_bytes()


def _write_json(archive: zipfile.ZipFile, name: str, content: Mapping[str, Any]) -> None:
    archive.writestr(name, json.dumps(content, indent=4))


def _checked_name(name: str, pattern: re.Pattern[str], example: str) -> str:
    if not pattern.fullmatch(name):
        raise CrossmodError(f"{name!r} is no name that nnU-Net takes: give one like {example}")
    return name
