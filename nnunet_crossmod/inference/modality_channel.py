"""The modality channel: the last input channel, which tells the network what kind of scan it is looking at."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from nnunet_crossmod.data.atomic_folder import atomic_folder
from nnunet_crossmod.data.block import CrossmodBlock
from nnunet_crossmod.data.image_files import check_same_grid, is_all_zero, read_image
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.paths import find_dataset_json

__all__ = ["add_arguments", "add_modality_channel", "modality_channel", "run"]

_IMAGE_ENDINGS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".gipl", ".png", ".bmp", ".tif", ".tiff", ".dcm")
_CHANNEL_NAME = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


def modality_channel(image: sitk.Image, index: int, like: Sequence[sitk.Image] = ()) -> sitk.Image:
    """Make the modality channel of a scan.

    It is zero outside the bounding box of the non-zero voxels, so nnU-Net, which crops to what is non-zero in any
    channel, crops as it would without it.

    Args:
        image: the scan, 3D.
        index: position of its modality in the block's ``modalities``, from 0.
        like: further images on the same grid whose boxes are joined with the scan's: its other channels, or the
            registered scans of the same subject, which nnU-Net must crop alike.

    Returns:
        A uint8 image with the geometry of ``image``: ``index + 1`` inside the box and 0 outside.

    Raises:
        CrossmodError: all voxels of ``image`` are zero, or an image of ``like`` lies on another grid.
    """
    if is_all_zero(image):
        raise CrossmodError("the image is all zero and has no bounding box: take the scan out, or export it again")
    for other in like:
        check_same_grid(image, other, "the image", "an image of the same subject")
    nonzero = np.zeros(image.GetSize()[::-1], dtype=bool)
    for member in (image, *like):
        nonzero |= sitk.GetArrayViewFromImage(member) != 0
    box = []
    for axis in range(nonzero.ndim):
        occupied = np.flatnonzero(nonzero.any(axis=tuple(other for other in range(nonzero.ndim) if other != axis)))
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    values = np.zeros(nonzero.shape, dtype=np.uint8)
    values[tuple(box)] = index + 1
    channel = sitk.GetImageFromArray(values)
    channel.CopyInformation(image)
    return channel


def add_modality_channel(
    input_folder: Path, output_folder: Path, modality: str, dataset_json: Path, *, overwrite: bool = False
) -> list[str]:
    """Give new scans of one modality their modality channel, ready for ``nnUNetv2_predict``.

    The input folder holds ``case_0000<ending>``, … (one file a channel), or plain ``case<ending>`` where the data set
    has one image channel. The output folder gets hard links to the image channels (copies where the file system
    refuses them) and the modality channel as the last channel. It appears complete or not at all.

    Args:
        input_folder: the new scans.
        output_folder: where to write; made if need be.
        modality: what they are; one of the block's modalities.
        dataset_json: the data set that the model was trained on.
        overwrite: replace an output folder that holds channels from an earlier call.

    Returns:
        The names of the cases written, sorted.

    Raises:
        CrossmodError: unknown modality, wrong file ending, a missing channel, an unusable image, channels on
            different grids, or an output folder that is in use.
    """
    block, ending, channels = _read_contract(dataset_json)
    if modality not in block.modalities:
        raise CrossmodError(f"modality {modality!r} is not one of {list(block.modalities)}, which {dataset_json} names")
    index = block.modalities.index(modality)
    cases = _find_cases(input_folder, ending, channels)
    output = output_folder.resolve()
    _check_output(output, input_folder.resolve(), ending, overwrite)
    with atomic_folder(output, replacing=[output] if output.exists() else []) as complete:
        for case, files in tqdm(sorted(cases.items()), desc="Modality channel", unit="case", disable=None):
            images = [read_image(file) for file in files]
            for file, image in zip(files, images, strict=True):
                if is_all_zero(image):
                    raise CrossmodError(f"case {case!r}: {file} is all zero: take it out, or export it again")
                check_same_grid(images[0], image, f"case {case!r}: {files[0]}", str(file))
            for channel, file in enumerate(files):
                _link(file, complete / f"{case}_{channel:04d}{ending}")
            last = complete / f"{case}_{channels:04d}{ending}"
            sitk.WriteImage(modality_channel(images[0], index, images[1:]), str(last), useCompression=True)
    return sorted(cases)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``crossmod modality-channel``."""
    parser.add_argument("-i", dest="input", type=Path, required=True, metavar="FOLDER", help="the new scans")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="FOLDER", help="what nnU-Net will read")
    parser.add_argument("-m", dest="modality", required=True, metavar="MODALITY", help="modality of these scans")
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("-d", dest="dataset", metavar="DATASET", help="id or name of the data set the model knows")
    data.add_argument("--dataset-json", type=Path, metavar="FILE", help="the dataset.json of a trained model instead")
    parser.add_argument("--overwrite", action="store_true", help="replace the channels of an earlier call")


def run(args: argparse.Namespace) -> None:
    """Carry out ``crossmod modality-channel``."""
    dataset_json = args.dataset_json or find_dataset_json(args.dataset)
    cases = add_modality_channel(args.input, args.output, args.modality, dataset_json, overwrite=args.overwrite)
    print(f"{args.output}: {args.modality} scans ready for nnUNetv2_predict: {len(cases)}")


def _read_contract(dataset_json: Path) -> tuple[CrossmodBlock, str, int]:
    """The block, the file ending and the number of image channels that a ``dataset.json`` declares."""
    try:
        content = json.loads(dataset_json.read_text())
        block = CrossmodBlock.from_dataset_json(content, str(dataset_json))
        return block, str(content["file_ending"]), len(content["channel_names"]) - 1
    except OSError as error:
        raise CrossmodError(f"{dataset_json} cannot be read ({error.strerror}): check the path") from error
    except json.JSONDecodeError as error:
        raise CrossmodError(f"{dataset_json} is not valid JSON ({error}): restore it, or convert again") from error
    except KeyError as error:
        raise CrossmodError(f"{dataset_json} has no {error}: convert the data set again") from error


def _find_cases(folder: Path, ending: str, channels: int) -> dict[str, list[Path]]:
    """Case → its image channels in order."""
    if not folder.is_dir():
        raise CrossmodError(f"input folder {folder} does not exist: check the path")
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    for file in files:
        if file.name.lower().endswith(_IMAGE_ENDINGS) and not file.name.endswith(ending):
            raise CrossmodError(
                f"{file} does not end in {ending} as the data set's files do: convert it, or move it away"
            )
    stems = {file.name.removesuffix(ending): file for file in files if file.name.endswith(ending)}
    if not stems:
        raise CrossmodError(f"input folder {folder} holds no *{ending} file: check the path")
    if not any(stem.endswith("_0000") for stem in stems):
        if channels == 1:
            return {stem: [file] for stem, file in stems.items()}
        raise CrossmodError(
            f"{next(iter(stems.values()))}: the data set has {channels} image channels, so files must be named "
            f"case_0000{ending} to case_{channels - 1:04d}{ending}"
        )
    found: dict[str, dict[int, Path]] = {}
    for stem, file in stems.items():
        match = _CHANNEL_NAME.fullmatch(stem)
        if not match:
            raise CrossmodError(f"{file} has no channel number but its neighbours have: name it {stem}_0000{ending}")
        if int(match["channel"]) >= channels:
            raise CrossmodError(
                f"{file} is channel {int(match['channel'])}, but the data set has {channels} image channel(s) before "
                "the modality channel: take it out of the input folder"
            )
        found.setdefault(match["case"], {})[int(match["channel"])] = file
    for case, numbered in found.items():
        for channel in range(channels):
            if channel not in numbered:
                raise CrossmodError(f"case {case!r} lacks {folder / f'{case}_{channel:04d}{ending}'}: add that channel")
    return {case: [numbered[channel] for channel in range(channels)] for case, numbered in found.items()}


def _check_output(output: Path, source: Path, ending: str, overwrite: bool) -> None:
    """Refuse an output folder whose replacement would lose the input or files of another origin."""
    if output == source or output in source.parents:
        raise CrossmodError(f"output folder {output} is or holds the input folder: name another one")
    if not output.exists():
        return
    if not output.is_dir():
        raise CrossmodError(f"output {output} is a file: name a folder")
    present = sorted(output.iterdir())
    if present and not overwrite:
        raise CrossmodError(
            f"output folder {output} already holds {present[0].name}: name another one, or add --overwrite"
        )
    for path in present:
        if not (path.name.endswith(ending) and _CHANNEL_NAME.fullmatch(path.name.removesuffix(ending))):
            raise CrossmodError(
                f"output folder {output} holds {path.name}, which is no channel of a case: name another folder"
            )


def _link(source: Path, destination: Path) -> None:
    try:
        os.link(source.resolve(), destination)
    except OSError:
        shutil.copyfile(source, destination)
