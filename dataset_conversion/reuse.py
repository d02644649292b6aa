"""Another direction of a converted data set that shares its files: ``dataset.json``, folds and links to test scans."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from nnunet_crossmod.data.atomic_folder import atomic_folder, link_or_copy
from nnunet_crossmod.data.block import Case, CrossmodBlock
from nnunet_crossmod.errors import CrossmodError

from .raw_dataset import FILE_ENDING, SHEET, Scan, new_dataset_folder, write_descriptions
from .raw_files import raw_files, read_case
from .splits import splits

__all__ = ["reuse_dataset"]


def reuse_dataset(
    base_id: int,
    dataset_id: int,
    source: Sequence[str],
    target: Sequence[str],
    *,
    tested: Callable[[Sequence[Scan], Sequence[str]], set[str] | None] = lambda scans, target: None,
    raw_folder: Path | None = None,
    overwrite: bool = False,
    seed: int = 12345,
) -> Path:
    """Write another direction of a data set.

    ``dataset.json`` names the files of the base, which must stay where it is; ``imagesTs`` and ``labelsTs`` are hard
    links (copies where the file system refuses them), because ``nnUNetv2_predict`` wants a folder. Modalities keep the
    order of the base, so that its modality channels hold.

    Args:
        base_id: the converted data set.
        dataset_id: the id of the other direction.
        source: modalities whose labelled scans are annotated; their other scans are left out.
        target: the other modalities of the base.
        tested: the test subjects, from all scans and the target modalities; None keeps those of the base.
        raw_folder: where the data sets lie; ``$nnUNet_raw`` by default.
        overwrite: replace the data set that has this id.
        seed: decides which subject lands in which fold.

    Returns:
        The folder written.

    Raises:
        CrossmodError: no such base, other modalities than it has, labels in parts, or what makes up no data set.
    """
    base = _find_base(base_id, raw_folder)
    dataset_json = json.loads((base / "dataset.json").read_text())
    block = CrossmodBlock.from_dataset_json(dataset_json, str(base / "dataset.json"))
    if sorted((*source, *target)) != sorted(block.modalities):
        raise CrossmodError(
            f"{base.name} is of {list(block.modalities)}, not of {[*source, *target]}: name each of its modalities as "
            "--source or --target, or convert with -i"
        )
    everything = frozenset(block.labels.values())
    if any(case.visible not in (frozenset(), everything) for case in block.cases.values()):
        raise CrossmodError(f"{base.name} is annotated in parts, the same in both directions: train on it as it is")
    folder, existing = new_dataset_folder(dataset_id, base.name.partition("_")[2], base.parent, overwrite)
    if base in existing:
        raise CrossmodError(f"{base.name} cannot replace itself: choose another -d")
    files = raw_files(base, dataset_json)
    both = {**block.cases, **block.test}
    labelled = {
        name: files[name].label is not None and (name in block.test or case.labelled) for name, case in both.items()
    }
    scans = [
        Scan(name, case.modality, case.subject, files[name].images[0], files[name].label if labelled[name] else None)
        for name, case in both.items()
    ]
    chosen = tested(scans, target)
    test = {case.subject for case in block.test.values()} if chosen is None else chosen

    def case(name: str) -> Case:
        annotated = both[name].modality in source and both[name].subject not in test
        return replace(both[name], visible=everything if annotated else frozenset(), labelled=labelled[name])

    left_out = [n for n in both if both[n].modality in source and both[n].subject not in test and not labelled[n]]
    cases = {name: case(name) for name in both if name not in left_out}
    training = {name: case for name, case in cases.items() if case.subject not in test}
    other = replace(
        block,
        source=tuple(source),
        target=tuple(target),
        cases=training,
        test={name: case for name, case in cases.items() if case.subject in test},
    )
    for modality in block.modalities:
        if not any(case.modality == modality for case in training.values()):
            raise CrossmodError(
                f"{base.name} has no {modality} scan left to train on: choose another --test or --split"
            )
    divided = splits(training, seed=seed)
    labels = {name: value for name, value in dataset_json["labels"].items() if name != "ignore"}
    if not all(case.labelled for case in training.values()):
        labels["ignore"] = len(labels)
    conversion = {
        **{key: value for key, value in dataset_json.get("conversion", {}).items() if key != "left_out"},
        "reuses": base.name,
        "split": sorted(test),
    }
    skipped = [f"{len(left_out)} source scans without labels: {', '.join(left_out)}"] if left_out else []
    # Only now: the metrics that this package imports beside it take seconds to load.
    from .overview import contact_sheet, examine_scan, overview_table

    facts = []
    with atomic_folder(folder, replacing=existing) as complete:
        listed = {}
        for name in tqdm(cases, desc=f"Writing {folder.name}", unit="scan", disable=None):
            image, label = read_case(files[name])
            facts.append(examine_scan(name, image, label if labelled[name] else None))
            images, label_file = files[name].images, files[name].label
            if name in other.test:
                for number, file in enumerate(images):
                    link_or_copy(file, complete / "imagesTs" / f"{name}_{number:04d}{FILE_ENDING}")
                if labelled[name] and label_file is not None:
                    link_or_copy(label_file, complete / "labelsTs" / f"{name}{FILE_ENDING}")
                continue
            told = os.path.relpath(label_file, folder) if label_file else f"labelsTr/{name}{FILE_ENDING}"
            if label_file is None:
                nothing = sitk.GetImageFromArray(np.full(image.GetSize()[::-1], labels["ignore"], dtype=np.uint8))
                nothing.CopyInformation(image)
                (complete / "labelsTr").mkdir(exist_ok=True)
                sitk.WriteImage(nothing, str(complete / told), useCompression=True)
            listed[name] = {"images": [os.path.relpath(file, folder) for file in images], "label": told}
        written = {
            **dataset_json,
            "labels": labels,
            "numTraining": len(training),
            "dataset": listed,
            "conversion": {**conversion, "left_out": skipped} if skipped else conversion,
            "crossmod": other.to_json(),
        }
        write_descriptions(complete, written, divided)
        contact_sheet(facts, other, complete / SHEET)
    print(f"\n{folder}, with the files of {base.name}: {overview_table(facts, other, skipped)}\n")
    return folder


def _find_base(base_id: int, raw_folder: Path | None) -> Path:
    raw = raw_folder or os.environ.get("nnUNet_raw")  # noqa: SIM112 - nnU-Net's spelling
    if not raw:
        raise CrossmodError("nnUNet_raw is not set: export nnUNet_raw=FOLDER, where nnU-Net keeps its raw data sets")
    found = sorted(Path(raw).glob(f"Dataset{base_id:03d}_*/dataset.json"))
    if len(found) != 1:
        raise CrossmodError(f"{raw} has {len(found)} data sets {base_id} to reuse: convert it first with -i")
    return found[0].parent.resolve()
