"""The teacher: how it follows, whom it trusts, when it speaks, what predicts and what is saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from support import started
from torch import Tensor, nn

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.training.teacher import Teacher, ramp

MakeTrainer = Callable[..., Any]
AT_ONCE = {"teacher_start": 0.0, "teacher_ramp": 0.0}
EVERY_MIX = {"teacher_mix": 1.0, "teacher_cut_mix": 1.0}


class Maps(NamedTuple):
    logits: list[Tensor]


class Pixelwise(nn.Module):
    """The images are the logits, scaled by a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor, modality: Tensor, features: bool) -> Maps:
        return Maps([images * self.weight])


def test_it_follows_faster_in_the_beginning_and_never_learns_by_itself() -> None:
    student = Pixelwise()
    teacher = Teacher(student, 3, momentum=0.9)
    expected = 1.0
    for step in range(200):
        with torch.no_grad():
            student.weight.fill_(float(step))
        teacher.follow(student)
        keep = min(0.9, (step + 1) / (step + 10))
        expected = keep * expected + (1 - keep) * step
        assert float(teacher.network.weight) == pytest.approx(expected, rel=1e-4)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher.train().network.training


@pytest.mark.parametrize("trust", [0.5, 0.75, 1.0])
@pytest.mark.parametrize("size", [(40, 40), (4, 20, 20)])
def test_the_threshold_of_a_class_is_the_running_quantile_of_its_confidence(
    size: tuple[int, ...], trust: float
) -> None:
    torch.manual_seed(0)
    teacher = Teacher(Pixelwise(), 3, trust=trust)
    expected = np.full(3, 0.9)
    images = torch.randn(2, 3, *size)
    for _ in range(5):
        labels, trusted = teacher.label(images, torch.zeros(2))
        confidence, predicted = images.softmax(1).max(1)
        assert torch.equal(labels, predicted)
        for c in range(3):
            quantile = float(confidence[predicted == c].quantile(1 - trust)) if trust < 1 else 0.0
            expected[c] = 0.9 * expected[c] + 0.1 * quantile
    np.testing.assert_allclose(teacher.confidence.numpy(), expected, atol=0.005)
    threshold = teacher.confidence.clamp(max=0.95)[predicted]
    assert torch.equal(trusted, confidence >= threshold)


def test_a_class_that_is_hardly_predicted_keeps_its_threshold_and_certainty_is_capped() -> None:
    teacher = Teacher(Pixelwise(), 2, ceiling=0.95)
    images = torch.zeros(1, 2, 30, 30)
    images[:, 0] = 12.0
    for _ in range(60):
        _, trusted = teacher.label(images, torch.zeros(1))
    assert float(teacher.confidence[1]) == pytest.approx(0.9)
    assert float(teacher.confidence[0]) > 0.95
    assert trusted.all()


def test_a_ramp() -> None:
    assert [ramp(x, 0.25, 0.2) for x in (0.0, 0.24, 0.25, 0.35, 0.45, 1.0)] == pytest.approx([0, 0, 0, 0.5, 1, 1])
    assert [ramp(x, 0.25, 0.0) for x in (0.24, 0.25)] == [0, 1]


def test_it_stands_in_for_the_student_and_gives_the_place_back() -> None:
    student = Pixelwise()
    teacher = Teacher(student, 2)
    with torch.no_grad():
        student.weight.fill_(5.0)
    with teacher.standing_in(student):
        assert float(student.weight) == 1
    assert float(student.weight) == 5
    assert float(teacher.network.weight) == 1


# ---- under the trainers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augmentation", ["strong", "nnunet"])
def test_it_joins_after_its_warm_up_and_labels_the_target_alone(augmentation: str, make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("MeanTeacherTrainer", num_epochs=2, teacher_start=0.5, augmentation=augmentation))
    assert trainer.intensity_augmentation().nnunet  # in the step, not by the loader
    first = trainer.train_step(next(trainer.dataloader_train))
    assert "segmenter/teacher" not in first["terms"]
    trainer.current_epoch = 1
    trainer.on_train_epoch_start()
    trainer.iteration = 1
    labelled = []
    label = trainer.teaching.label
    trainer.teaching.label = lambda images, modality: labelled.append((images, modality)) or label(images, modality)
    loaded = next(trainer.dataloader_train)
    terms = trainer.train_step(loaded)["terms"]
    assert torch.isfinite(terms["segmenter/teacher"])
    images, modality = labelled[0]
    assert torch.equal(images, loaded["data"][1::2])  # as they are, without intensity augmentation
    if augmentation == "strong":  # nnU-Net's own may leave a few samples as they are
        assert not torch.equal(trainer.last_batch.target.images, images)
    assert set(modality.tolist()) == {1}


@pytest.mark.parametrize("name", ["AICLTrainer", "MPSCLTrainer", "EAMTrainer", "JointTrainer"])
def test_any_trainer_can_have_one(name: str, make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer(name, teacher=True, **EVERY_MIX, **AT_ONCE))
    terms = trainer.train_step(next(trainer.dataloader_train))["terms"]
    assert torch.isfinite(terms["segmenter/teacher"])
    assert "segmenter/sup" in terms or "segmenter/seg" in terms


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("CISFATrainer", {"generator_width": 4, "generator_blocks": 2, "discriminator_width": 4}),
        ("GLUATrainer", {"style_width": 4, "style_blocks": 1, "image_discriminator_width": 4}),
    ],
)
def test_translating_trainers_can_have_one(name: str, settings: dict[str, Any], make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer(name, teacher=True, **EVERY_MIX, **AT_ONCE, **settings))
    trainer.current_epoch = 1
    trainer.on_train_epoch_start()
    loaded = next(trainer.dataloader_train)
    terms = trainer.train_step(loaded)["terms"]
    assert torch.isfinite(terms["segmenter/teacher"])
    assert torch.equal(trainer.last_batch.images, loaded["data"])  # nothing is pasted into what a translator sees


def test_it_waits_for_a_segmenter_that_joins_late(make_trainer: MakeTrainer) -> None:
    small = {"style_width": 4, "style_blocks": 1, "image_discriminator_width": 4}
    late = {"num_epochs": 8, "stage_1": 0.5, "teacher_start": 0.5, "teacher_ramp": 0.25}
    trainer = started(make_trainer("GLUATrainer", teacher=True, **late, **small))
    shares = []
    for epoch in range(8):
        trainer.current_epoch = epoch
        trainer.iteration = 0
        shares.append(trainer.teacher_share)
    assert shares == [0, 0, 0, 0, 0, 0, 0, 1]


def test_a_trainer_that_sees_no_target_refuses_it(make_trainer: MakeTrainer) -> None:
    with pytest.raises(CrossmodError, match="MeanTeacherTrainer"):
        make_trainer("SourceOnlyTrainer", teacher=True)


def test_the_teacher_is_what_predicts_and_the_student_what_goes_on(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = started(make_trainer("MeanTeacherTrainer", **AT_ONCE))
    for _ in range(3):
        trainer.train_step(next(trainer.dataloader_train))
    file = tmp_path / "checkpoint.pth"
    trainer.save_checkpoint(str(file))
    saved = torch.load(file, weights_only=False)
    student, teacher = trainer.bare_network.state_dict(), trainer.teaching.network.state_dict()
    differing = [name for name in student if not torch.equal(student[name], teacher[name])]
    assert differing
    for name in differing:
        assert torch.equal(saved["network_weights"][name], teacher[name])
    restored = make_trainer("MeanTeacherTrainer", **AT_ONCE)
    restored.load_checkpoint(str(file))
    for name in student:
        assert torch.equal(restored.bare_network.state_dict()[name], student[name])
        assert torch.equal(restored.teaching.network.state_dict()[name], teacher[name])
    assert restored.teaching.steps == 3
    assert torch.equal(restored.teaching.confidence, trainer.teaching.confidence)


def test_online_validation_looks_at_the_teacher(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("MeanTeacherTrainer", **AT_ONCE))
    trainer.train_step(next(trainer.dataloader_train))
    loaded = next(trainer.dataloader_val)
    shown: list[Tensor] = []
    weight = next(trainer.bare_network.parameters())
    handle = trainer.network.register_forward_pre_hook(lambda *_: shown.append(weight.detach().clone()))
    trainer.validation_step(loaded)
    handle.remove()
    assert torch.equal(shown[0], next(trainer.teaching.network.parameters()))
    assert not torch.equal(shown[0], weight)
