"""AICL's own wiring: terms, warm-up, patch size, pairing, partial annotation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from support import plan_and_preprocess, started, tiny

from nnunet_crossmod.data import CrossModalBatch, CrossModalDataset
from nnunet_crossmod.dataset_conversion import phantom
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.losses import feature_patch_contrast
from nnunet_crossmod.paths import load_trainer
from nnunet_crossmod.pseudo_labels import labels_at, organ_patches

MakeTrainer = Callable[..., Any]


def test_contrastive_terms_join_after_the_warm_up(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("AICLTrainer", warm_up=0.5))
    batch = next(trainer.dataloader_train)
    terms = []
    for epoch in range(2):
        trainer.current_epoch = epoch
        trainer.iteration = 0
        terms += [set(trainer.train_step(batch)["terms"]) for _ in range(2)]
    early, late = {"segmenter/sup"}, {"segmenter/sup", "segmenter/csc", "segmenter/fpc"}
    assert terms == [early, early, late, late]


def stride_16(plans: dict[str, Any]) -> None:
    """Every stage halves the map, but the last, which ends at a sixteenth."""
    network = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]
    network["strides"] = [[1, 1], [2, 2], [2, 2], [2, 2], [2, 2]][: network["n_stages"]]
    network["strides"][-1] = [int(16 / 2 ** (network["n_stages"] - 2))] * 2


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({}, [6, 6]),
        ({"patch_size": [16, 16]}, [1, 1]),
        ({"patch_size": [16, 16], "patch_width": "literal"}, [2, 2]),
        ({"patch_size": [3, 3]}, [1, 1]),
        ({"patch_size": [48, 24]}, [3, 2]),
    ],
)
def test_patch_size_is_given_in_input_voxels(
    settings: dict[str, Any], size: list[int], make_trainer: MakeTrainer
) -> None:
    last = len(make_trainer("AICLTrainer").stage_strides) - 1
    trainer = make_trainer("AICLTrainer", change_plans=stride_16, feature_stage=last, **settings)
    assert trainer.feature_patch_size() == size


def test_features_are_those_of_the_deepest_stage_of_stride_eight(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("AICLTrainer", change_plans=stride_16))
    stages = len(trainer.stage_strides)
    assert trainer.stage_strides[-1].tolist() == [16, 16]
    assert trainer.feature_level() == stages - 2
    batch = make_batch(trainer)
    features = trainer.forward(batch).features
    assert [s // f for s, f in zip(batch.images.shape[2:], features.shape[2:], strict=True)] == [2 ** (stages - 2)] * 2
    assert make_trainer("AICLTrainer").feature_level() == stages - 1
    with pytest.raises(CrossmodError, match="feature_stage"):
        make_trainer("AICLTrainer", feature_stage=stages)


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_the_contrast_is_that_of_the_organ_patches_of_the_batch(configuration: str, make_trainer: MakeTrainer) -> None:
    """The dense path gives what the listed organ patches give: labels where known, predictions on the target."""
    trainer = started(make_trainer("AICLTrainer", configuration, patch_least_voxels=1))
    batch = make_batch(trainer)
    outputs = trainer.forward(batch)
    prediction = outputs.logits[0].argmax(1)
    prediction[1, ..., :8] = 1
    known = prediction.clone()
    known[0::2] = batch.labels[0][0::2].long()
    labels = labels_at(known, outputs.features.shape[2:])
    listed = organ_patches(outputs.features, labels, trainer.feature_patch_size(), "organ")
    expected = feature_patch_contrast(listed.patches, listed.organs, batch.modality[listed.sample], 0.07)
    one_hot = torch.nn.functional.one_hot(prediction, 4).movedim(-1, 1).float() * 10
    found = trainer.organ_patch_contrast(batch, outputs._replace(logits=[one_hot]))
    torch.testing.assert_close(found, expected)
    assert found > 0


def make_batch(trainer: Any) -> Any:
    from nnunet_crossmod.data import CrossModalBatch

    return CrossModalBatch.from_loader(next(trainer.dataloader_train), trainer.block, trainer.seen, trainer.device)


def test_consistency_is_symmetric_unless_told_otherwise(make_trainer: MakeTrainer) -> None:
    both = started(make_trainer("AICLTrainer"))
    batch = make_batch(both)
    outputs = both.forward(batch)
    one = make_trainer("AICLTrainer", csc_directions="source_to_target")
    forth = one.structural_consistency(batch, outputs)
    assert not torch.isclose(both.structural_consistency(batch, outputs), forth)


@pytest.mark.parametrize("term", ["organ_patch_contrast", "structural_consistency"])
@pytest.mark.parametrize(("reference", "fixed"), [("auto", True), ("source", True), ("none", False)])
def test_the_source_is_the_reference_where_no_target_is_annotated(
    term: str, reference: str, fixed: bool, make_trainer: MakeTrainer
) -> None:
    trainer = started(make_trainer("AICLTrainer", reference=reference))
    batch = make_batch(trainer)
    outputs = trainer.forward(batch)
    organs = torch.randint(0, 4, outputs.logits[0][:, :1].shape)
    logits = torch.zeros_like(outputs.logits[0]).scatter(1, organs, 5.0).requires_grad_()
    features, decoder = (maps.detach().requires_grad_() for maps in (outputs.features, outputs.decoder))
    loss = getattr(trainer, term)(batch, outputs._replace(logits=[logits], features=features, decoder=decoder))
    loss.backward()
    moved = features.grad if term == "organ_patch_contrast" else decoder.grad
    assert moved is not None
    assert moved[batch.target_rows].any()
    assert bool(moved[batch.source_rows].any()) is not fixed


def test_both_modalities_move_where_the_target_has_labels_too(make_trainer: MakeTrainer) -> None:
    def annotate(dataset: dict[str, Any]) -> None:
        cases = dataset["crossmod"]["cases"]
        case = next(c for c in cases.values() if c["modality"] in dataset["crossmod"]["target"])
        case.update({"annotated": ["Myo"], "labelled": True})

    assert make_trainer("AICLTrainer").source_is_reference()
    assert not make_trainer("AICLTrainer", change_dataset=annotate).source_is_reference()


def test_a_batch_of_three_pairs_what_can_be_paired(make_trainer: MakeTrainer) -> None:
    def three(plans: dict[str, Any]) -> None:
        plans["configurations"]["2d"]["batch_size"] = 3

    trainer = started(make_trainer("AICLTrainer", change_plans=three, warm_up=0.0))
    assert all(torch.isfinite(v) for v in trainer.train_step(next(trainer.dataloader_train))["terms"].values())


@pytest.fixture(scope="module")
def registered(nnunet: dict[str, Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Registered pairs with partial annotation, as in TAO: (plans, dataset.json)."""
    phantom.convert(904, subjects=4, test_subjects=0, size=48, slices=6, registered=True, annotation="partial")
    plan_and_preprocess(904)
    folder = next(nnunet["nnUNet_preprocessed"].glob("Dataset904_*"))
    plans = tiny(json.loads((folder / "nnUNetPlans.json").read_text()), "nnUNetPlans_tiny", warm_up=0.0)
    return plans, json.loads((folder / "dataset.json").read_text())


def pair_trainer(registered: Any, configuration: str, **settings: Any) -> Any:
    plans, dataset_json = json.loads(json.dumps(registered))
    plans["crossmod"].update(settings)
    plans["continue_training"] = False
    return load_trainer("AICLTrainer")(plans, configuration, 0, dataset_json, torch.device("cpu"))


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_registered_pairs_stay_registered_through_augmentation(
    configuration: str, registered: Any, make_trainer: MakeTrainer
) -> None:
    """Every scan carries labels of its own modality only: blanked, they must still fit one anatomy."""
    trainer = started(pair_trainer(registered, configuration))
    overlaps, seen = [], []
    for _ in range(6):
        loaded = next(trainer.dataloader_train)
        subjects = [trainer.seen[key].subject for key in loaded["keys"]]
        assert subjects[0::2] == subjects[1::2]
        labels = loaded["target"][0][:, 0]
        cine, lge = labels[0::2], labels[1::2]
        assert set(cine.unique().tolist()) <= {0, 1, 2}
        assert set(lge.unique().tolist()) <= {0, 3}
        overlaps.append(((cine > 0) & (lge == 3)).sum().item())
        seen.append(((cine > 0).any() & (lge == 3).any()).item())
    assert sum(overlaps) == 0
    assert sum(seen) > 0
    terms = trainer.train_step(loaded)["terms"]
    assert all(torch.isfinite(value) for value in terms.values())


def test_registered_images_are_cropped_as_one(
    registered: Any, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one and the same volume in place of both scans, and nothing but crops, both samples of a pair are equal."""
    load = CrossModalDataset.load_case
    trainer = pair_trainer(registered, "2d")

    def same_volume(self: Any, identifier: str) -> Any:
        seg, rest = load(self, identifier)[1], load(self, identifier)[2:]
        return load(self, str(identifier).replace("lge", "cine"))[0], seg, *rest

    def crops_alone(*args: Any, use_mask_for_norm: Any = None, **kwargs: Any) -> Any:
        return trainer.get_validation_transforms(
            args[2], foreground_labels=kwargs["foreground_labels"], ignore_label=kwargs["ignore_label"]
        )

    monkeypatch.setattr(CrossModalDataset, "load_case", same_volume)
    trainer.get_training_transforms = crops_alone
    started(trainer)
    for _ in range(4):
        images = next(trainer.dataloader_train)["data"]
        assert torch.equal(images[0::2], images[1::2])
        assert not torch.equal(images[0], images[2])


def test_the_step_tells_the_method_that_its_pairs_are_registered(registered: Any, make_trainer: MakeTrainer) -> None:
    trainer = started(pair_trainer(registered, "2d"))
    seen = []
    forward = trainer.forward
    trainer.forward = lambda batch: seen.append(batch.registered) or forward(batch)
    trainer.train_step(next(trainer.dataloader_train))
    assert seen == [True]


@pytest.mark.parametrize("pairing", ["registered", "unpaired"])
def test_scrambled_hidden_labels_of_partly_annotated_scans_change_no_bit(
    pairing: str, registered: Any, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = {"cine": (3,), "lge": (1, 2)}

    def train(scramble: bool) -> dict[str, torch.Tensor]:
        load = nnUNetDatasetBlosc2.load_case

        def scrambled(self: Any, identifier: str) -> Any:
            data, seg, previous, properties = load(self, identifier)
            values = hidden[str(identifier).rsplit("_", 1)[-1]]
            seg = np.array(seg[:])
            free = np.isin(seg, (0, *values))
            seg[free] = np.random.default_rng(5).choice((0, *values), size=int(free.sum()))
            found = {k: (v[::-1][:7] if k in values else v) for k, v in properties["class_locations"].items()}
            return data, seg, previous, {**properties, "class_locations": found}

        with monkeypatch.context() as patch:
            if scramble:
                patch.setattr(nnUNetDatasetBlosc2, "load_case", scrambled)
            trainer = started(pair_trainer(registered, "2d", pairing=pairing))
            for _ in range(3):
                trainer.train_step(next(trainer.dataloader_train))
        return {name: value.clone() for name, value in trainer.network.state_dict().items()}

    honest, other = train(scramble=False), train(scramble=True)
    for name, value in honest.items():
        assert torch.equal(value, other[name]), name


def test_unpaired_classes_are_described_by_the_batch_or_by_each_sample(make_trainer: MakeTrainer) -> None:
    """A target slice without any organ hardly changes what the other slices say, unless each speaks for itself."""
    changed = {}
    for pooling in ("batch", "sample"):
        trainer = started(make_trainer("AICLTrainer", csc_pooling=pooling))
        batch = make_batch(trainer)
        outputs = trainer.forward(batch)
        confident = torch.nn.functional.one_hot(torch.arange(48 * 48).view(48, 48) % 4, 4).movedim(-1, 0).float() * 40
        confident = confident[None].repeat(4, 1, 1, 1)
        empty = confident.clone()
        empty[3] = 0
        empty[3, 0] = 40.0

        def consistency(maps: Any, trainer: Any = trainer, batch: Any = batch, outputs: Any = outputs) -> Any:
            noise = 0.1 * outputs.decoder.detach()
            features = torch.cat((noise[:, :4] + maps / 40, noise[:, 4:]), 1)  # they tell the classes apart
            return trainer.structural_consistency(batch, outputs._replace(logits=[maps], decoder=features))

        full, without = consistency(confident), consistency(empty)
        changed[pooling] = float((full - without).abs())
    assert changed["batch"] < 0.02 < changed["sample"]


def test_registered_pairs_are_compared_by_their_maps(registered: Any, make_trainer: MakeTrainer) -> None:
    trainer = started(pair_trainer(registered, "2d"))
    assert trainer.uses_registered_pairs()
    batch = replace(make_batch(trainer), registered=True)
    outputs = trainer.forward(batch)
    by_maps = trainer.structural_consistency(batch, outputs)
    by_descriptors = trainer.structural_consistency(replace(batch, registered=False), outputs)
    assert not torch.isclose(by_maps, by_descriptors)
    assert not pair_trainer(registered, "2d", pairing="unpaired").uses_registered_pairs()


def test_pairing_of_scans_that_are_not_registered_is_refused(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("AICLTrainer", pairing="registered", change_dataset=lambda d: d["crossmod"].update(
        cases={name: {**case, "subject": name} for name, case in d["crossmod"]["cases"].items()}
    ))  # fmt: skip
    with pytest.raises(CrossmodError, match="pairing=unpaired"):
        trainer.on_train_start()


def test_gin_changes_the_chosen_images_only(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("AICLTrainer", augmentation="nnunet", gin="source"))
    batch = make_batch(trainer)

    def augmented() -> CrossModalBatch:
        return replace(trainer.intensity_augmentation(), nnunet=False)(batch)

    changed = augmented()
    assert torch.equal(changed.images[1::2], batch.images[1::2])
    assert not torch.allclose(changed.images[0::2], batch.images[0::2])
    trainer.gin = "all"
    assert not torch.allclose(augmented().images[1::2], batch.images[1::2])
    trainer.gin_probability = 0.0
    assert torch.equal(augmented().images, batch.images)
    trainer.gin = "off"
    assert augmented() is batch


def test_hyperparameters_are_recorded_in_the_results(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("AICLTrainer", fpc_weight=0.25, patch_size=[8, 8]))
    recorded = json.loads((Path(trainer.output_folder_base) / "plans.json").read_text())["crossmod"]
    assert recorded["fpc_weight"] == 0.25
    assert recorded["patch_size"] == [8, 8]
    assert recorded["csc_temperature"] == 0.5
    assert recorded["modalities"] == ["cine", "lge"]


def test_losses_are_recorded_and_a_continued_training_writes_on(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("AICLTrainer"))
    folder = Path(trainer.output_folder)
    for epoch in range(2):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train))])
    rows = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1]
    assert np.isfinite(rows[1]["segmenter/csc"])
    assert (folder / "losses.png").stat().st_size > 5000
    again = make_trainer("AICLTrainer")
    again.current_epoch = 1
    started(again)
    assert [json.loads(line)["epoch"] for line in (folder / "losses.jsonl").read_text().splitlines()] == [0]


def test_terms_reach_the_extra_loggers(make_trainer: MakeTrainer) -> None:
    class Listener:
        heard: list[str] = []  # noqa: RUF012

        def update_config(self, config: Any) -> None:
            pass

        def log(self, key: str, value: Any, step: int) -> None:
            self.heard.append(key)

    trainer = started(make_trainer("AICLTrainer", warm_up=0.0))
    trainer.logger.loggers.append(Listener())
    trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train))])
    assert {"segmenter/sup", "segmenter/csc", "segmenter/fpc", "train_losses"} <= set(Listener.heard)
