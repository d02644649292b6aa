"""A checkpoint chosen without a label of the target: ``checkpoint_label_free.pth``.

``checkpoint_best`` follows the Dice of what training may see, the source as a rule, and cannot tell whether the target
is segmented or empty. Here that Dice is multiplied by two figures of the target that need no label::

    criterion = source Dice · certainty · balance

* *certainty*: 1 − entropy of the target's predictions, as a share of log k, voxels weighted by their probability of
  being foreground. A network that doubts falls towards 0.
* *balance*: mean over the structures of min(r, 1 / r), with r the share of the voxels that a structure takes in the
  target over the share it takes in the source. A structure that vanishes, or floods the image, counts 0.

Each is 0 … 1, so that a collapse of any of them shows, whatever the others say. It assumes that both modalities show
about the same anatomy in about the same field of view. The patches are the same in every epoch, and drawing them leaves
the training's random numbers as they are. The network sees what online validation shows it (translated source scans
where a method trains on those), in the epochs that train it. The running mean that is compared is nnU-Net's own, 0.9
old and 0.1 new.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, distributed

from nnunet_crossmod.data import BalancedDataLoader, Case, CrossModalBatch, CrossModalDataset
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.losses.precision import full_precision
from nnunet_crossmod.training.record import read_rows

__all__ = ["CHECKPOINT", "LabelFreeSelection", "Tally", "balance", "certainty", "same_numbers", "tally"]

CHECKPOINT = "checkpoint_label_free.pth"
MOMENTUM = 0.9


class Tally(NamedTuple):
    """Sums over voxels: ``volumes`` (2, k), probability of every class in source and target; ``doubt`` (2,), entropy
    weighted by the probability of foreground, and that weight, in the target."""

    volumes: Tensor
    doubt: Tensor

    def plus(self, other: Tally | None) -> Tally:
        """Both together; itself where there is no other yet."""
        return self if other is None else Tally(self.volumes + other.volumes, self.doubt + other.doubt)


@full_precision
def tally(probabilities: Tensor, target: Tensor) -> Tally:
    """Sum up predictions.

    Args:
        probabilities: (n, k, *s), class 0 the background.
        target: (n,) bool, which samples are of a target modality; the others are source.
    """
    sides = torch.stack([~target, target]).to(probabilities)
    volumes = torch.einsum("sn,nk->sk", sides, probabilities.flatten(2).sum(2))
    entropy = torch.special.entr(probabilities).sum(1) / math.log(probabilities.shape[1])
    foreground = (1 - probabilities[:, 0]) * target.view(-1, *[1] * (probabilities.ndim - 2))
    return Tally(volumes, torch.stack([(foreground * entropy).sum(), foreground.sum()]))


def certainty(doubt: Tensor) -> Tensor:
    """1 − mean entropy of what may be foreground, 0 … 1; 0 where nothing may."""
    weighted, weight = doubt
    return torch.where(weight > 0, 1 - weighted / weight.clamp(min=1e-12), 0.0)


def balance(volumes: Tensor) -> Tensor:
    """Mean over the structures of min(r, 1 / r), r the ratio of their shares in target and source; 0 … 1."""
    shares = (volumes / volumes.sum(1, keepdim=True).clamp(min=1e-12))[:, 1:]
    return (shares.amin(0) / shares.amax(0).clamp(min=1e-12)).mean()


class LabelFreeSelection:
    """Judges every epoch and says when to save; ``label_free.jsonl`` keeps the figures.

    Args:
        trainer: at the start of its training.

    Raises:
        CrossmodError: the fold has no scan of the target, or none of the source.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.cases, self.loader = _cases_and_loader(trainer)
        folder = Path(trainer.output_folder)
        self.file = folder / "label_free.jsonl"
        rows = read_rows(self.file) if trainer.current_epoch > 0 else []
        before = [row for row in rows if row["epoch"] < trainer.current_epoch]
        self.mean: float | None = before[-1]["mean"] if before else None
        # epochs after the checkpoint that training continues from are repeated; the best model of all stays on the disk
        saved = (folder / CHECKPOINT).is_file()
        self.best = max((row["mean"] for row in rows), default=-1.0) if saved else -1.0
        if trainer.local_rank == 0:  # again, without a last line that was cut off
            self.file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def improved(self) -> bool:
        """Judge the network as it is after the epoch's validation; whether no epoch before was better."""
        trainer = self.trainer
        if not trainer.segmenter.plays(trainer.current_epoch):
            return False
        sums = self._tally()
        if trainer.is_ddp:
            for part in sums:
                distributed.all_reduce(part)
        dice = float(trainer.logger.get_value("mean_fg_dice", step=-1))
        sure, even = float(certainty(sums.doubt)), float(balance(sums.volumes))
        criterion = dice * sure * even
        self.mean = criterion if self.mean is None else MOMENTUM * self.mean + (1 - MOMENTUM) * criterion
        row = {
            "epoch": trainer.current_epoch,
            "source_dice": dice,
            "certainty": sure,
            "balance": even,
            "criterion": criterion,
            "mean": self.mean,
        }
        if trainer.local_rank == 0:
            with self.file.open("a") as file:
                file.write(json.dumps(row) + "\n")
        figures = ", ".join(f"{name} {value:.4f}" for name, value in row.items() if name != "epoch")
        trainer.print_to_log_file("label-free criterion:", figures)
        better = self.mean > self.best
        self.best = max(self.best, self.mean)
        return better

    @torch.no_grad()
    def _tally(self) -> Tally:
        trainer = self.trainer
        network = trainer.bare_network
        sums: Tally | None = None
        with same_numbers(trainer.local_rank):
            for _ in range(trainer.num_val_iterations_per_epoch):
                loaded = next(self.loader)
                batch = CrossModalBatch.from_loader(loaded, trainer.block, self.cases, trainer.device)
                target = torch.tensor([trainer.block.is_target(case.name) for case in batch.cases])
                with trainer._autocast():
                    output = network(trainer.validation_images(batch))
                logits = output[0] if isinstance(output, list) else output
                counts = tally(logits.float().softmax(1), target.to(trainer.device))
                sums = counts.plus(sums)
        assert sums is not None
        return sums


@contextmanager
def same_numbers(seed: int) -> Iterator[None]:
    """Numpy's random numbers from a seed of its own; the training's go on as if none had been drawn."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)


def _cases_and_loader(trainer: Any) -> tuple[dict[str, Case], BalancedDataLoader]:
    """Crops from anywhere in the fold's validation scans (training scans of a modality that has none), unlabelled."""
    training, validation = trainer.do_split()
    cases = {}
    for side in (True, False):
        of_side = [
            [name for name in names if trainer.block.is_target(name) is side] for names in (validation, training)
        ]
        names_of_side = of_side[0] or of_side[1]
        if not names_of_side:
            raise CrossmodError(
                f"label_free_selection compares source and target, but fold {trainer.fold} has no scan of the "
                f"{'target' if side else 'source'}: write other splits_final.json, or set label_free_selection=false"
            )
        cases.update({name: replace(trainer.block.cases[name], visible=frozenset()) for name in names_of_side})
    kind, folder = trainer.dataset_class, trainer.preprocessed_dataset_folder
    scans = CrossModalDataset(kind(folder, sorted(cases)), cases, trainer.block, keep_modality_channel=True)
    patch = trainer.configuration_manager.patch_size
    size = max(trainer.batch_size, len(trainer.block.source), len(trainer.block.target))
    return cases, BalancedDataLoader(scans, size, patch, patch, trainer.label_manager, target_batch_size=size)
