"""The validation after training: what nnU-Net's commands choose by holds no label that is hidden from training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnunetv2.evaluation.evaluate_predictions import load_summary_json, save_summary_json

from nnunet_crossmod.cli import main
from nnunet_crossmod.training.validation import HIDDEN, SEEN, summary_of, validate

MakeTrainer = Callable[..., Any]
MakeDice = Callable[[str], float]


def of_modality(name: str) -> float:
    return 0.8 if "cine" in name else 0.3


def validated(trainer: Any, dice: MakeDice = of_modality, probabilities: bool = False) -> Path:
    """Validate as nnU-Net does: a prediction of every case, one summary, one mean of all."""
    fold = Path(trainer.output_folder)

    def run() -> None:
        folder = fold / SEEN
        folder.mkdir(exist_ok=True)
        for name in trainer.do_split()[1]:
            (folder / f"{name}.nii.gz").write_bytes(b"")
            if probabilities:
                np.savez(folder / f"{name}.npz", probabilities=np.full((4, 2, 2, 2), 0.25, np.float32))
        # what an earlier validation left there counts too, as in nnU-Net
        cases = [
            {
                "prediction_file": str(file),
                "metrics": {label: {"Dice": dice(file.name), "IoU": 0.1} for label in (1, 2, 3)},
            }
            for file in sorted(folder.glob("*.nii.gz"))
        ]
        save_summary_json(summary_of(cases), str(folder / "summary.json"))
        trainer.logger.log_summary("final_val/foreground_dice", 0.55)
        trainer.print_to_log_file("Mean Validation Dice: ", 0.55)

    validate(trainer, run)
    (fold.parent / "dataset.json").write_text(json.dumps(trainer.dataset_json))
    (fold.parent / "plans.json").write_text(json.dumps(trainer.plans_manager.plans))
    return fold


def names(folder: Path) -> list[str]:
    return sorted(file.name.removesuffix(".nii.gz") for file in folder.glob("*.nii.gz"))


def test_hidden_scans_lie_where_nnunets_commands_do_not_look(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("AICLTrainer")
    _, scans = trainer.do_split()
    for _ in range(2):  # --val again
        fold = validated(trainer)
        assert names(fold / SEEN) == sorted(name for name in scans if "cine" in name)
        assert names(fold / HIDDEN) == sorted(name for name in scans if "lge" in name)
    seen, hidden = (load_summary_json(str(fold / part / "summary.json")) for part in (SEEN, HIDDEN))
    assert seen["foreground_mean"]["Dice"] == pytest.approx(0.8)
    assert hidden["foreground_mean"]["Dice"] == pytest.approx(0.3)
    assert all(Path(case["prediction_file"]).is_file() for case in hidden["metric_per_case"])
    log = Path(trainer.log_file).read_text()
    assert "0.55" not in log
    assert "cine 0.8000 (validation/, by which nnU-Net chooses); lge 0.3000 (validation_hidden/" in log


def test_other_target_labels_change_nothing_that_nnunet_chooses_by(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("JointTrainer")
    before = (validated(trainer) / SEEN / "summary.json").read_bytes()
    after = (validated(trainer, lambda name: 0.8 if "cine" in name else 0.9) / SEEN / "summary.json").read_bytes()
    assert before == after


@pytest.mark.parametrize(("annotated", "where"), [("all", SEEN), (["Myo"], HIDDEN)])
def test_annotated_target_scans_count_where_all_their_labels_are_seen(
    annotated: Any, where: str, make_trainer: MakeTrainer
) -> None:
    def annotate(dataset_json: dict[str, Any]) -> None:
        for case in dataset_json["crossmod"]["cases"].values():
            case["annotated"] = annotated if case["modality"] == "lge" else "all"

    fold = validated(make_trainer("JointTrainer", change_dataset=annotate))
    assert any("lge" in name for name in names(fold / where))


def test_the_ceiling_is_validated_on_what_it_was_trained_on(make_trainer: MakeTrainer) -> None:
    fold = validated(make_trainer("TargetSupervisedTrainer"))
    assert all("lge" in name for name in names(fold / SEEN))
    assert all("cine" in name for name in names(fold / HIDDEN))


@pytest.mark.parametrize(("raw_share", "says"), [(0.0, "alone: it was not made for"), (0.5, "in part")])
def test_a_segmenter_of_translated_scans_says_so(raw_share: float, says: str, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("CISFATrainer", raw_share=raw_share)
    validated(trainer)
    assert f"trains its segmenter on translated cine scans {says}" in Path(trainer.log_file).read_text()


def test_configurations_are_compared_without_hidden_labels(
    make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["choose", "-d", "901", "-tr", "AICLTrainer", "-p", "nnUNetPlans_tiny", "-c", "2d", "3d_fullres"]
    for dice in (0.3, 0.9):
        for configuration, source in (("2d", 0.8), ("3d_fullres", 0.7)):
            trainer = make_trainer("AICLTrainer", configuration)
            validated(trainer, lambda name: source if "cine" in name else dice, probabilities=True)  # noqa: B023
        assert main(words) == 0
        said = capsys.readouterr().out
        assert "0.8000     0.0000   1.0000     0.0000  0" in said
        assert "Highest criterion: 2d" in said


def test_pseudo_labels_are_none_to_choose_by(make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    def annotate(dataset_json: dict[str, Any]) -> None:
        for case in dataset_json["crossmod"]["cases"].values():
            case |= {"annotated": "all", "pseudo": True} if case["modality"] == "lge" else {}

    validated(make_trainer("JointTrainer", change_dataset=annotate))
    assert main(["choose", "-d", "901", "-tr", "JointTrainer", "-p", "nnUNetPlans_tiny", "-c", "2d"]) == 0
    assert "0.8000" in capsys.readouterr().out


def test_without_probabilities_the_way_to_them_is_told(
    make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    validated(make_trainer("AICLTrainer"))
    words = ["choose", "-d", "901", "-tr", "AICLTrainer", "-p", "nnUNetPlans_tiny", "-c", "2d"]
    assert main(words) == 0
    assert "--val --npz" in capsys.readouterr().out
    assert main([*words, "-f", "3"]) == 1
    assert "fold_3 is not validated" in capsys.readouterr().err
