"""A training that starts from an existing nnU-Net model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_crossmod.cli import main
from nnunet_crossmod.errors import report_errors_in_one_line

MakeTrainer = Callable[..., Any]


def stock(dataset: Path, file: Path, channels: int, features: int = 4) -> dict[str, torch.Tensor]:
    """The checkpoint of a stock model of these plans."""
    plans = json.loads((dataset / "nnUNetPlans_tiny.json").read_text())
    planned = plans["configurations"]["2d"]
    kwargs = planned["architecture"]["arch_kwargs"]
    kwargs["features_per_stage"] = [features, *kwargs["features_per_stage"][1:]]
    configuration = PlansManager(plans).get_configuration("2d")
    network = nnUNetTrainer.build_network_architecture(PlansManager(plans), configuration, channels, 4, True)
    weights: dict[str, torch.Tensor] = network.state_dict()
    torch.save({"network_weights": weights}, file)
    return weights


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", ["AICLTrainer", "MPSCLTrainer", "GLUATrainer", "EAMTrainer"])
def test_stock_weights_become_a_start(
    name: str,
    channels: int,
    make_trainer: MakeTrainer,
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = stock(dataset, tmp_path / "stock.pth", channels)
    words = ["-d", "901", "-c", "2d", "-tr", name, "-p", "nnUNetPlans_tiny", "-o", str(tmp_path / "start.pth")]
    assert main(["adapt-weights", "-i", str(tmp_path / "stock.pth"), *words]) == 0
    said = capsys.readouterr().out
    assert ("modality channel dropped from" in said) is (channels == 2)
    assert ("affines given to every modality" in said) is (name == "AICLTrainer")
    assert ("local_discriminator" in said) is (name == "GLUATrainer")
    trainer = make_trainer(name)
    trainer.initialize()
    load_pretrained_weights(trainer.network, str(tmp_path / "start.pth"))
    loaded = trainer.network.state_dict()
    first = "encoder.stages.0.0.convs.0"
    assert torch.equal(loaded[f"{first}.conv.weight"], weights[f"{first}.conv.weight"][:, :1])
    assert torch.equal(
        loaded[f"{first}.norm.bias"], weights[f"{first}.norm.bias"].expand_as(loaded[f"{first}.norm.bias"])
    )
    assert torch.equal(loaded["decoder.stages.0.convs.0.conv.weight"], weights["decoder.stages.0.convs.0.conv.weight"])


def test_every_encoder_begins_as_the_stock_one(dataset: Path, tmp_path: Path) -> None:
    from nnunet_crossmod.plans import configure, write_plans

    planned = json.loads((dataset / "nnUNetPlans_tiny.json").read_text())
    file = write_plans(configure(planned, "nnUNetPlans_v1", {"architecture": "v1"}), dataset)
    weights = stock(dataset, tmp_path / "stock.pth", 1)
    words = ["-d", "901", "-c", "2d", "-tr", "EAMTrainer", "-p", "nnUNetPlans_v1", "-o", str(tmp_path / "start.pth")]
    try:
        assert main(["adapt-weights", "-i", str(tmp_path / "stock.pth"), *words]) == 0
    finally:
        file.unlink()
    state = torch.load(tmp_path / "start.pth")["network_weights"]
    for index in (0, 1):
        name = "stages.1.0.convs.0.conv.weight"
        assert torch.equal(state[f"encoder.encoders.{index}.{name}"], weights[f"encoder.{name}"])


@pytest.mark.parametrize(
    ("wrong", "says"), [("features", "another architecture"), ("file", "no checkpoint of nnU-Net")]
)
def test_what_does_not_fit_is_told(
    wrong: str, says: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if wrong == "features":
        stock(dataset, tmp_path / "stock.pth", 1, features=32)
        weights = torch.load(tmp_path / "stock.pth")["network_weights"]
        torch.save(
            {"network_weights": {k: v.repeat(2, *[1] * (v.ndim - 1)) for k, v in weights.items()}},
            tmp_path / "stock.pth",
        )
    else:
        (tmp_path / "stock.pth").write_text("weights")
    words = ["-d", "901", "-c", "2d", "-tr", "AICLTrainer", "-p", "nnUNetPlans_tiny", "-o", str(tmp_path / "start.pth")]
    assert main(["adapt-weights", "-i", str(tmp_path / "stock.pth"), *words]) == 1
    assert says in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["stock.pth"]


def test_nnunets_refusal_names_the_way(
    make_trainer: MakeTrainer, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stock(dataset, tmp_path / "stock.pth", 1)
    trainer = make_trainer("AICLTrainer")
    trainer.initialize()
    report_errors_in_one_line()
    with pytest.raises(AssertionError) as error:
        load_pretrained_weights(trainer.network, str(tmp_path / "stock.pth"))
    capsys.readouterr()
    sys.excepthook(AssertionError, error.value, None)
    said = capsys.readouterr().err
    assert said.startswith("Error: these pretrained weights do not fit as they are (The shape of the parameters of key")
    assert "crossmod adapt-weights" in said
    assert said.count("\n") == 1
