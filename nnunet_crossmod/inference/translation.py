"""``crossmod translate``: new source scans in the style of the target, by the generator of a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.inference.preprocessing import Recipe, read_case
from nnunet_crossmod.inference.scans import check_replaceable, find_cases
from nnunet_crossmod.inference.trained_model import TrainedModel
from nnunet_crossmod.nn import translator_state
from nnunet_crossmod.nn.generators import flicker
from nnunet_crossmod.paths import load_trainer
from nnunet_crossmod.plans import reader_reorients
from nnunet_crossmod.raw.atomic_folder import atomic_folder
from nnunet_crossmod.raw.block import CrossmodBlock
from nnunet_crossmod.raw.image_files import axis_codes, read_image
from nnunet_crossmod.weights import read_checkpoint

__all__ = ["Translation", "load_translation", "translate_folder"]


@dataclass
class Translation:
    """A trained generator with all that is needed to use it on files.

    ``network(images, modality, wanted)`` takes z-scored images (n, c, *s), the index (n,) of the modality they are of
    and of that they are wanted in, and returns z-scores.
    """

    network: nn.Module
    plans: Any
    configuration: Any
    dataset_json: dict[str, Any]
    block: CrossmodBlock
    device: torch.device

    @property
    def channels(self) -> int:
        """Image channels, without the modality channel."""
        return len(self.dataset_json["channel_names"]) - 1

    @torch.inference_mode()
    def translate(
        self, images: NDArray[np.float32], modality: int, wanted: int, step_size: float = 0.5
    ) -> NDArray[np.float32]:
        """Translate one preprocessed scan, window by window, blended as nnU-Net blends.

        Args:
            images: (c, z, y, x), z-scores.
            modality: index of its modality.
            wanted: index of the modality it is wanted in.
            step_size: distance of neighbouring windows, as a share of their size.

        Returns:
            (c, z, y, x), z-scores.
        """
        from monai.inferers.utils import sliding_window_inference

        patch = list(self.configuration.patch_size)
        flat = len(patch) == 2

        def network(windows: Tensor) -> Tensor:
            own, target = (torch.full((len(windows),), index, device=windows.device) for index in (modality, wanted))
            translated: Tensor = self.network(windows, own, target)
            return translated

        volume = torch.from_numpy(images).to(self.device)
        # a 2D generator takes the slices of a volume for a batch
        batches = torch.split(volume.movedim(1, 0), 8) if flat else (volume[None],)
        windows_translated = [
            cast(Tensor, sliding_window_inference(batch, patch, 4, network, 1 - step_size, "gaussian"))
            for batch in batches
        ]
        translated = torch.cat(windows_translated).movedim(0, 1) if flat else windows_translated[0][0]
        result: NDArray[np.float32] = translated.float().cpu().numpy()
        return result


def load_translation(model: TrainedModel, device: torch.device) -> Translation:
    """The generator of a trained model.

    Args:
        model: one fold of it.
        device: where to run.

    Raises:
        CrossmodError: a trainer that does not translate.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    kind = load_trainer(model.trainer)
    if not getattr(kind, "translates_scans", False):
        raise CrossmodError(f"{model.trainer} has no generator that could translate: use CISFATrainer or GLUATrainer")
    file = model.folder / f"fold_{model.folds[0]}" / model.checkpoint
    manager = PlansManager(model.plans)
    planned = manager.get_configuration(model.configuration)
    dataset_json = model.dataset_json
    block = CrossmodBlock.from_dataset_json(dataset_json, str(model.folder / "dataset.json"))
    network: nn.Module = kind.build_translator(manager, planned, len(dataset_json["channel_names"]) - 1)
    weights = translator_state(read_checkpoint(file))
    if not weights:
        raise CrossmodError(f"{file} holds no generator: give the checkpoint of a model that {model.trainer} trained")
    network.load_state_dict(weights)
    return Translation(network.to(device).eval(), manager, planned, dataset_json, block, device)


def translate_folder(
    translation: Translation,
    scans: Path,
    output: Path,
    modality: str | None = None,
    wanted: str | None = None,
    *,
    step_size: float = 0.5,
    overwrite: bool = False,
) -> dict[str, float]:
    """Translate all scans of a folder; the output folder appears complete or not at all.

    A scan is preprocessed as nnU-Net does, translated, brought back to its own grid and written with its own geometry,
    in the z-scores that nnU-Net gives to the modality wanted, 0 around the bounding box of the scan. Files are named
    ``case_0000<ending>``, ready for ``crossmod modality-channel``.

    Args:
        translation: the generator.
        scans: folder of source scans, named as for ``crossmod modality-channel``; a modality channel is passed over.
        output: folder to write.
        modality: of the scans; may be left out where the data set has one source modality.
        wanted: modality to translate into; may be left out where it has one target modality.
        step_size: distance of neighbouring windows, as a share of their size.
        overwrite: replace an output folder that holds an earlier call's scans.

    Returns:
        case → how much its slices flicker against those of the source (1: as much); NaN for a single slice.

    Raises:
        CrossmodError: an ambiguous or unknown modality, unusable scans, or an output folder in use.
    """
    block, ending = translation.block, str(translation.dataset_json["file_ending"])
    modality = _only(modality, block.source, "source", "-m")
    wanted = _only(wanted, block.target, "target", "--to")
    own, target = block.modalities.index(modality), block.modalities.index(wanted)
    check_replaceable(output.resolve(), scans.resolve(), ending, overwrite)
    flickering = {}
    cases = find_cases(scans, ending, translation.channels, skip_modality_channel=True)
    recipe = Recipe(translation.plans, translation.configuration, translation.dataset_json)
    reorients = reader_reorients(translation.plans.plans.get("image_reader_writer"))
    with atomic_folder(output.resolve(), replacing=[output.resolve()] if output.is_dir() else []) as complete:
        for case, files in tqdm(cases.items(), desc="Translate", unit="case", disable=None):
            data, properties = read_case(files, own, recipe, case)
            images = np.ascontiguousarray(data[:-1])
            translated = translation.translate(images, own, target, step_size)
            flickering[case] = _flicker(translated) / max(_flicker(images), 1e-6)
            for channel, volume in enumerate(_as_read(translated, properties, translation)):
                image = _as_stored(volume, files[channel], reorients)
                sitk.WriteImage(image, str(complete / f"{case}_{channel:04d}{ending}"), useCompression=True)
    return flickering


def _only(given: str | None, known: tuple[str, ...], what: str, flag: str) -> str:
    if given is None and len(known) == 1:
        return known[0]
    if given not in known:
        problem = f"{given!r} is no {what} modality" if given else f"there are several {what} modalities"
        raise CrossmodError(f"{problem}: give {flag} one of {', '.join(known)}")
    return given


def _as_read(
    translated: NDArray[np.float32], properties: dict[str, Any], translation: Translation
) -> NDArray[np.float32]:
    """Undo nnU-Net's resampling, cropping and transposition: (c, z, y, x) as its reader gave the scan."""
    plans, configuration = translation.plans, translation.configuration
    spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
    current = list(configuration.spacing)
    cropped_shape = properties["shape_after_cropping_and_before_resampling"]
    if len(current) < len(cropped_shape):
        current = [spacing[0], *current]
    resampled = np.asarray(configuration.resampling_fn_data(translated, cropped_shape, current, spacing))
    whole = np.zeros((len(resampled), *properties["shape_before_cropping"]), dtype=np.float32)
    box = tuple(slice(low, high) for low, high in properties["bbox_used_for_cropping"])
    inside = (slice(None), *box)
    whole[inside] = resampled
    on_grid: NDArray[np.float32] = whole.transpose([0, *[axis + 1 for axis in plans.transpose_backward]])
    return on_grid


def _as_stored(volume: NDArray[np.float32], file: Path, reorients: bool) -> sitk.Image:
    """A volume (z, y, x), as nnU-Net's reader gave that of a file, on the file's own grid."""
    stored, image = read_image(file), sitk.GetImageFromArray(volume)
    if not reorients:
        image.CopyInformation(stored)
        return image
    image.CopyInformation(sitk.DICOMOrient(stored, "RAS"))
    return sitk.DICOMOrient(image, axis_codes(stored))


def _flicker(images: NDArray[np.float32]) -> float:
    return float(flicker(torch.from_numpy(images)[None])) if images.shape[1] > 1 else float("nan")
