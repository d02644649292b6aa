"""Online validation: nnU-Net's pseudo-Dice, fair to cases that annotate some classes only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from support import started

MakeTrainer = Callable[..., Any]


def test_fully_annotated_cases_count_as_in_nnunet(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("AICLTrainer"))
    loaded = next(trainer.dataloader_val)
    with torch.no_grad():
        mine = trainer.validation_step(loaded)
        theirs = nnUNetTrainer.validation_step(trainer, loaded)
    for name in ("tp_hard", "fp_hard", "fn_hard"):
        np.testing.assert_array_equal(mine[name], theirs[name])
    assert mine["fp_hard"].sum() + mine["fn_hard"].sum() > 0


def test_a_class_that_a_case_does_not_annotate_is_not_counted(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("AICLTrainer"))
    loaded = next(trainer.dataloader_val)
    with torch.no_grad():
        everything = trainer.validation_step(loaded)
        trainer.validated = {name: replace(case, visible=frozenset({1})) for name, case in trainer.validated.items()}
        for level in loaded["target"]:
            level[level != 1] = 0
        partial = trainer.validation_step(loaded)
    assert partial["tp_hard"][0] + partial["fn_hard"][0] == everything["tp_hard"][0] + everything["fn_hard"][0]
    assert not any(partial[name][1:].any() for name in ("tp_hard", "fp_hard", "fn_hard"))


def test_an_epoch_without_any_structure_scores_zero_not_nan(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("AICLTrainer"))
    nothing = {"loss": np.float32(1), **{name: np.zeros(3) for name in ("tp_hard", "fp_hard", "fn_hard")}}
    trainer.on_validation_epoch_end([nothing, dict(nothing)])
    assert trainer.logger.get_value("mean_fg_dice", step=-1) == 0
    assert trainer.logger.get_value("ema_fg_dice", step=-1) == 0
