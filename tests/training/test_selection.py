"""The label-free criterion: its parts against their definitions, and no way for a target label to reach it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import scramble_target_labels, started

from nnunet_crossmod.paths import load_trainer
from nnunet_crossmod.training.selection import CHECKPOINT, balance, certainty, tally

MakeTrainer = Callable[..., Any]


def one_hot(labels: list[list[int]], classes: int = 3) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(labels), classes).movedim(-1, 1).double()


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (4, 3, 2, 5, 6)])
def test_parts_equal_loops(shape: tuple[int, ...]) -> None:
    probabilities = torch.randn(shape).double().mul(2).softmax(1)
    target = torch.tensor([False, True, True, False])
    sums = tally(probabilities, target)
    flat = probabilities.flatten(2)
    weighted = weight = 0.0
    volumes = np.zeros((2, 3))
    for sample in range(4):
        for voxel in range(flat.shape[2]):
            p = flat[sample, :, voxel].tolist()
            volumes[int(target[sample])] += p
            if target[sample]:
                weighted += (1 - p[0]) * -sum(q * math.log(q) for q in p) / math.log(3)
                weight += 1 - p[0]
    assert float(certainty(sums.doubt)) == pytest.approx(1 - weighted / weight)
    ratios = [volumes[1, k] / volumes[1].sum() / (volumes[0, k] / volumes[0].sum()) for k in (1, 2)]
    assert float(balance(sums.volumes)) == pytest.approx(np.mean([min(r, 1 / r) for r in ratios]))


def judged(source: list[int], target: list[int]) -> tuple[float, float]:
    sums = tally(one_hot([source, target]), torch.tensor([False, True]))
    return float(certainty(sums.doubt)), float(balance(sums.volumes))


def test_limits() -> None:
    assert judged([0, 0, 1, 2], [2, 1, 0, 0]) == (1, 1)
    assert judged([0, 0, 1, 2], [0, 0, 0, 0]) == (0, 0)  # the target collapsed to background
    assert judged([0, 0, 1, 2], [0, 0, 1, 1]) == (1, 0.25)  # one structure vanished, the other doubled
    assert judged([0, 0, 0, 0], [0, 0, 0, 0]) == (0, 0)
    doubt = torch.full((1, 3, 4), 1 / 3)
    assert float(certainty(tally(doubt, torch.tensor([True])).doubt)) == pytest.approx(0, abs=1e-6)


def test_batches_add_up_and_their_order_does_not_matter() -> None:
    probabilities = torch.randn(6, 3, 4, 4).double().softmax(1)
    target = torch.tensor([False, True] * 3)
    whole = tally(probabilities, target)
    order = torch.randperm(6)
    parts = [tally(probabilities[rows], target[rows]) for rows in (order[:2], order[2:])]
    for total, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(total, pieces[0] + pieces[1])


def test_half_precision_is_finite() -> None:
    probabilities = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]]).half().expand(2, 2, 2)
    sums = tally(probabilities, torch.tensor([True, False]))
    assert all(torch.isfinite(part).all() for part in sums)


def epochs(trainer: Any, number: int) -> Any:
    for _ in range(number):
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train)) for _ in range(2)])
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            trainer.on_validation_epoch_end([trainer.validation_step(next(trainer.dataloader_val))])
        trainer.on_epoch_end()
    return trainer


def trained(make_trainer: MakeTrainer, name: str, number: int = 2, **settings: Any) -> Any:
    trainer = make_trainer(name, num_epochs=4, **settings)
    trainer.on_train_start()
    return epochs(trainer, number)


@pytest.mark.parametrize("name", ["AICLTrainer", "SourceOnlyTrainer"])
def test_scrambled_target_labels_change_no_figure_and_no_choice(
    name: str, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(scramble: bool) -> tuple[str, dict[str, torch.Tensor]]:
        with monkeypatch.context() as patch:
            if scramble:
                scramble_target_labels(patch)
            torch.manual_seed(0)
            np.random.seed(0)
            folder = Path(trained(make_trainer, name, label_free_selection=True).output_folder)
        saved = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=False)
        return (folder / "label_free.jsonl").read_text(), saved["network_weights"]

    honest, other = run(scramble=False), run(scramble=True)
    assert honest[0] == other[0]
    assert len(honest[0].splitlines()) == 2
    assert all(torch.equal(value, other[1][key]) for key, value in honest[1].items())


def test_it_leaves_the_training_as_it_is(make_trainer: MakeTrainer) -> None:
    plain, judged = (trained(make_trainer, "AICLTrainer", label_free_selection=on) for on in (False, True))
    for (key, one), other in zip(plain.network.state_dict().items(), judged.network.state_dict().values(), strict=True):
        assert torch.equal(one, other), key


def test_the_same_network_is_judged_alike_in_every_epoch(make_trainer: MakeTrainer) -> None:
    trainer = trained(make_trainer, "AICLTrainer", 1, label_free_selection=True)
    one, two = trainer.selection._tally(), trainer.selection._tally()
    assert torch.equal(one.volumes, two.volumes)
    of_source, of_target = one.volumes.sum(1).tolist()
    assert of_source == pytest.approx(of_target) == pytest.approx(4 / 2 * 48 * 48)


def test_a_continued_training_remembers_the_best(make_trainer: MakeTrainer) -> None:
    trainer = trained(make_trainer, "AICLTrainer", 1, label_free_selection=True)
    folder = Path(trainer.output_folder)
    trainer.current_epoch = 0  # nnU-Net saves before it counts on
    trainer.save_checkpoint(str(folder / "checkpoint_latest.pth"))
    rows = [json.loads(line) for line in (folder / "label_free.jsonl").read_text().splitlines()]
    # an epoch after the checkpoint, which the continued training will repeat, was the best by far
    (folder / "label_free.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [*rows, {"epoch": 1, "mean": 2.0}]))
    time = (folder / CHECKPOINT).stat().st_mtime_ns
    restored = make_trainer("AICLTrainer", num_epochs=4, label_free_selection=True)
    restored.load_checkpoint(str(folder / "checkpoint_latest.pth"))
    restored.on_train_start()
    assert restored.selection.mean == rows[0]["mean"]
    assert restored.selection.best == 2.0
    epochs(restored, 1)
    assert (folder / CHECKPOINT).stat().st_mtime_ns == time


def test_better_means_are_saved_and_worse_are_not(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = started(make_trainer("AICLTrainer", label_free_selection=True))
    saved: list[float] = []
    monkeypatch.setattr(trainer, "save_checkpoint", lambda file: saved.append(dice) if CHECKPOINT in file else None)
    monkeypatch.setattr(
        trainer.selection, "_tally", lambda: tally(one_hot([[0, 1, 2], [2, 1, 0]]), torch.tensor([False, True]))
    )
    for dice in (0.5, 0.4, 0.9, 0.1):
        monkeypatch.setattr(trainer.logger, "get_value", lambda name, step, d=dice: d)
        if trainer.selection.improved():
            trainer.save_checkpoint(CHECKPOINT)
    assert saved == [0.5, 0.9]


@pytest.mark.parametrize("name", ["CISFATrainer", "GLUATrainer"])
def test_translated_scans_are_judged_where_these_train_the_segmenter(
    name: str, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trained(make_trainer, name, 0, label_free_selection=True, **load_trainer(name).presets["cpu"])
    shown: list[int] = []
    original = trainer.validation_images
    monkeypatch.setattr(trainer, "validation_images", lambda batch: shown.append(len(batch.cases)) or original(batch))
    first = trainer.segmenter.first_epoch
    for epoch in range(first + 1):
        trainer.current_epoch = epoch
        epochs(trainer, 1)
        judged = (Path(trainer.output_folder) / "label_free.jsonl").read_text().splitlines()
        assert len(judged) == (epoch >= first)
    # online validation and the criterion look at as many batches in the last epoch, online validation alone before
    assert len(shown) == first + 1 + trainer.num_val_iterations_per_epoch


def test_off_by_default(make_trainer: MakeTrainer) -> None:
    trainer = trained(make_trainer, "SourceOnlyTrainer", 1)
    assert trainer.selection is None
    assert not (Path(trainer.output_folder) / CHECKPOINT).exists()
