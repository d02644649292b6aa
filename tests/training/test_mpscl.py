"""MPSCL's and AdvEnt's own wiring: phases, prototypes, pseudo-labels, discriminators."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from support import started

from nnunet_crossmod.data import CrossModalBatch
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.prototypes import class_sums

MakeTrainer = Callable[..., Any]
ADVERSARY = {
    "segmenter/sup",
    "segmenter/fool_main",
    "segmenter/fool_aux",
    "discriminator/detect_main",
    "discriminator/accuracy_main",
    "discriminator/detect_aux",
    "discriminator/accuracy_aux",
}
CONTRAST = {
    "segmenter/margin_source",
    "segmenter/margin_target",
    "segmenter/target_angle",
    "segmenter/valid_background",
}


def make_batch(trainer: Any) -> CrossModalBatch:
    return CrossModalBatch.from_loader(next(trainer.dataloader_train), trainer.block, trainer.seen, trainer.device)


def state(trainer: Any) -> dict[str, torch.Tensor]:
    return {
        f"{player.name}.{i}.{key}": value.detach().clone()
        for player in trainer.players
        for i, module in enumerate(player.modules)
        for key, value in module.state_dict().items()
    }


def test_the_warm_up_is_advent_and_the_contrast_joins_after_it(
    make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = started(make_trainer("MPSCLTrainer", warm_up=0.5))
    batch = next(trainer.dataloader_train)
    early = trainer.train_step(batch)
    assert set(early["terms"]) == ADVERSARY
    assert not trainer.bank.initialised
    advent = started(make_trainer("AdvEntTrainer"))
    assert torch.equal(advent.train_step(batch)["loss"], early["loss"])
    for key, value in state(advent).items():
        assert torch.equal(value, state(trainer)[key]), key
    assert "phase: warm-up" in capsys.readouterr().out
    trainer.current_epoch = 1
    trainer.on_train_epoch_start()
    told = capsys.readouterr().out
    assert "phase: margin contrast" in told
    assert "Prototypes initialised from" in told
    late = trainer.train_step(batch)
    assert set(late["terms"]) >= ADVERSARY | CONTRAST
    shares = [float(value) for name, value in late["terms"].items() if "/valid_" in name]
    assert len(shares) == 4
    assert all(0 <= share <= 1 for share in shares)
    assert 0 <= float(late["terms"]["segmenter/target_angle"]) <= 180


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_the_first_prototypes_are_the_means_of_source_patches_alone(
    configuration: str, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = started(make_trainer("MPSCLTrainer", configuration, warm_up=0.5, prototype_patches=10))
    trainer.current_epoch = 1
    loaded: list[str] = []
    load = nnUNetDatasetBlosc2.load_case

    def spy(self: Any, identifier: str) -> Any:
        loaded.append(identifier)
        return load(self, identifier)

    with monkeypatch.context() as patch:
        patch.setattr(nnUNetDatasetBlosc2, "load_case", spy)
        random = torch.get_rng_state()
        trainer.on_train_epoch_start()
        assert torch.equal(random, torch.get_rng_state())
    assert set(loaded) == {name for name, case in trainer.seen.items() if case.modality == "cine"}
    sums, counts = torch.zeros_like(trainer.bank.centers), torch.zeros(4)
    with torch.no_grad():
        for batch in trainer.training_patches(lambda case: case.modality == "cine", 10):
            features = trainer.network(batch.images, batch.modality, features=True).decoder[trainer.stage]
            found = class_sums(features, batch.labels[0], 4)
            sums, counts = sums + found[0], counts + found[1]
    assert (counts > 0).all()
    torch.testing.assert_close(trainer.bank.centers, sums / counts[:, None])


def test_prototypes_follow_the_source_features_of_the_step(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("MPSCLTrainer", warm_up=0.0))
    batch = make_batch(trainer)
    outputs = trainer.forward(batch)
    before = trainer.bank.centers.clone()
    trainer.objective(batch, outputs)
    sums, counts = class_sums(outputs.decoder[trainer.stage][0::2], batch.labels[0][0::2], 4)
    for value in range(4):
        mean = sums[value] / counts[value] if counts[value] else before[value]
        expected = 0.9 * before[value] + 0.1 * mean
        torch.testing.assert_close(trainer.bank.centers[value], expected)
    assert not torch.equal(trainer.bank.centers, before)


@pytest.mark.parametrize("stopped_after", [0, 1, 2])
def test_continued_within_and_after_the_warm_up_the_next_step_is_identical(
    stopped_after: int, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    settings = {"num_epochs": 4, "warm_up": 0.5}
    trainer = started(make_trainer("MPSCLTrainer", **settings))
    batches = [next(trainer.dataloader_train) for _ in range(4)]
    for epoch in range(stopped_after + 1):
        trainer.current_epoch = epoch
        if epoch:
            trainer.on_train_epoch_start()
        trainer.on_train_epoch_end([trainer.train_step(batches[epoch])])
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    restored = make_trainer("MPSCLTrainer", **settings)
    restored.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert bool(restored.bank.initialised) == (stopped_after == 2)
    started(restored)
    trainer.current_epoch += 1
    trainer.on_train_epoch_start()
    assert trainer.phase() == restored.phase() == ("warm-up" if stopped_after == 0 else "margin contrast")
    ends = []
    for one in (trainer, restored):
        torch.manual_seed(7)  # of the intensities, which are augmented in the step
        ends.append(one.train_step(batches[3]))
    for name, value in ends[0]["terms"].items():
        assert torch.equal(value, ends[1]["terms"][name]), name
    for key, value in state(trainer).items():
        assert torch.equal(value, state(restored)[key]), key


def test_where_no_pseudo_label_is_valid_the_target_term_is_zero_and_harmless(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("MPSCLTrainer", warm_up=0.0, confidence_threshold=2.0))
    terms = trainer.train_step(next(trainer.dataloader_train))["terms"]
    assert terms["segmenter/margin_target"] == 0
    assert terms["segmenter/margin_source"] > 0
    assert sum(float(value) for name, value in terms.items() if "/valid_" in name) == 0
    assert all(torch.isfinite(p.grad).all() for p in trainer.network.parameters() if p.grad is not None)


def test_the_margin_terms_reach_the_features_of_their_own_domain_alone(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("MPSCLTrainer", warm_up=0.0, confidence_threshold=0.0))
    batch = make_batch(trainer)
    outputs = trainer.forward(batch)
    losses = trainer.objective(batch, outputs)
    features = outputs.decoder[trainer.stage]
    for name, mine, others in (("source", 0, 1), ("target", 1, 0)):
        (gradient,) = torch.autograd.grad(losses.terms[f"margin_{name}"], features, retain_graph=True)
        assert gradient[mine::2].any()
        assert not gradient[others::2].any()


def test_being_fooled_moves_target_predictions_alone_and_the_discriminators_see_no_graph(
    make_trainer: MakeTrainer,
) -> None:
    trainer = started(make_trainer("AdvEntTrainer"))
    batch = make_batch(trainer)
    outputs = trainer.forward(batch)
    fooled = trainer.objective(batch, outputs).terms["fool_main"]
    (gradient,) = torch.autograd.grad(fooled, outputs.information["main"], retain_graph=True)
    assert gradient[1::2].any()
    assert not gradient[0::2].any()
    parameters = [p for p in trainer.network.parameters() if p.requires_grad]
    told = trainer.discriminate(batch, outputs).total()
    assert all(g is None for g in torch.autograd.grad(told, parameters, allow_unused=True))


def test_discriminators_learn_to_tell_the_domains(make_trainer: MakeTrainer) -> None:
    settings = {"discriminator_lr": 1e-2, "initial_lr": 1e-9, "optimizer_name": "sgd", "augmentation": "nnunet"}
    trainer = started(make_trainer("AdvEntTrainer", **settings))
    batch = next(trainer.dataloader_train)
    accuracy = [float(trainer.train_step(batch)["terms"]["discriminator/accuracy_main"]) for _ in range(40)]
    assert accuracy[-1] > 0.8


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("design", ["strided", "patch"])
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_both_designs_look_at_every_level_there_is(
    configuration: str, design: str, deep_supervision: bool, make_trainer: MakeTrainer
) -> None:
    trainer = started(
        make_trainer("AdvEntTrainer", configuration, discriminator=design, enable_deep_supervision=deep_supervision)
    )
    assert list(trainer.discriminators) == (["main", "aux"] if deep_supervision else ["main"])
    terms = trainer.train_step(next(trainer.dataloader_train))["terms"]
    assert all(torch.isfinite(value) for value in terms.values())
    assert all(p.grad is not None for p in trainer.discriminators.parameters())


def test_discriminators_are_as_wide_as_in_the_paper_but_for_narrow_networks(make_trainer: MakeTrainer) -> None:
    def widths(**settings: Any) -> list[int]:
        trainer = make_trainer("AdvEntTrainer", **settings)
        trainer.initialize()
        return [trainer.discriminators[name][0].out_channels for name in ("main", "aux")]

    def planned(plans: dict[str, Any]) -> None:
        for configuration in plans["configurations"].values():
            if "architecture" in configuration:
                network = configuration["architecture"]["arch_kwargs"]
                network["features_per_stage"] = [32] * network["n_stages"]

    assert widths() == [8, 8]
    assert widths(change_plans=planned) == [64, 64]
    assert widths(discriminator_width=5) == [5, 5]


def test_without_its_weights_there_is_no_adversary(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("MPSCLTrainer", warm_up=0.0, fool_main_weight=0.0, fool_aux_weight=0.0))
    assert [player.name for player in trainer.players] == ["segmenter"]
    terms = trainer.train_step(next(trainer.dataloader_train))["terms"]
    assert {"segmenter/sup"} | CONTRAST <= set(terms)
    assert not any("fool" in name or "discriminator" in name for name in terms)
    one = started(make_trainer("AdvEntTrainer", fool_aux_weight=0.0))
    assert list(one.discriminators) == ["main"]


def test_without_margins_and_without_the_target_term(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("MPSCLTrainer", warm_up=0.0, confidence_threshold=0.0))
    batch = make_batch(trainer)
    outputs = trainer.forward(batch)
    centers = trainer.bank.centers.clone()
    terms = trainer.objective(batch, outputs).terms
    trainer.bank.centers.copy_(centers)
    trainer.source_margin = trainer.target_margin = 0.0
    trainer.margin_target_weight = 0.0
    losses = trainer.objective(batch, outputs)
    assert losses.terms["margin_source"] < terms["margin_source"]
    assert losses.terms["margin_target"] < terms["margin_target"]
    assert losses.weights["margin_target"] == 0
    trainer.bank.centers.copy_(centers)
    trainer.margin_mode = "released"
    assert losses.terms["margin_source"] != trainer.objective(batch, outputs).terms["margin_source"]


def test_background_beside_organs_that_are_not_annotated_makes_no_prototype(make_trainer: MakeTrainer) -> None:
    def partial(dataset_json: dict[str, Any]) -> None:
        names = [name for name in dataset_json["labels"] if name not in ("background", "ignore")]
        for case in dataset_json["crossmod"]["cases"].values():
            case["annotated"] = names[:1] if case["modality"] == "cine" else []

    trainer = started(make_trainer("MPSCLTrainer", warm_up=0.0, change_dataset=partial))
    terms = trainer.train_step(next(trainer.dataloader_train))["terms"]
    assert all(torch.isfinite(value) for value in terms.values())
    present = trainer.bank.centers.any(1).tolist()
    assert present == [False, True, False, False]


def test_source_samples_without_annotation_are_left_out(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("MPSCLTrainer", warm_up=0.0))
    batch = make_batch(trainer).source
    hidden = replace(batch.cases[0], visible=frozenset())
    labels = trainer.source_labels(replace(batch, cases=(hidden, *batch.cases[1:])), batch.images.shape[2:])
    assert (labels[0] == -1).all()
    assert torch.equal(labels[1], batch.labels[0][1])


def test_angles_are_taken_about_the_mean_of_the_prototypes(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("MPSCLTrainer", warm_up=0.0))
    features = trainer.forward(make_batch(trainer)).decoder[trainer.stage]
    shifted, centers = trainer.about_centre(features)
    torch.testing.assert_close(centers.mean(0), torch.zeros(centers.shape[1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(shifted + trainer.bank.centers.mean(0).view(1, -1, 1, 1), features)
    trainer.bank.centers[2] = 0
    assert not trainer.about_centre()[0][2].any()
    trainer.centred = False
    assert torch.equal(trainer.about_centre(features)[0], features)


def test_the_teacher_labels_the_target_where_asked(make_trainer: MakeTrainer) -> None:
    with pytest.raises(CrossmodError, match="pseudo_labels = teacher must be prototypes, or teacher=true"):
        make_trainer("MPSCLTrainer", pseudo_labels="teacher")
    settings = {"warm_up": 0.0, "teacher": True, "pseudo_labels": "teacher", "teacher_start": 0.0}
    trainer = started(make_trainer("MPSCLTrainer", **settings))
    batch = make_batch(trainer)
    size = batch.images.shape[2:]
    labels, sure = torch.ones(1, *size, dtype=torch.long), torch.zeros(1, *size, dtype=torch.bool)
    centers = trainer.bank.centers
    cosines = torch.rand(1, len(centers), *(s // 2 for s in size))
    found, valid = trainer.labelled(batch.with_pseudo_labels(labels, sure), cosines, centers)
    assert (found == 1).all()
    assert not valid.any()
    assert found.shape == cosines[:, 0].shape
    without, _ = trainer.labelled(batch, cosines, centers)
    assert torch.equal(without, cosines.argmax(1))


@pytest.mark.parametrize(("feature_stage", "stage"), [(None, None), (0, 0), (1, 1)])
def test_the_feature_is_at_half_resolution_unless_told_otherwise(
    feature_stage: int | None, stage: int | None, make_trainer: MakeTrainer
) -> None:
    trainer = started(make_trainer("MPSCLTrainer", feature_stage=feature_stage))
    features = trainer.forward(make_batch(trainer)).decoder[trainer.stage]
    patch = trainer.configuration_manager.patch_size[0]
    if stage is None:
        assert patch // features.shape[2] == 2
    else:
        assert trainer.stage == stage
    assert features.shape[1] == trainer.bank.centers.shape[1]


def test_pictures_of_pseudo_labels_are_drawn_once_there_are_prototypes(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("MPSCLTrainer", warm_up=0.5, picture_every=1))
    picture = Path(trainer.output_folder) / "pseudo_labels.png"
    for epoch, drawn in enumerate((False, True)):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train))])
        assert picture.exists() == drawn
    assert picture.stat().st_size > 5000
    rows = [json.loads(line) for line in (picture.parent / "losses.jsonl").read_text().splitlines()]
    assert [row["phase"] for row in rows] == ["warm-up", "margin contrast"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("warm_up", 1.5),
        ("feature_stage", 9),
        ("source_margin", 1.6),
        ("target_margin", -0.1),
        ("margin_temperature", 0.0),
        ("prototype_momentum", 1.0),
        ("prototype_patches", 0),
        ("confidence_threshold", -1.0),
        ("discriminator_width", 0),
        ("discriminator_lr", 0.0),
        ("fool_main_weight", -1.0),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, value: Any, make_trainer: MakeTrainer) -> None:
    with pytest.raises(CrossmodError, match=f"{name} = {value}.*must be"):
        make_trainer("MPSCLTrainer", **{name: value})


def test_the_authors_segmentation_loss_is_an_option(make_trainer: MakeTrainer) -> None:
    batch = next(started(make_trainer("AdvEntTrainer")).dataloader_train)
    values = []
    for kind in ("dice_ce", "dice_weighted_ce"):
        trainer = make_trainer("AdvEntTrainer", segmentation_loss=kind)
        started(trainer)
        values.append(trainer.train_step(batch)["terms"]["segmenter/sup"])
    assert torch.isfinite(torch.stack(values)).all()
    assert values[0] != values[1]


def test_a_fold_without_annotated_source_is_refused(make_trainer: MakeTrainer) -> None:
    def target_alone(dataset_json: dict[str, Any]) -> None:
        for case in dataset_json["crossmod"]["cases"].values():
            case["annotated"] = [] if case["modality"] == "cine" else "all"

    with pytest.raises(CrossmodError, match="no annotated source case"):
        started(make_trainer("MPSCLTrainer", warm_up=0.0, change_dataset=target_alone))
