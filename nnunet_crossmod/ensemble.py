"""Several models of one data set predict together, and say how far they agree."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import pandas as pd
import torch
from nnunetv2.ensembling.ensemble import merge_files
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_crossmod.agreement import AGREEMENT, agreement, read_label_map
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.inference.predictor import Predictor
from nnunet_crossmod.nnunet_runs import cores
from nnunet_crossmod.paths import write_whole
from nnunet_crossmod.raw.block import CrossmodBlock

__all__ = ["Member", "predict_by_all"]


AT_A_TIME = 16
"""Cases whose probabilities lie on the disk together."""


class Member(NamedTuple):
    """One network: ``folder`` is ``TRAINER__PLANS__CONFIGURATION``."""

    folder: Path
    fold: int | str
    checkpoint: str


def predict_by_all(
    members: Sequence[Member],
    cases: Mapping[str, Sequence[Path]],
    modalities: Mapping[str, str],
    output: Path,
    *,
    device: str,
    mirroring: bool = True,
) -> pd.DataFrame:
    """Segment scans by the mean of the members' probabilities.

    Args:
        members: two or more, of one data set.
        cases: case → its image channels in order.
        modalities: case → its modality.
        output: folder; gets the label maps, each complete or not at all, and ``agreement.csv``.
        device: ``cpu``, ``cuda`` or ``mps``.
        mirroring: test-time augmentation.

    Returns:
        one row per case and structure: ``case``, ``modality``, ``structure``, ``agreement`` (mean pairwise Dice).

    Raises:
        CrossmodError: a member that is missing or damaged; or, after all others are predicted, cases that could not be.
    """
    if device == "cpu":
        torch.set_num_threads(cores())
    helpers = 0 if device == "cpu" else 3  # on the CPU they would take their cores from the prediction
    predictors = [
        Predictor(member.folder, [member.fold], member.checkpoint, device=device, mirroring=mirroring)
        for member in members
    ]
    model = predictors[0].model
    plans, ending = PlansManager(model.plans), model.ending
    label_manager, reader_writer = plans.get_label_manager(model.dataset_json), plans.image_reader_writer_class()
    structures = CrossmodBlock.from_dataset_json(model.dataset_json).labels
    output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    failures: dict[str, None] = {}
    names = sorted(cases)
    for start in range(0, len(names), AT_A_TIME):
        together = {case: cases[case] for case in names[start : start + AT_A_TIME]}
        with tempfile.TemporaryDirectory(prefix=".partial", dir=output) as staging:
            folders = [Path(staging) / str(number) for number in range(len(members))]
            for predictor, folder in zip(predictors, folders, strict=True):
                try:
                    predictor.predict_files(
                        together, modalities, folder, save_probabilities=True, readers=helpers, writers=helpers
                    )
                except CrossmodError as error:
                    failures[str(error)] = None
            for case in together:
                files = [folder / f"{case}.npz" for folder in folders]
                if not all(file.is_file() for file in files):
                    continue
                merge_files(list(map(str, files)), f"{staging}/{case}", ending, reader_writer, label_manager)
                maps = [read_label_map(folder / f"{case}{ending}") for folder in folders]
                rows += [
                    {"case": case, "modality": modalities[case], "structure": name, "agreement": value}
                    for name, value in agreement(maps, structures).items()
                ]
                os.replace(f"{staging}/{case}{ending}", output / f"{case}{ending}")
    table = pd.DataFrame(rows)
    if rows:
        write_whole(output / AGREEMENT, table.to_csv(index=False))
    if failures:
        raise CrossmodError("; ".join(failures))
    return cast("pd.DataFrame", table)
