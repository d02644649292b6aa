"""GLUA's own wiring: two stages, who moves when, what the segmenter is shown, the mask at inference."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from support import started

from nnunet_crossmod.cli import main
from nnunet_crossmod.data import CrossModalBatch
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.losses import fool
from nnunet_crossmod.nn import translator_state

MakeTrainer = Callable[..., Any]
SMALL = {
    "style_width": 4,
    "style_blocks": 1,
    "image_discriminator_width": 4,
    "local_discriminator_width": 8,
    "stage_1": 0.5,
}
STAGE_1 = {"translator", "image_discriminator"}
STAGE_2 = {"segmenter", "local_discriminator", "global_discriminator"}


@pytest.fixture
def make(make_trainer: MakeTrainer) -> MakeTrainer:
    def made(configuration: str = "2d", **settings: Any) -> Any:
        return make_trainer("GLUATrainer", configuration, **{**SMALL, **settings})

    return made


def at(trainer: Any, epoch: int) -> Any:
    trainer.current_epoch = epoch
    trainer.on_train_epoch_start()
    return trainer


def loaded_batch(trainer: Any, loaded: Any = None) -> CrossModalBatch:
    loaded = next(trainer.dataloader_train) if loaded is None else loaded
    return CrossModalBatch.from_loader(loaded, trainer.block, trainer.seen, trainer.device)


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {f"{p.name}.{i}": w.detach().clone() for p in trainer.players for i, w in enumerate(p.parameters())}


def moved(before: dict[str, torch.Tensor], trainer: Any) -> set[str]:
    return {name.split(".")[0] for name, w in weights(trainer).items() if not torch.equal(before[name], w)}


# ---- the stages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "epochs", "switch"), [(0.5, 2, 1), (0.2, 1000, 200), (0.2, 10, 2), (0.01, 4, 1), (0.99, 4, 3)]
)
def test_the_switch_is_an_epoch_and_both_stages_get_one(
    share: float, epochs: int, switch: int, make: MakeTrainer
) -> None:
    trainer = make(stage_1=share, num_epochs=epochs)
    assert trainer.stage_2 == switch
    phases = []
    for epoch in (switch - 1, switch):
        trainer.current_epoch = epoch
        phases.append(trainer.phase()[:7])
    assert phases == ["stage 1", "stage 2"]


def test_an_empty_slice_teaches_the_translator_nothing(make: MakeTrainer) -> None:
    """Behind a dozen instance norms its gradient would be infinite."""
    trainer = at(started(make(num_epochs=4)), 0)
    batch = loaded_batch(trainer)
    batch.images[1] = 0.3
    translator = next(player for player in trainer.players if player.name == "translator").parameters()

    def taught(sample: int) -> bool:
        made = trainer.transfer(batch)
        total = sum(maps[sample].square().sum() for maps in made[3:])
        return any(g is not None and bool(g.any()) for g in torch.autograd.grad(total, translator, allow_unused=True))

    assert taught(0)
    assert not taught(1)


def test_a_translator_is_taken_over_and_then_there_is_no_stage_1(make: MakeTrainer, tmp_path: Path) -> None:
    first = at(started(make(num_epochs=2)), 0)
    first.train_step(next(first.dataloader_train))
    file = tmp_path / "checkpoint_final.pth"
    first.save_checkpoint(str(file))
    second = at(started(make(num_epochs=2, translator_checkpoint=str(file))), 0)
    assert second.phase().startswith("stage 2")
    before = second.translator.state_dict()
    for name, value in first.translator.state_dict().items():
        assert torch.equal(value, before[name])
    second.train_step(next(second.dataloader_train))
    assert {player.name for player in second.playing()} == STAGE_2
    second.save_checkpoint(str(file))  # translate finds it there, too
    kept = translator_state(torch.load(file, weights_only=False))
    assert all(torch.equal(kept[name], value) for name, value in first.translator.state_dict().items())


def test_a_training_that_does_not_translate_takes_over_nothing(make: MakeTrainer) -> None:
    trainer = started(make(style_transfer=False, translator_checkpoint="none.pth"))
    assert trainer.phase().startswith("stage 2")


@pytest.mark.parametrize(
    ("change", "says"), [({}, "is no file"), ({"style_width": 8}, "another translator"), (None, "holds no translator")]
)
def test_a_translator_that_does_not_fit_is_refused(
    change: dict[str, Any] | None, says: str, make: MakeTrainer, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    file = tmp_path / "checkpoint_final.pth"
    if change != {}:
        other = started(make(**change) if change else make_trainer("SourceOnlyTrainer"))
        other.save_checkpoint(str(file))
    with pytest.raises(CrossmodError, match=says):
        make(translator_checkpoint=str(file)).on_train_start()


def test_each_stage_moves_its_own_players(make: MakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = started(make(num_epochs=4))
    assert "phase: stage 1" in capsys.readouterr().out
    for epoch, players in ((0, STAGE_1), (1, STAGE_1), (2, STAGE_2), (3, STAGE_2)):
        at(trainer, epoch)
        before = weights(trainer)
        terms = trainer.train_step(next(trainer.dataloader_train))["terms"]
        assert moved(before, trainer) == players
        assert {name.split("/")[0] for name in terms} == players
    assert "phase: stage 2" in capsys.readouterr().out


def test_stage_1_never_runs_the_segmenter(make: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = started(make())

    def run(*_: Any, **__: Any) -> None:
        raise AssertionError("the segmenter ran")

    with monkeypatch.context() as patch:
        patch.setattr(trainer.network, "forward", run)
        trainer.train_step(next(trainer.dataloader_train))
        at(trainer, 1)
        with pytest.raises(AssertionError, match="the segmenter ran"):
            trainer.train_step(next(trainer.dataloader_train))


def test_stage_2_shows_the_segmenter_translated_source_and_real_target(
    make: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Poisoned raw source never arrives; the translator is in evaluation mode and gets no gradient."""
    trainer = at(started(make(raw_share=0.0)), 1)
    monkeypatch.setattr(trainer, "augmented", lambda batch: batch)
    shown = []
    network = trainer.network.forward

    def forward(images: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        shown.append(images)
        return network(images, *args, **kwargs)

    def translate(images: torch.Tensor, modality: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        assert not trainer.translator.training
        assert modality.tolist() == [0, 0]
        assert wanted.tolist() == [1, 1]
        return torch.full_like(images, 3.0)

    monkeypatch.setattr(trainer.network, "forward", forward)
    monkeypatch.setattr(trainer, "translate", translate)
    loaded = next(trainer.dataloader_train)
    loaded["data"][0::2] = float("nan")
    terms = trainer.train_step(loaded)["terms"]
    assert len(shown) == 1
    assert (shown[0][0::2] == 3).all()
    assert torch.equal(shown[0][1::2], loaded["data"][1::2])
    assert all(torch.isfinite(value) for value in terms.values())


def test_a_share_of_the_source_stays_as_it_is(make: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = at(started(make(raw_share=0.5)), 1)
    monkeypatch.setattr(trainer, "augmented", lambda batch: batch)
    batch = loaded_batch(trainer)
    batch = batch.select(batch.source_rows).select((0,) * 40)
    shown = trainer.as_segmented(batch, torch.full_like(batch.images, 3.0)).images.flatten(1)
    raw = (shown == batch.images.flatten(1)).all(1)
    assert ((shown == 3).all(1) == ~raw).all()
    assert 5 < raw.sum() < 35


def test_translated_source_keeps_its_labels_and_its_modality(make: MakeTrainer) -> None:
    """Its features are not masked, although it looks like the target."""
    trainer = at(started(make()), 1)
    batch = loaded_batch(trainer)
    outputs = trainer.forward(batch)
    assert torch.equal(outputs.batch.modality, batch.modality)
    assert all(torch.equal(a, b) for a, b in zip(outputs.batch.labels, batch.labels, strict=True))
    assert not torch.allclose(outputs.batch.images[0::2], batch.images[0::2])


# ---- stage 1 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("mode", ["volume", "slices"])
def test_stage_1_terms_are_those_of_the_paper(configuration: str, mode: str, make: MakeTrainer) -> None:
    weights = {"reconstruction_weight": 20.0, "cycle_weight": 10.0}
    trainer = started(make(configuration, style_mode=mode, gan_loss="least_squares", **weights))
    batch = loaded_batch(trainer)
    network = trainer.translator.generator
    torch.nn.init.normal_(network.last.weight)
    outputs = trainer.transfer(batch)
    losses = trainer.translator_objective(batch, outputs)
    x = trainer.translator.shown(batch.images)
    i = batch.modality.repeat_interleave(len(x) // len(batch.images))
    j = 1 - i
    x_ij = network.decode(network.encode(x, i), j, x)
    x_iji = network.decode(network.encode(x_ij, j), i, x_ij)
    expected = {
        "reconstruction": (network.decode(network.encode(x, i), i, x) - x).abs().mean(),
        "cycle": (x_iji - x).abs().mean(),
        "content": (network.encode(x_ij, j) - network.encode(x, i)).abs().mean(),
        "gan": (trainer.image_discriminator(x_ij * outputs.frame, j) - 1).square().mean(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(losses.terms[name], value, msg=name)
    total = 20 * expected["reconstruction"] + 10 * expected["cycle"] + expected["content"] + expected["gan"]
    torch.testing.assert_close(losses.total(), total)
    assert (len(x) > len(batch.images)) == (mode == "slices" and configuration != "2d")


def test_the_image_discriminator_gets_real_images_and_detached_translations(make: MakeTrainer) -> None:
    trainer = started(make(gan_loss="least_squares"))
    batch = loaded_batch(trainer)
    outputs = trainer.transfer(batch)
    losses = trainer.image_discriminator_objective(batch, outputs)
    judge = trainer.image_discriminator
    expected = ((judge(outputs.images * outputs.frame, outputs.modality) - 1) ** 2).mean() + (
        judge(outputs.translated * outputs.frame, outputs.wanted) ** 2
    ).mean()
    torch.testing.assert_close(losses.terms["detect"], expected / 2)
    losses.total().backward()
    assert all(p.grad is None for p in trainer.translator.parameters())
    assert all(p.grad is not None for p in judge.parameters())


def test_translations_leave_what_lies_beyond_the_scan_empty(make: MakeTrainer) -> None:
    trainer = started(make())
    batch = loaded_batch(trainer)
    batch.images[:, :, :10] = 0
    outputs = trainer.transfer(batch)
    assert not outputs.translated[:, :, :10].any()
    assert outputs.translated[:, :, 10:].any()
    there = trainer.translate(batch.images, batch.modality, outputs.wanted)
    assert not there[:, :, :10].any()
    assert there[:, :, 10:].any()


def test_more_than_two_modalities_take_turns(make: MakeTrainer) -> None:
    def third(dataset: dict[str, Any]) -> None:
        block = dataset["crossmod"]
        block["modalities"], block["target"] = ["cine", "lge", "t2"], ["lge", "t2"]
        targets = [case for case in block["cases"].values() if case["modality"] == "lge"]
        for case in targets[::2]:
            case["modality"] = "t2"

    def six(plans: dict[str, Any]) -> None:
        plans["configurations"]["2d"]["batch_size"] = 3

    trainer = make(change_dataset=third, change_plans=six)
    trainer.initialize()
    trainer.current_epoch = 0
    images, modality = torch.randn(6, 1, 48, 48), torch.tensor([0, 1, 2, 0, 1, 2])
    case = next(iter(trainer.block.cases.values()))
    batch = CrossModalBatch(images, (torch.zeros(6, 48, 48),), modality, (case,) * 6, trainer.block)
    seen = []
    for iteration in range(2):
        trainer.iteration = iteration
        outputs = trainer.transfer(batch)
        assert not (outputs.modality == outputs.wanted).any()
        seen.append(outputs.wanted.tolist())
    assert seen == [[1, 2, 0, 1, 2, 0], [2, 0, 1, 2, 0, 1]]
    wanted = []
    trainer.translate = lambda images, modality, into: wanted.append(into.tolist()) or images
    trainer.as_target(images, modality)
    assert sorted(wanted[0]) == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("healthy", "warned"),
    [((1.0, 0.5, 0.3, 0.2), None), ((1.0, 0.001, 0.3, 0.2), "collapsed"), ((1.0, 0.5, 0.99, 0.001), "saturated")],
)
def test_a_collapse_is_warned_of(
    healthy: tuple[float, ...], warned: str | None, make: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make()
    names = ("translator/source_variance", "translator/translated_variance",
             "image_discriminator/fakes_detected", "image_discriminator/misjudged")  # fmt: skip
    trainer.review(dict(zip(names, healthy, strict=True)))
    told = capsys.readouterr().out
    assert ("WARNING" in told) == (warned is not None)
    assert warned is None or warned in told
    trainer.review({"segmenter/sup": 1.0})


# ---- stage 2 ---------------------------------------------------------------------------------------------------


def test_stage_2_terms_are_those_of_the_paper(make: MakeTrainer) -> None:
    trainer = at(started(make()), 1)
    batch = loaded_batch(trainer)
    outputs = trainer.forward(batch)
    losses = trainer.objective(batch, outputs)
    d1, d2 = trainer.bare_network.local_discriminator, trainer.d2
    target = outputs.features[1::2]
    torch.testing.assert_close(losses.terms["local"], fool(d1(target)))
    torch.testing.assert_close(losses.terms["global"], fool(d2(batch.framed(outputs.logits[0].softmax(1))[1::2])))
    total = losses.terms["sup"] + 0.01 * losses.terms["local"] + 0.01 * losses.terms["global"]
    torch.testing.assert_close(losses.total(), total)


def test_the_adversaries_reach_the_features_and_predictions_of_the_target_alone(make: MakeTrainer) -> None:
    trainer = at(started(make()), 1)
    batch = loaded_batch(trainer)
    outputs = trainer.forward(batch)
    for term, through in (("local", outputs.features), ("global", outputs.logits[0])):
        losses = trainer.objective(batch, outputs)
        gradient = torch.autograd.grad(losses.terms[term], through, retain_graph=True)[0]
        assert gradient[1::2].any(), term
        assert not gradient[0::2].any(), term
    losses = trainer.local_discriminator_objective(batch, outputs)
    with torch.no_grad():
        scores = trainer.bare_network.local_discriminator(outputs.features)
    expected = (
        torch.nn.functional.softplus(-scores[0::2]).mean() + torch.nn.functional.softplus(scores[1::2]).mean()
    ) / 2
    torch.testing.assert_close(losses.terms["detect"], expected)


def test_d1_is_never_in_the_segmenters_optimiser_nor_moved_by_its_step(make: MakeTrainer) -> None:
    trainer = at(started(make(weight_decay=0.1)), 1)
    by_name = {player.name: player for player in trainer.players}
    d1 = list(trainer.bare_network.local_discriminator.parameters())
    held = {id(p) for p in by_name["segmenter"].parameters()}
    assert not held & {id(p) for p in d1}
    everything = {id(p) for p in trainer.bare_network.parameters()}
    assert held == everything - {id(p) for p in d1}
    assert {id(p) for p in by_name["local_discriminator"].parameters()} == {id(p) for p in d1}
    trainer.playing = lambda: [by_name["segmenter"]]
    before = [p.detach().clone() for p in d1]
    trainer.train_step(next(trainer.dataloader_train))
    assert all(torch.equal(a, b) and b.grad is None and not b.requires_grad for a, b in zip(before, d1, strict=True))
    trainer.playing = lambda: [by_name["local_discriminator"]]
    by_name["local_discriminator"].forward = lambda batch, outputs: trainer.forward(batch)
    rest = {name: w.clone() for name, w in trainer.bare_network.state_dict().items() if "local_disc" not in name}
    trainer.train_step(next(trainer.dataloader_train))
    assert not any(torch.equal(a, b) for a, b in zip(before, d1, strict=True))
    assert all(torch.equal(w, trainer.bare_network.state_dict()[name]) for name, w in rest.items())


def test_the_segmenter_s_rate_falls_from_the_switch_on_and_its_opponents_do_not(make: MakeTrainer) -> None:
    trainer = started(make(num_epochs=4))
    rates = []
    for epoch in range(4):
        at(trainer, epoch)
        rates.append({p.name: p.optimizer.param_groups[0]["lr"] for p in trainer.players})
    assert {r["translator"] for r in rates} == {2e-4}
    assert {r["local_discriminator"] for r in rates} == {1e-4}
    full = trainer.initial_lr
    assert [r["segmenter"] for r in rates] == pytest.approx([full, full, full, full * 0.5**0.9])


# ---- going on --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("done", [1, 2, 3], ids=["before the switch", "at the switch", "after the switch"])
def test_a_continued_training_takes_the_identical_next_step(done: int, make: MakeTrainer, tmp_path: Path) -> None:
    trainer = started(make(num_epochs=4))
    batch = next(trainer.dataloader_train)
    for epoch in range(done):
        at(trainer, epoch)
        trainer.on_train_epoch_end([trainer.train_step(batch)])
    file = str(tmp_path / "checkpoint.pth")
    trainer.current_epoch = done - 1
    trainer.save_checkpoint(file)
    restored = make(num_epochs=4)
    restored.load_checkpoint(file)
    assert restored.current_epoch == done
    started(restored)
    trainer.current_epoch = done
    trainer.on_train_epoch_start()
    outcomes = []
    for one in (trainer, restored):
        torch.manual_seed(7)
        outcomes.append(one.train_step(batch)["terms"])
    assert outcomes[0].keys() == outcomes[1].keys()
    for name, value in outcomes[0].items():
        assert torch.equal(value, outcomes[1][name]), name
    mine, theirs = weights(trainer), weights(restored)
    assert all(torch.equal(w, theirs[name]) for name, w in mine.items())
    assert all(torch.equal(w, restored.network.state_dict()[name]) for name, w in trainer.network.state_dict().items())


# ---- options ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "players", "terms"),
    [
        ({"local_alignment": False}, STAGE_2 - {"local_discriminator"}, {"sup", "global"}),
        ({"global_alignment": False}, STAGE_2 - {"global_discriminator"}, {"sup", "local"}),
        ({"local_alignment": False, "global_alignment": False}, {"segmenter"}, {"sup"}),
        ({"gan_loss": "least_squares"}, STAGE_2, {"sup", "local", "global"}),
        ({"mask_detached": True}, STAGE_2, {"sup", "local", "global"}),
        ({"feature_side": "decoder"}, STAGE_2, {"sup", "local", "global"}),
        ({"feature_stage": 1, "global_discriminator": "patch"}, STAGE_2, {"sup", "local", "global"}),
    ],
)
def test_ablations_are_configuration(
    settings: dict[str, Any], players: set[str], terms: set[str], make: MakeTrainer
) -> None:
    trainer = at(started(make(**settings)), 1)
    before = weights(trainer)
    found = trainer.train_step(next(trainer.dataloader_train))["terms"]
    assert moved(before, trainer) == players
    assert {name.split("/")[1] for name in found if name.startswith("segmenter/")} == terms
    assert ("local_discriminator" in dict(trainer.bare_network.named_children())) == (
        settings.get("local_alignment", True)
    )


def test_without_alignment_only_annotated_scans_pass_the_network(make: MakeTrainer) -> None:
    trainer = at(started(make(local_alignment=False, global_alignment=False)), 1)
    assert len(trainer.forward(loaded_batch(trainer)).logits[0]) == 2


def test_without_style_transfer_there_is_one_stage_on_raw_source(make: MakeTrainer) -> None:
    trainer = started(make(style_transfer=False))
    assert {player.name for player in trainer.players} == STAGE_2
    assert trainer.phase().startswith("stage 2")
    loaded = next(trainer.dataloader_train)
    outputs = trainer.forward(loaded_batch(trainer, loaded))
    assert torch.equal(outputs.batch.images, loaded["data"])
    before = weights(trainer)
    trainer.train_step(loaded)
    assert moved(before, trainer) == STAGE_2
    trainer.validation_step(next(trainer.dataloader_val))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"stage_1": 1.0}, "above 0 and below 1"),
        ({"stage_1": 0.0}, "above 0 and below 1"),
        ({"num_epochs": 1}, "one per stage"),
        ({"feature_stage": 9}, "feature_stage = 9"),
        ({"feature_side": "decoder", "feature_stage": -1}, "feature_stage = -1"),
        ({"local_discriminator_width": 4}, "at least 8"),
        ({"global_discriminator_width": 0}, "global_discriminator_width = 0"),
        ({"cycle_weight": -1.0}, "cycle_weight = -1.0"),
        ({"style_lr": 0.0}, "style_lr = 0.0"),
        (
            {f"{name}_weight": 0.0 for name in ("reconstruction", "cycle", "content", "gan")},
            "other weights of stage 1",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(settings: dict[str, Any], told: str, make: MakeTrainer) -> None:
    with pytest.raises(CrossmodError, match=told):
        make(**settings)


# ---- what comes of it ------------------------------------------------------------------------------------------


def test_a_reloaded_network_masks_the_target_by_its_modality_channel(make: MakeTrainer, tmp_path: Path) -> None:
    trainer = at(started(make()), 1)
    trainer.train_step(next(trainer.dataloader_train))
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    saved = torch.load(tmp_path / "checkpoint.pth", weights_only=False)["network_weights"]
    assert any(name.startswith("local_discriminator.") for name in saved)
    assert not any("translator" in name or "d2" in name for name in saved)
    plans = json.loads((Path(trainer.output_folder_base) / "plans.json").read_text())
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    network = type(trainer).build_network_architecture(manager, manager.get_configuration("2d"), 2, 4, False)
    network.load_state_dict(saved, strict=True)
    network.eval()
    image = torch.randn(1, 1, 48, 48)
    source, target = (network(torch.cat((image, torch.full_like(image, value)), 1)) for value in (1.0, 2.0))
    assert not torch.allclose(source, target)
    with torch.no_grad():
        for parameter in network.local_discriminator.parameters():
            parameter.zero_()
    source_again, plain = (network(torch.cat((image, torch.full_like(image, value)), 1)) for value in (1.0, 2.0))
    assert torch.equal(source, source_again)
    assert torch.equal(source, plain)


def test_validation_shows_translated_source_with_its_own_modality(
    make: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = started(make())
    monkeypatch.setattr(trainer, "translate", lambda images, modality, wanted: torch.full_like(images, 3.0))
    batch = CrossModalBatch.from_loader(next(trainer.dataloader_val), trainer.block, trainer.validated, trainer.device)
    shown = trainer.validation_images(batch)
    assert (shown[:, :-1] == 3).all()
    assert torch.equal(shown[:, -1], batch.images[:, -1])


def test_validation_without_any_source_scan_translates_nothing(make: MakeTrainer) -> None:
    trainer = started(make())
    batch = loaded_batch(trainer).target
    batch = replace(batch, images=torch.cat((batch.images, torch.full_like(batch.images, 2.0)), 1))
    assert torch.equal(trainer.validation_images(batch), batch.images)


def test_pictures_of_both_directions_and_of_the_mask(make: MakeTrainer) -> None:
    trainer = started(make(picture_every=1))
    for epoch in range(2):
        at(trainer, epoch)
        trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train))])
    folder = Path(trainer.output_folder)
    translations = sorted(file.name for file in (folder / "translations").iterdir())
    assert translations == [
        f"epoch_{epoch:04d}_{direction}.png" for epoch in (0, 1) for direction in ("to_source", "to_target")
    ]
    assert [file.name for file in (folder / "local_feature_mask").iterdir()] == ["epoch_0001.png"]
    assert (folder / "local_feature_mask" / "epoch_0001.png").stat().st_size > 5000


@pytest.mark.parametrize("game", ["bce", "least_squares"])
def test_the_mask_that_is_drawn_is_the_one_that_the_network_applies(
    game: str, make: MakeTrainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trainer = at(started(make(gan_loss=game, style_transfer=False)), 1)
    batch, masks = loaded_batch(trainer), []
    monkeypatch.setattr(
        "nnunet_crossmod.pictures.feature_mask_grid.feature_mask_grid", lambda *given: masks.append(given[1])
    )
    with torch.no_grad():
        trainer.draw(batch, tmp_path)
        network, target = trainer.bare_network, batch.target
        features = network(target.images, target.modality, features=True).tapped
        masked, _ = network.masked(features, target.modality)
    torch.testing.assert_close(masked, features * (1 + masks[0][:, None]))


def test_volumes_are_drawn_and_no_random_number_is_taken(make: MakeTrainer, tmp_path: Path) -> None:
    trainer = at(started(make("3d_fullres")), 1)
    batch = replace(loaded_batch(trainer))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    with torch.no_grad():
        trainer.draw(batch, tmp_path)
    assert torch.equal(torch.rand(1), expected)
    assert len(list(tmp_path.rglob("*.png"))) == 3


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_scans_are_translated_by_the_command_with_their_own_geometry(
    configuration: str, make: MakeTrainer, nnunet: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = started(make(configuration, style_mode="slices"))
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    raw = next(nnunet["nnUNet_raw"].glob("Dataset901_*"))
    scan = sorted((raw / "imagesTr").glob("*cine_0000.nii.gz"))[0]
    (tmp_path / "scans").mkdir()
    image = sitk.ReadImage(str(scan))
    image.SetOrigin((11.0, -7.0, 3.0))
    sitk.WriteImage(image, str(tmp_path / "scans" / scan.name))
    words = ["translate", "-d", "901", "-c", configuration, "-tr", "GLUATrainer", "-p", "nnUNetPlans_tiny"]
    words += ["-f", "0", "-device", "cpu", "-i", str(tmp_path / "scans"), "-o", str(tmp_path / "out")]
    assert main(words) == 0, capsys.readouterr().err
    translated = sitk.ReadImage(str(tmp_path / "out" / scan.name))
    assert translated.GetSize() == image.GetSize()
    for geometry in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(translated, geometry)(), getattr(image, geometry)())
    values = sitk.GetArrayFromImage(translated)
    assert np.isfinite(values).all()
    assert values.std() > 0


def test_the_command_translates_from_source_to_target_as_the_trainer_does(make: MakeTrainer) -> None:
    from nnunet_crossmod.inference.trained_model import open_model
    from nnunet_crossmod.inference.translation import load_translation

    trainer = started(make())
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    translation = load_translation(open_model(Path(trainer.output_folder).parent), torch.device("cpu"))
    images = np.random.default_rng(0).normal(size=(1, 3, *trainer.configuration_manager.patch_size)).astype(np.float32)
    slices = torch.from_numpy(images).movedim(1, 0)
    cine, lge = torch.zeros(3, dtype=torch.long), torch.ones(3, dtype=torch.long)
    for modality, wanted, of, into in ((0, 1, cine, lge), (1, 0, lge, cine)):
        with torch.no_grad():
            expected = trainer.translate(slices, of, into).movedim(0, 1)
        found = translation.translate(images, modality, wanted)
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)


def test_a_model_without_a_translator_does_not_translate(
    make: MakeTrainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = started(make(style_transfer=False))
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    words = ["translate", "-d", "901", "-c", "2d", "-tr", "GLUATrainer", "-p", "nnUNetPlans_tiny", "-device", "cpu"]
    assert main([*words, "-i", str(tmp_path), "-o", str(tmp_path / "out")]) == 1
    assert "holds no generator" in capsys.readouterr().err
