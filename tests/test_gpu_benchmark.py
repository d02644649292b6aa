"""The benchmark for whoever has a GPU for ten minutes, on the CPU."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import gpu

    return gpu


@pytest.mark.parametrize("name", ["nnUNetTrainer", "MPSCLTrainer"])
def test_a_row_is_trained_timed_and_predicted(
    name: str, benchmark: Any, dataset: Path, monkeypatch: pytest.MonkeyPatch, nnunet: dict[str, Path]
) -> None:
    args = Namespace(device="cpu", preset="cpu", steps=2)
    monkeypatch.setenv("nnUNet_compile", "f")
    row = benchmark.one_row(dataset, "2d", name, False, args)
    assert row["finite"]
    assert row["step_ms"] > 0
    assert row["predict_ms"] > 0
    assert row["peak_gib"] is None


def test_the_table_names_what_was_left_out(benchmark: Any) -> None:
    done = {"configuration": "2d", "trainer": "A", "compiled": True, "step_ms": 1.234, "ratio": 1.0, "finite": True}
    table = benchmark.markdown([done, {"configuration": "2d", "trainer": "B", "left_out": "no time left"}], "a GPU")
    assert "| 2d | A | yes | 1.23 | 1.00 | – | – | yes |" in table
    assert "Left out: 2d B: no time left" in table
