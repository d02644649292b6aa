"""EAM's own wiring: terms, ablations, annotation, more modalities, joint architectures, what inference keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from support import residual, started
from torch import Tensor

from nnunet_crossmod.data import Case, CrossModalBatch
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.losses import image_consistency, modality_consistency
from nnunet_crossmod.nn import semantic_correlations

MakeTrainer = Callable[..., Any]
AS_PRINTED = {"guidance": "mutual", "standardised": False, "over_scales": "sum", "warm_up": 0.0}
TERMS = ["segmenter/seg", "segmenter/aux", "segmenter/mcr", "segmenter/icr"]


def make_batch(trainer: Any) -> CrossModalBatch:
    return CrossModalBatch.from_loader(next(trainer.dataloader_train), trainer.block, trainer.seen, trainer.device)


def annotate(*names: str) -> Callable[[dict[str, Any]], None]:
    """Let training see the labels of target cases whose name holds one of the given words."""

    def change(dataset_json: dict[str, Any]) -> None:
        for name, case in dataset_json["crossmod"]["cases"].items():
            if any(word in name for word in names):
                case["annotated"] = "all"

    return change


def untouched(trainer: Any) -> list[str]:
    modules = {"network": trainer.bare_network, "heads": trainer.heads}
    return [f"{m}.{n}" for m, module in modules.items() for n, p in module.named_parameters() if p.grad is None]


@pytest.mark.parametrize(
    ("architecture", "kind", "configuration"),
    [
        ("v1", "plain", "2d"),
        ("v1", "residual", "3d_fullres"),
        ("v3", "plain", "3d_fullres"),
        ("v3", "residual", "2d"),
    ],
)
def test_every_joint_architecture_trains_all_it_has(
    architecture: str, kind: str, configuration: str, make_trainer: MakeTrainer
) -> None:
    change = {"change_plans": residual} if kind == "residual" else {}
    settings = {"architecture": architecture, "warm_up": 0.0, "guidance": "mutual"}
    trainer = started(make_trainer("EAMTrainer", configuration, **settings, **change))
    terms = trainer.train_step(next(trainer.dataloader_train))["terms"]
    assert list(terms) == TERMS
    assert all(torch.isfinite(value) for value in terms.values())
    assert not untouched(trainer)
    # coarsest first, each read by an attention of its own
    scales = [a.query.in_features for a in trainer.heads["attention"][0]]
    assert scales == list(trainer.bare_network.encoder.output_channels[-2::-1][:3])


@pytest.mark.parametrize("architecture", ["v1", "v3"])
def test_modality_aware_networks_are_predicted_with_by_the_stock_predictor(
    architecture: str, make_trainer: MakeTrainer
) -> None:
    trainer = started(make_trainer("EAMTrainer", architecture=architecture))
    for part in trainer.bare_network.modules():
        if "Gain" in type(part).__name__:
            torch.nn.init.normal_(part.project.weight)
    trainer.inference_allowed_mirroring_axes = (0, 1)
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,), "checkpoint_final.pth")
    network = predictor.network.eval()
    image = torch.randn(1, 1, 48, 48)
    of_modality = [network(torch.cat((image, torch.full_like(image, m)), 1)) for m in (1.0, 2.0)]
    assert not torch.allclose(*of_modality)
    trainer.set_deep_supervision_enabled(False)
    for index, logits in enumerate(of_modality):
        assert torch.equal(logits, trainer.bare_network(image, torch.tensor([index])))


@pytest.mark.parametrize(("kind", "configuration"), [("plain", "2d"), ("residual", "3d_fullres")])
def test_what_inference_keeps_is_the_stock_network_to_the_bit(
    kind: str, configuration: str, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    change = {"change_plans": residual} if kind == "residual" else {}
    trainer = started(make_trainer("EAMTrainer", configuration, **change))
    trainer.train_step(next(trainer.dataloader_train))
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    weights = torch.load(tmp_path / "checkpoint.pth", weights_only=False)["network_weights"]
    planned = trainer.configuration_manager.configuration["architecture"]
    stock = get_network_from_plans(
        planned["network_class_name"], planned["arch_kwargs"], planned["_kw_requires_import"], 1, 4,
        deep_supervision=False,
    )  # fmt: skip
    stock.load_state_dict(weights, strict=True)
    trainer.set_deep_supervision_enabled(False)
    network = trainer.bare_network.eval()
    size = trainer.configuration_manager.patch_size
    image = torch.randn(2, 1, *size)
    for modality in (1.0, 2.0):
        assert torch.equal(network(torch.cat((image, torch.full_like(image, modality)), 1)), stock.eval()(image))


@pytest.mark.parametrize(
    ("settings", "terms", "idle"),
    [
        ({"mcr_weight": 0.0}, ["seg", "aux", "icr"], []),
        ({"icr_weight": 0.0}, ["seg", "aux", "mcr"], ["kernel"]),
        ({"aux_weight": 0.0}, ["seg", "mcr", "icr"], ["predictor"]),
        ({"aux_weight": 0.0, "icr_weight": 0.0}, ["seg", "mcr"], ["attention"]),
    ],
)
def test_a_term_without_weight_is_not_even_computed(
    settings: dict[str, float], terms: list[str], idle: list[str], make_trainer: MakeTrainer
) -> None:
    trainer = started(make_trainer("EAMTrainer", warm_up=0.0, guidance="mutual", **settings))
    found = trainer.train_step(next(trainer.dataloader_train))["terms"]
    assert [term.split("/")[1] for term in found] == terms
    left = untouched(trainer)
    assert all(any(word in name for word in idle) for name in left)
    assert bool(left) == bool(idle)


def test_without_annotation_the_target_has_no_supervised_term(make_trainer: MakeTrainer) -> None:
    """Neither term of the target depends on its logits or its attention; consistency alone teaches its attention."""
    trainer = started(make_trainer("EAMTrainer", guidance="mutual"))
    batch = make_batch(trainer)
    outputs = trainer.forward(batch)
    losses = trainer.objective(batch, outputs)
    target = trainer.heads["attention"][1]
    supervised = losses.terms["seg"] + losses.terms["aux"]
    gradients = torch.autograd.grad(supervised, list(target.parameters()), retain_graph=True, allow_unused=True)
    assert all(g is None or not g.any() for g in gradients)
    learns = torch.autograd.grad(losses.terms["icr"], target[0].query.weight)[0]
    assert learns.abs().max() > 0


def test_without_annotation_the_source_guides_the_target(make_trainer: MakeTrainer) -> None:
    """The target is seen through the source's attention, and consistency moves the target's features alone."""
    trainer = started(make_trainer("EAMTrainer"))
    assert trainer.attention("lge") is trainer.heads["attention"][0]
    assert len(trainer.heads["attention"]) == 1
    batch = make_batch(trainer)
    outputs = trainer.forward(batch)
    levels = [seen.attention for maps in outputs.maps.values() for seen in maps]
    gradients = torch.autograd.grad(trainer.image_consistency(outputs), levels, allow_unused=True)
    scales = len(outputs.maps["cine"])
    assert all(gradient is None for gradient in gradients[:scales])
    assert all(gradient.any() for gradient in gradients[scales:])


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_teacher_s_labels_reach_the_target_s_maps(weight: float, make_trainer: MakeTrainer) -> None:
    at_once = {"teacher_start": 0.0, "teacher_ramp": 0.0}
    trainer = started(make_trainer("EAMTrainer", teacher=True, teacher_weight=weight, **at_once))
    batch = make_batch(trainer)
    outputs = trainer.forward(batch)
    labels = torch.ones(len(batch.target.images), *batch.images.shape[2:], dtype=torch.long)
    without = trainer.auxiliary(batch, outputs)
    unsure = trainer.auxiliary(batch.with_pseudo_labels(labels, torch.zeros_like(labels, dtype=torch.bool)), outputs)
    taught = trainer.auxiliary(batch.with_pseudo_labels(labels, torch.ones_like(labels, dtype=torch.bool)), outputs)
    torch.testing.assert_close(unsure, without)
    if not weight:
        torch.testing.assert_close(taught, without)
        return
    assert taught > without
    target = outputs.maps["lge"][0].attention
    assert torch.autograd.grad(taught, target)[0].any()


def test_consistency_does_not_depend_on_the_length_of_the_features(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("EAMTrainer"))
    outputs = trainer.forward(make_batch(trainer))

    def consistency(factor: float) -> Tensor:
        longer = {
            modality: [seen._replace(attention=factor * seen.attention) for seen in maps]
            for modality, maps in outputs.maps.items()
        }
        return trainer.image_consistency(outputs._replace(maps=longer))

    assert consistency(1000.0) < 4 * consistency(100.0)
    summed = make_trainer("EAMTrainer", over_scales="sum")
    summed.heads = trainer.heads
    terms = [torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3.0)]
    assert trainer.summed_over_scales(terms) == 2
    assert summed.summed_over_scales(terms) == 6


def few_shot_batch(trainer: Any, seen: dict[str, Case]) -> CrossModalBatch:
    """A batch of six in which one of three target samples is annotated."""
    batch = make_batch(trainer)
    six = batch.select(torch.tensor([0, 1, 2, 3, 0, 1]))
    lge = [case for case in seen.values() if case.modality == "lge"]
    without, with_labels = (next(c for c in lge if c.annotated == wanted) for wanted in (False, True))
    cases = list(six.cases)
    cases[1], cases[3], cases[5] = without, with_labels, without
    generator = torch.Generator().manual_seed(1)
    labels = tuple(torch.randint(0, 4, level.shape, generator=generator).to(level.dtype) for level in six.labels)
    return replace(six, cases=tuple(cases), labels=labels)


def test_few_shots_weigh_as_much_as_the_source(make_trainer: MakeTrainer) -> None:
    """Eq. 12 sums over modalities: one annotated target sample weighs as much as all source samples together."""
    probe = started(make_trainer("EAMTrainer"))
    word = next(name for name in probe.seen if "lge" in name)
    trainer = started(make_trainer("EAMTrainer", change_dataset=annotate(word)))
    batch = few_shot_batch(trainer, trainer.seen)
    outputs = trainer.forward(batch)
    expected = trainer.supervised_loss([x[0::2] for x in outputs.logits], batch.select(slice(0, 6, 2)))
    expected = expected + trainer.supervised_loss([x[3:4] for x in outputs.logits], batch.select(slice(3, 4)))
    torch.testing.assert_close(trainer.segmentation(batch, outputs), expected)
    auxiliary = trainer.auxiliary(batch, outputs)
    target = torch.autograd.grad(auxiliary, trainer.heads["attention"][1][0].query.weight)[0]
    assert target.abs().max() > 0
    assert not trainer.gathers_dice()
    assert probe.gathers_dice()


def test_labels_of_samples_without_annotation_are_not_read(make_trainer: MakeTrainer) -> None:
    probe = started(make_trainer("EAMTrainer"))
    word = next(name for name in probe.seen if "lge" in name)
    trainer = started(make_trainer("EAMTrainer", change_dataset=annotate(word)))
    batch = few_shot_batch(trainer, trainer.seen)
    outputs = trainer.forward(batch)
    labels = tuple(level.clone() for level in batch.labels)
    for level in labels:
        level[[1, 5]] = 3 - level[[1, 5]]
    scrambled = replace(batch, labels=labels)
    for name, value in trainer.objective(batch, outputs).terms.items():
        assert torch.equal(value, trainer.objective(scrambled, outputs).terms[name]), name
    level = labels[0]
    level[3] = 3 - level[3]
    assert not torch.equal(trainer.segmentation(batch, outputs), trainer.segmentation(scrambled, outputs))


def test_partial_annotation_is_marginalised_at_every_scale(make_trainer: MakeTrainer) -> None:
    """Where only class 1 is annotated, swapping the other classes' maps and the background's changes nothing."""

    def partial(dataset_json: dict[str, Any]) -> None:
        name = next(iter(dataset_json["labels"].keys() - {"background"}))
        for case in dataset_json["crossmod"]["cases"].values():
            case["annotated"] = [name] if case["annotated"] else []
        self_label.append(dataset_json["labels"][name])

    self_label: list[int] = []
    trainer = started(make_trainer("EAMTrainer", change_dataset=partial))
    batch = make_batch(trainer)
    outputs = trainer.forward(batch)
    others = [c for c in range(4) if c != self_label[0]]
    order = list(range(4))
    for old, new in zip(others, others[::-1], strict=True):
        order[old] = new
    swapped = {
        modality: [seen._replace(attention=seen.attention[:, order]) for seen in maps]
        for modality, maps in outputs.maps.items()
    }
    torch.testing.assert_close(
        trainer.auxiliary(batch, outputs), trainer.auxiliary(batch, outputs._replace(maps=swapped))
    )


def test_consistency_is_that_of_the_pairs(make_trainer: MakeTrainer) -> None:
    """The b-th sample of one modality with the b-th of the other, at every scale; surplus samples are left out."""
    trainer = started(make_trainer("EAMTrainer", **AS_PRINTED))
    batch = make_batch(trainer).select(torch.tensor([0, 1, 2]))
    outputs = trainer.forward(batch)
    terms = trainer.objective(batch, outputs).terms
    cine, lge = outputs.maps["cine"], outputs.maps["lge"]
    assert [len(maps[0].attention) for maps in (cine, lge)] == [2, 1]
    expected = sum(
        image_consistency(
            semantic_correlations(a.attention[:1], a.kernels[:1]), semantic_correlations(b.attention, b.kernels)
        )
        for a, b in zip(cine, lge, strict=True)
    )
    torch.testing.assert_close(terms["icr"], expected)
    torch.testing.assert_close(terms["mcr"], modality_consistency(*trainer.heads["class_embeddings"].weight))


@pytest.mark.parametrize("architecture", ["v1", "v2"])
def test_three_modalities_are_compared_in_pairs(architecture: str, make_trainer: MakeTrainer) -> None:
    def third(dataset_json: dict[str, Any]) -> None:
        block = dataset_json["crossmod"]
        block["modalities"].append("t2")
        block["target"].append("t2")
        for name in [name for name, case in block["cases"].items() if case["modality"] == "lge"][::2]:
            block["cases"][name]["modality"] = "t2"

    trainer = started(make_trainer("EAMTrainer", architecture=architecture, change_dataset=third, **AS_PRINTED))
    batch = make_batch(trainer)
    assert {case.modality for case in batch.cases} == {"cine", "lge", "t2"}
    outputs = trainer.forward(batch)
    terms = trainer.objective(batch, outputs).terms
    relations = {
        modality: [semantic_correlations(seen.attention[:1], seen.kernels[:1]) for seen in maps]
        for modality, maps in outputs.maps.items()
    }
    pairs = [("cine", "lge"), ("cine", "t2"), ("lge", "t2")]
    expected: list[Tensor] = [
        sum(image_consistency(x, y) for x, y in zip(relations[a], relations[b], strict=True)) for a, b in pairs
    ]
    torch.testing.assert_close(terms["icr"], torch.stack(expected).mean())
    trainer.train_step(next(trainer.dataloader_train))
    assert not untouched(trainer)


def test_scales_are_capped_and_counted(make_trainer: MakeTrainer) -> None:
    trainer = started(make_trainer("EAMTrainer", max_tokens=20, attention_scales=2))
    outputs = trainer.forward(make_batch(trainer))
    for maps in outputs.maps.values():
        assert len(maps) == 2
        assert all(seen.attention.flatten(3).shape[3] <= 20 for seen in maps)
    many = started(make_trainer("EAMTrainer", attention_scales=99))
    assert len(many.heads["attention"][0]) == len(many.bare_network.decoder.stages)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"aux_weight": -1.0}, "aux_weight"),
        ({"attention_heads": 0}, "attention_heads"),
        ({"icr_temperature": 0.0}, "icr_temperature"),
        ({"architecture": "v1", "conditioning": "encoder"}, "conditioning"),
        ({"architecture": "v4"}, "'v1', 'v2', 'v3'"),
    ],
)
def test_wrong_options_are_refused_in_one_line(settings: dict[str, Any], told: str, make_trainer: MakeTrainer) -> None:
    with pytest.raises(CrossmodError, match=told) as error:
        make_trainer("EAMTrainer", **settings)
    assert "\n" not in str(error.value)


def test_it_draws_correlations_and_maps(make_trainer: MakeTrainer) -> None:
    from matplotlib.image import imread

    trainer = started(make_trainer("EAMTrainer", picture_every=1))
    output = trainer.train_step(next(trainer.dataloader_train))
    state = torch.get_rng_state()
    trainer.on_train_epoch_end([output])
    assert torch.equal(state, torch.get_rng_state())
    for name in ("semantic_correlations.png", "semantic_maps.png"):
        picture = imread(Path(trainer.output_folder) / name)
        assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 50
