"""``crossmod modality-channel``: a folder of new scans with the modality channel, ready for ``nnUNetv2_predict``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import SimpleITK as sitk
from tqdm import tqdm

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.inference.scans import check_replaceable, find_cases, known_modality
from nnunet_crossmod.paths import models_of, read_json
from nnunet_crossmod.raw.atomic_folder import atomic_folder, link_or_copy
from nnunet_crossmod.raw.block import CrossmodBlock, entry_of
from nnunet_crossmod.raw.image_files import read_channels, save_image
from nnunet_crossmod.raw.modality_channel import channel_file, modality_channel

__all__ = ["Contract", "add_modality_channel", "check_models"]


class Contract(NamedTuple):
    """What a ``dataset.json`` asks of new scans: the modalities, the file ending, the number of image channels."""

    modalities: tuple[str, ...]
    ending: str
    channels: int

    @classmethod
    def read(cls, dataset_json: Path) -> Contract:
        """Read the file.

        Raises:
            CrossmodError: it cannot be read, is no JSON, or is of no cross-modal data set.
        """
        content, where = read_json(dataset_json, "check the path, or convert the data set again"), str(dataset_json)
        block = CrossmodBlock.from_dataset_json(content, where)
        ending, channels = (entry_of(content, key, where) for key in ("file_ending", "channel_names"))
        return cls(block.modalities, str(ending), len(channels) - 1)


def check_models(dataset: int | str, modalities: Sequence[str], dataset_json: Path) -> None:
    """Refuse where a trained model of the data set numbers modalities otherwise.

    Args:
        dataset: id or name.
        modalities: in the order of ``dataset_json``.
        dataset_json: for the message.

    Raises:
        CrossmodError: a model was trained on another order.
    """
    for model in models_of(dataset):
        if not (model / "plans.json").is_file():
            continue
        recorded = read_json(model / "plans.json", "train it again").get("crossmod", {})
        order = recorded.get("modalities", list(modalities))
        if order != list(modalities):
            raise CrossmodError(
                f"{model.name} numbers modalities in the order {', '.join(order)}, {dataset_json} in the order "
                f"{', '.join(modalities)}: say which model will read the scans, with -tr, -p and -c, or --model-folder"
            )


def add_modality_channel(
    input_folder: Path,
    output_folder: Path,
    modality: str | Mapping[str, str],
    dataset_json: Path,
    *,
    overwrite: bool = False,
) -> list[str]:
    """Give new scans their modality channel, ready for ``nnUNetv2_predict``.

    The input folder holds ``case_0000<ending>``, … (one file a channel), or plain ``case<ending>`` where the data set
    has one image channel. The output folder gets hard links to the image channels (copies where the file system
    refuses them) and the modality channel as the last channel. It appears complete or not at all.

    Args:
        input_folder: the new scans.
        output_folder: where to write; made if need be.
        modality: what they are; one of the block's modalities, or one a case.
        dataset_json: the data set that the model was trained on.
        overwrite: replace an output folder that holds channels from an earlier call.

    Returns:
        The names of the cases written, sorted.

    Raises:
        CrossmodError: unknown modality, wrong file ending, a missing channel, an unusable image, channels on
            different grids, or an output folder that is in use.
    """
    contract = Contract.read(dataset_json)
    for name in {modality} if isinstance(modality, str) else set(modality.values()):
        known_modality(name, contract.modalities, str(dataset_json))
    ending, channels = contract.ending, contract.channels
    cases = find_cases(input_folder, ending, channels)
    modality_of = dict.fromkeys(cases, modality) if isinstance(modality, str) else modality
    output = output_folder.resolve()
    check_replaceable(output, input_folder.resolve(), ending, overwrite)
    with atomic_folder(output, replacing=[output] if output.exists() else []) as complete:
        for case, files in tqdm(sorted(cases.items()), desc="Modality channel", unit="case", disable=None):
            readings = read_channels(files, case)
            images = [reading.image for reading in readings]
            for channel, (file, reading) in enumerate(zip(files, readings, strict=True)):
                save_image(reading, file, complete / channel_file(case, channel, ending), link_or_copy)
            last = complete / channel_file(case, channels, ending)
            index = contract.modalities.index(modality_of[case])
            sitk.WriteImage(modality_channel(images[0], index, images[1:]), str(last), useCompression=True)
    return sorted(cases)
