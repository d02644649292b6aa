"""Models that were never trained: random weights, unlike between modalities, in the folder nnU-Net would leave."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_crossmod.nn import ConditionalInstanceNorm, ConditionalLayerNorm

MakeModel = Callable[..., Path]


@pytest.fixture
def make_model(make_trainer: Callable[..., Any]) -> MakeModel:
    """``make_model("AICLTrainer", "2d", folds=(0, 1))`` → the model's folder."""

    def make(
        name: str = "AICLTrainer",
        configuration: str = "2d",
        *,
        folds: tuple[int, ...] = (0,),
        checkpoint: str = "checkpoint_final.pth",
        **options: Any,
    ) -> Path:
        for fold in folds:
            trainer = make_trainer(name, configuration, fold=fold, **{"shared_norms": False, **options})
            trainer.initialize()
            with torch.no_grad():
                for module in trainer.network.modules():
                    if isinstance(module, ConditionalInstanceNorm | ConditionalLayerNorm):
                        module.weight.add_(torch.randn_like(module.weight) / 2)
                        module.bias.add_(torch.randn_like(module.bias) / 2)
            trainer.save_checkpoint(str(Path(trainer.output_folder) / checkpoint))
            folder = Path(trainer.output_folder).parent
            (folder / "plans.json").write_text(json.dumps(trainer.plans_manager.plans))
            (folder / "dataset.json").write_text(json.dumps(trainer.dataset_json))
            trainer.network.cpu()
        return folder

    return make
