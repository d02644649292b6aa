"""How far adaptation may pull, and what is said where the target drifts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import started
from torch import Tensor, nn

from nnunet_crossmod.raw.block import Case, CrossmodBlock
from nnunet_crossmod.training import Losses
from nnunet_crossmod.training.adaptation import EVERY, GradientShare
from nnunet_crossmod.training.collapse import adversary_warnings
from nnunet_crossmod.training.drift import adaptation_warnings, drift_warnings, target_figures
from nnunet_crossmod.training.shared_norms import affine_of

MakeTrainer = Callable[..., Any]


def objective(network: nn.Linear, pull: float, weight: float = 1.0) -> Losses:
    """Gradients of length 1 (segmentation) and ``pull`` (adaptation) with respect to the bias."""
    bias = network.bias[0]
    return Losses().add("sup", bias.clone()).adapt("far", pull * bias, weight)


def gradient(losses: Losses, network: nn.Linear) -> Tensor:
    (found,) = torch.autograd.grad(losses.total(), [network.bias])
    return found[0]


@pytest.mark.parametrize(("pull", "weight", "expected"), [(50.0, 1.0, 0.2), (50.0, 0.01, 0.2), (0.1, 1.0, 0.1)])
def test_a_term_is_held_to_its_share_and_never_raised(pull: float, weight: float, expected: float) -> None:
    network = nn.Linear(1, 1)
    losses = GradientShare(network.parameters(), 0.2).hold(objective(network, pull, weight), 0)
    assert gradient(losses, network) == pytest.approx(1 + expected)
    assert float(losses.figures["share_far"]) == pytest.approx(expected)
    assert float(losses.figures["gradient_far"]) == pytest.approx(pull)


def test_norms_are_measured_now_and_then_and_averaged() -> None:
    network = nn.Linear(1, 1)
    held = GradientShare(network.parameters(), 0.2)
    for step, pull, known in ((3, 4.0, 4.0), (4, 8.0, 4.0), (EVERY, 8.0, 6.0)):
        losses = held.hold(objective(network, pull), step)
        assert float(losses.figures["gradient_far"]) == pytest.approx(known)


def test_parameters_that_labels_do_not_reach_are_not_measured() -> None:
    network = nn.Linear(1, 1)
    losses = objective(network, 0.0)
    losses.terms["far"] = network.bias[0] * 0.1 + 100 * network.weight.sum()
    held = GradientShare(network.parameters(), 0.2).hold(losses, 0)
    assert float(held.figures["gradient_far"]) == pytest.approx(0.1)


def test_a_gradient_that_overflows_changes_no_norm() -> None:
    network = nn.Linear(1, 1)
    held = GradientShare(network.parameters(), 0.2)
    held.hold(objective(network, 4.0), 0)
    losses = held.hold(objective(network, float("inf")), EVERY)
    assert float(losses.figures["gradient_far"]) == pytest.approx(4)


def test_a_first_gradient_that_overflows_is_forgotten() -> None:
    network = nn.Linear(1, 1)
    held = GradientShare(network.parameters(), 0.2)
    first = held.hold(objective(network, float("inf")), 0)
    assert float(first.scales["far"]) == 0
    assert all(torch.isfinite(figure) for figure in first.figures.values())
    later = held.hold(objective(network, 4.0), EVERY)
    assert float(later.figures["gradient_far"]) == pytest.approx(4)
    assert float(later.scales["far"]) > 0


def test_no_term_pulls_unheld_while_the_segmentations_gradient_is_unknown() -> None:
    network = nn.Linear(1, 1)
    losses = objective(network, 4.0)
    held = GradientShare(network.parameters(), 0.2)
    held.load_state_dict({"segmentation": torch.tensor(float("inf")), "far": torch.tensor(4.0)})
    assert float(held.hold(losses, 1).scales["far"]) == 0


def test_figures_survive_half_precision() -> None:
    logits = torch.zeros(2, 3, 96, 96, 32)
    logits[:, 0] = 8
    with torch.autocast("cpu", torch.float16):
        figures = target_figures(logits, [False, True], {"LV": 1, "RV": 2})
    assert all(torch.isfinite(figure) and figure > 0 for figure in figures.values())


def test_figures_of_the_target() -> None:
    logits = torch.full((3, 3, 4, 4), -30.0)
    logits[:, 0] = 0
    logits[1:, 1, 0], logits[1:, 0, 0] = 0, -30
    logits[0, 2, :2], logits[0, 0, :2] = 0, -30
    figures = target_figures(logits, [False, True, True], {"LV": 1, "RV": 2})
    assert figures["source_volume_RV"] == pytest.approx(0.5)
    assert figures["source_volume_LV"] == pytest.approx(0, abs=1e-6)
    assert figures["volume_LV"] == pytest.approx(0.25)
    assert figures["volume_RV"] == pytest.approx(0, abs=1e-6)
    assert figures["certainty"] == pytest.approx(1, abs=1e-4)
    assert target_figures(logits[1:], [True, True], {"LV": 1}) == {}


def test_a_structure_that_shrinks_after_the_warm_up_is_named() -> None:
    def row(target: float, source: float) -> dict[str, float]:
        return {f"segmenter/{which}_LV": share for which, share in (("volume", target), ("source_volume", source))}

    (warning,) = drift_warnings([row(0.2, 0.2), row(0.08, 0.08)], row(0.006, 0.02) | {"segmenter/sup": 0.1})
    assert warning.startswith(
        "LV takes 0.6 % of the target's voxels, 0.3 times its share of the source's, 1 times before adaptation began"
    )
    assert drift_warnings([row(0.26, 0.2)], row(0.05, 0.06)) == []  # it has learned, on both
    assert drift_warnings([], row(0.006, 0.02)) == []


@pytest.mark.parametrize("early", [{"segmenter/share_mcr": 0.0}, {"segmenter/share_fool": 0.001}, {}])
def test_epochs_in_which_no_term_pulls_noticeably_are_the_warm_up(early: dict[str, float]) -> None:
    warm_up = {"segmenter/volume_LV": 0.1, "segmenter/source_volume_LV": 0.1, **early}
    now = {"segmenter/volume_LV": 0.01, "segmenter/source_volume_LV": 0.1, "segmenter/share_fool": 0.1}
    assert len(adaptation_warnings([warm_up], now)) == 1
    assert adaptation_warnings([now], now) == []
    assert adaptation_warnings([warm_up], {**now, "segmenter/share_fool": 0.001}) == []


def test_an_adversary_that_is_no_match_is_named() -> None:
    means = {
        "discriminator/accuracy_main": 0.97,
        "discriminator/accuracy_aux": 0.7,
        "d1/accuracy": 0.51,
        "d1/detect": 2,
    }
    strong, weak = adversary_warnings(means)
    assert strong.startswith("the discriminator judges 97% correctly (accuracy_main)")
    assert weak.startswith("the d1 judges 51% correctly")


def test_a_modality_without_any_label_takes_the_source_s_norms() -> None:
    labels = {"a": frozenset({1}), "b": frozenset(), "c": frozenset({1})}
    cases = {
        name: Case(name, modality, labels[name], name) for name, modality in zip("abc", ("MR", "CT", "T2"), strict=True)
    }
    block = CrossmodBlock(("CT", "MR", "T2"), ("MR",), ("CT", "T2"), cases, {"x": 1})
    assert affine_of(block, cases, shared=True) == [1, 1, 2]
    assert affine_of(block, cases, shared=False) == [0, 1, 2]


@pytest.mark.parametrize(
    ("settings", "expected"), [({}, [0, 0]), ({"teacher": True}, [0, 1]), ({"shared_norms": False}, [0, 1])]
)
def test_a_teacher_holds_the_target_s_norms(
    settings: dict[str, Any], expected: list[int], make_trainer: MakeTrainer
) -> None:
    trainer = make_trainer("AICLTrainer", **settings)
    assert trainer.plans_manager.plans["crossmod"]["affine_of"] == expected


@pytest.mark.parametrize("share", [0.1, None])
def test_the_step_holds_the_terms_of_a_method(make_trainer: MakeTrainer, share: float | None) -> None:
    settings = {"warm_up": 0.0, "adaptation_ramp": 0.0, "csc_weight": 100.0, "fpc_weight": 100.0}
    trainer = started(make_trainer("AICLTrainer", adaptation_share=share, **settings))
    trainer.on_train_epoch_start()
    terms = trainer.train_step(next(trainer.dataloader_train))["figures"]
    if share is None:
        assert not any("share_" in name for name in terms)
    else:
        assert 0 < float(terms["segmenter/share_csc"]) <= share + 1e-6
        assert float(terms["segmenter/share_fpc"]) <= share + 1e-6
    assert "segmenter/certainty" in terms
