"""The example of CONTRIBUTING.md trains, and the walk-through shows its code."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "entropy_minimisation_trainer.py"


def load() -> Any:
    spec = importlib.util.spec_from_file_location("entropy_minimisation_trainer", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_it_trains_and_certainty_grows(make_trainer: Callable[..., Any]) -> None:
    kind = load().EntropyMinimisationTrainer
    trainer = make_trainer(
        kind, warm_up=0.0, adaptation_ramp=0.0, adaptation_share=None, entropy_weight=10.0, num_iterations_per_epoch=20
    )
    trainer.on_train_start()
    trainer.network.train()
    batch = next(trainer.dataloader_train)
    outputs = [trainer.train_step(batch) for _ in range(8)]
    assert set(outputs[0]["terms"]) == {"segmenter/sup", "segmenter/entropy"}
    assert outputs[-1]["terms"]["segmenter/entropy"] < outputs[0]["terms"]["segmenter/entropy"]


def test_entropy_of_the_uniform_prediction_is_one() -> None:
    entropy = load().entropy
    torch.testing.assert_close(entropy(torch.zeros(2, 4, 3, 3)), torch.tensor(1.0))
    certain = torch.zeros(2, 4, 3, 3)
    certain[:, 1] = 50
    assert entropy(certain) < 1e-6


def test_the_walkthrough_shows_the_code_of_the_example() -> None:
    code = re.sub(r"\s+", " ", re.sub(r'""".*?"""', "", EXAMPLE.read_text(), flags=re.S))
    shown = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.S)
    assert len(shown) == 4
    for block in shown:
        assert re.sub(r"\s+", " ", block).strip() in code
    assert len(EXAMPLE.read_text().splitlines()) < 100
