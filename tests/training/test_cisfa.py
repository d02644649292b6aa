"""CISFA's own wiring: order of the players, what each moves, weights per location, ablations, guards, translation."""

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
from nnunet_crossmod.losses import patch_nce
from nnunet_crossmod.nn import to_unit
from nnunet_crossmod.training import collapse_warnings, foreground_variance

MakeTrainer = Callable[..., Any]
SMALL = {"generator_width": 4, "generator_blocks": 2, "discriminator_width": 4}
CONFIGURATIONS = pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])


@pytest.fixture
def make(make_trainer: MakeTrainer) -> MakeTrainer:
    return lambda configuration="2d", **settings: make_trainer("CISFATrainer", configuration, **{**SMALL, **settings})


def batch_of(trainer: Any) -> CrossModalBatch:
    return CrossModalBatch.from_loader(next(trainer.dataloader_train), trainer.block, trainer.seen, trainer.device)


def weights(player: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in player.parameters()]


def test_no_discriminator_tells_scans_by_how_much_of_the_patch_they_fill(make: MakeTrainer) -> None:
    """Source scans that end early and target scans that begin late are judged where both show something."""
    trainer = started(make())
    batch = batch_of(trainer)
    images = torch.ones_like(batch.images)
    images[batch.source_rows, :, -9:] = 0
    images[batch.target_rows, :, :5] = 0
    batch = replace(batch, images=images)
    frame = batch.common_frame
    assert frame[:, :, 5:-9].all()
    assert not frame[:, :, :5].any()
    assert not frame[:, :, -9:].any()
    seen: list[torch.Tensor] = []
    judge = trainer.image_discriminator.forward
    trainer.image_discriminator.forward = lambda x: seen.append(x) or judge(x)
    torch.nn.init.normal_(trainer.translator.generator.up[-1].weight, std=0.5)
    outputs = trainer.translation(batch, None)
    trainer.generator_objective(batch, outputs)
    trainer.image_discriminator_objective(batch, outputs)
    assert len(seen) == 3
    for image in seen:
        assert not image[:, :, :5].any()
        assert not image[:, :, -9:].any()
        assert image[:, :, 5:-9].any()
    assert not outputs.translated[:, :, -9:].any(), "tissue beyond the edge of a scan"
    assert not trainer.as_target(images[batch.source_rows])[:, :, -9:].any()


def test_scans_without_a_partner_are_judged_whole(make: MakeTrainer) -> None:
    trainer = started(make())
    batch = batch_of(trainer)
    assert torch.equal(batch.source.common_frame, (batch.source.images != 0).any(1, keepdim=True))


def test_an_empty_slice_teaches_the_generator_nothing(make: MakeTrainer) -> None:
    """Behind all those instance norms its gradient would be infinite."""
    trainer = started(make())
    batch = batch_of(trainer)
    torch.nn.init.normal_(trainer.translator.generator.up[-1].weight, std=0.02)
    flat = batch.images.clone()
    flat[batch.source_rows] = 0.3
    generator = list(trainer.translator.parameters())

    def taught(images: torch.Tensor) -> bool:
        outputs = trainer.translation(replace(batch, images=images), None)
        total = outputs.translated.square().sum() + trainer.patch_contrast(outputs)
        return any(g is not None and bool(g.any()) for g in torch.autograd.grad(total, generator, allow_unused=True))

    assert taught(batch.images)
    assert not taught(flat)


# ---- players ---------------------------------------------------------------------------------------------------


@CONFIGURATIONS
def test_players_step_in_the_papers_order_and_each_moves_only_itself(configuration: str, make: MakeTrainer) -> None:
    trainer = started(make(configuration))
    order: list[str] = []
    for player in trainer.players:
        step = player.step

        def spy(total: Any, scaler: Any, player: Any = player, step: Any = step) -> torch.Tensor:
            before = {p.name: weights(p) for p in trainer.players}
            lost: torch.Tensor = step(total, scaler)
            moved = [
                p.name
                for p in trainer.players
                if any(not torch.equal(a, b) for a, b in zip(before[p.name], weights(p), strict=True))
            ]
            assert moved == [player.name]
            order.append(player.name)
            return lost

        player.step = spy
    trainer.train_step(next(trainer.dataloader_train))
    assert order == ["generator", "segmenter", "image_discriminator", "mask_discriminator"]


@CONFIGURATIONS
def test_later_players_see_what_earlier_ones_make_after_their_step(configuration: str, make: MakeTrainer) -> None:
    trainer = started(make(configuration))
    seen: dict[str, Any] = {}
    for player in trainer.players:
        objective = player.objective

        def spy(batch: Any, outputs: Any, player: Any = player, objective: Any = objective) -> Any:
            seen[player.name] = outputs
            if player.name != "generator":
                assert torch.equal(outputs.translated, trainer.translator.generator(outputs.source))
                assert not outputs.translated.requires_grad
            return objective(batch, outputs)

        player.objective = spy
    trainer.train_step(next(trainer.dataloader_train))
    assert seen["generator"].translated.requires_grad
    assert not torch.equal(seen["generator"].translated, seen["segmenter"].translated)
    judged = seen["mask_discriminator"]
    again = trainer.network(judged.batch.images, judged.batch.modality, features=True).logits[0].softmax(1)
    torch.testing.assert_close(judged.probabilities, judged.batch.framed(again))


def test_projection_heads_are_trained(make: MakeTrainer) -> None:
    trainer = started(make())
    heads = [weights(trainer.patch_heads), weights(trainer.heads["global"])]
    trainer.train_step(next(trainer.dataloader_train))
    for before, module in zip(heads, (trainer.patch_heads, trainer.heads["global"]), strict=True):
        for old, parameter in zip(before, module.parameters(), strict=True):
            assert not torch.equal(old, parameter)


def test_optimisers_are_adam_at_constant_rate(make: MakeTrainer) -> None:
    trainer = started(make(adam_betas=[0.5, 0.999], lr_schedule="constant"))
    trainer.current_epoch = 1
    trainer.on_train_epoch_start()
    for player in trainer.players:
        assert isinstance(player.optimizer, torch.optim.Adam | torch.optim.AdamW)
        assert player.optimizer.param_groups[0]["betas"] == (0.5, 0.999)
        assert player.optimizer.param_groups[0]["lr"] == (trainer.initial_lr if player.name == "segmenter" else 2e-4)


@pytest.mark.parametrize(
    ("settings", "gone", "players"),
    [
        ({"pcl_weight": 0.0}, {"generator/pcl"}, 4),
        ({"gcl_weight": 0.0}, {"segmenter/gcl"}, 4),
        ({"fool_weight": 0.0}, {"segmenter/fool", "mask_discriminator/detect"}, 3),
        ({"foreground_weight": 1.0}, set(), 4),
        ({"gcl_mode": "sequential"}, {"segmenter/gcl"}, 5),
    ],
)
def test_ablations_are_settings(settings: dict[str, Any], gone: set[str], players: int, make: MakeTrainer) -> None:
    trainer = started(make(**settings))
    terms = trainer.train_step(next(trainer.dataloader_train))["terms"]
    everything = {
        "generator/gan", "generator/pcl", "segmenter/sup", "segmenter/gcl", "segmenter/fool",
        "image_discriminator/detect", "mask_discriminator/detect",
    }  # fmt: skip
    assert everything - set(terms) == gone
    assert all(torch.isfinite(value) for value in terms.values())
    assert len(trainer.players) == players
    assert all(p.grad is not None for player in trainer.players[:1] for p in player.parameters())


def test_sequentially_the_encoder_steps_alone_before_the_segmenter(make: MakeTrainer, tmp_path: Path) -> None:
    trainer = started(make(gcl_mode="sequential"))
    assert [p.name for p in trainer.players][:3] == ["generator", "encoder", "segmenter"]
    encoder, segmenter = trainer.players[1:3]
    shared, decoder = weights(trainer.network.encoder), weights(trainer.network.decoder.stages)
    stepped: list[bool] = []
    for player in (encoder, segmenter):
        step = player.step

        def spy(total: Any, scaler: Any, step: Any = step) -> torch.Tensor:
            lost: torch.Tensor = step(total, scaler)
            now = (weights(trainer.network.encoder), weights(trainer.network.decoder.stages))
            stepped.extend(
                any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
                for before, after in zip((shared, decoder), now, strict=True)
            )
            return lost

        player.step = spy
    trainer.train_step(next(trainer.dataloader_train))
    assert stepped == [True, False, True, True]
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    restored = make(gcl_mode="sequential")
    restored.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    for mine, theirs in zip(trainer.players, restored.players, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(weights(mine), weights(theirs), strict=True)), mine.name


@pytest.mark.parametrize("settings", [{"generator_blocks": 1}, {"pcl_temperature": 0.0}, {"gan_weight": -1.0}])
def test_senseless_options_are_refused(settings: dict[str, Any], make: MakeTrainer) -> None:
    with pytest.raises(CrossmodError, match=next(iter(settings))):
        make(**settings)


# ---- L_pcl -----------------------------------------------------------------------------------------------------


@CONFIGURATIONS
def test_patch_contrast_compares_the_same_places_with_the_labels_weights(
    configuration: str, make: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a loop over layers, images and places that reads features and labels one by one."""
    trainer = started(make(configuration, pcl_locations=20))
    outputs = trainer.translation(batch_of(trainer), None)
    foreground = torch.zeros_like(outputs.foreground)
    foreground[..., : foreground.shape[-1] // 2] = True
    outputs = outputs._replace(foreground=foreground)
    drawn: list[torch.Tensor] = []
    randperm = torch.randperm

    def remember(*args: Any, **kwargs: Any) -> torch.Tensor:
        drawn.append(randperm(*args, **kwargs))
        return drawn[-1]

    with monkeypatch.context() as patch:
        patch.setattr(torch, "randperm", remember)
        found = trainer.patch_contrast(outputs)
    queries = trainer.translator.generator.encode(outputs.translated)
    layers = []
    for head, query, key, order in zip(trainer.patch_heads, queries, outputs.features, drawn, strict=True):
        size, places = query.shape[2:], order[:20].tolist()
        images, weight = [], []
        for n in range(len(query)):
            for place in places:
                at = np.unravel_index(place, tuple(size))
                images.append([head(maps[(n, slice(None), *at)]) for maps in (query, key)])
                ratio = [full / small for full, small in zip(foreground.shape[1:], size, strict=True)]
                nearest = tuple(int((i + 0.5) * r) for i, r in zip(at, ratio, strict=True))
                weight.append(2.0 if foreground[(n, *nearest)] else 1.0)
        pair = [torch.stack([image[i] for image in images]).unflatten(0, (len(query), -1)) for i in range(2)]
        pair = [torch.nn.functional.normalize(described, dim=2) for described in pair]
        layers.append(patch_nce(*pair, 0.2, torch.tensor(weight).view(len(query), -1)))
        assert set(weight) == {1.0, 2.0}
    torch.testing.assert_close(found, torch.stack(layers).mean(), rtol=1e-4, atol=1e-5)


def test_keys_are_detached(make: MakeTrainer) -> None:
    trainer = started(make())
    outputs = trainer.translation(batch_of(trainer), None)
    features = [feature.detach().requires_grad_() for feature in outputs.features]
    trainer.patch_contrast(outputs._replace(features=features)).backward()
    assert all(feature.grad is None for feature in features)
    assert all(p.grad is not None and p.grad.any() for p in trainer.patch_heads.parameters() if p.ndim > 1)


# ---- what the segmenter sees -----------------------------------------------------------------------------------


@CONFIGURATIONS
@pytest.mark.parametrize("mode", ["volume", "slices"])
def test_translated_images_keep_their_labels_and_their_place(configuration: str, mode: str, make: MakeTrainer) -> None:
    """A generator that changes nothing must leave every image where it was."""
    trainer = started(make(configuration, generator_mode=mode))
    trainer.translator.generator.translate_and_encode = lambda x: (x, [x])
    trainer.augmented = lambda batch: batch
    batch = batch_of(trainer)
    outputs = trainer.translation(batch, None)
    axes = 2 if mode == "slices" else batch.images.ndim - 2
    assert outputs.source.ndim == 2 + axes
    assert outputs.foreground.shape == (len(outputs.source), *outputs.source.shape[2:])
    seen = trainer.as_segmented(batch, trainer.translator.restored(outputs.translated, batch.images.shape[2]))
    torch.testing.assert_close(seen.images, batch.images, rtol=1e-4, atol=1e-4)
    assert seen.modality.tolist() == [1] * 4
    assert all(torch.equal(a, b) for a, b in zip(seen.labels, batch.labels, strict=True))
    torch.testing.assert_close(outputs.source.sum(), to_unit(batch.images[batch.source_rows]).sum())


@CONFIGURATIONS
def test_slice_by_slice_it_trains_and_tells_its_flicker(configuration: str, make: MakeTrainer) -> None:
    trainer = started(make(configuration, generator_mode="slices"))
    terms = trainer.train_step(next(trainer.dataloader_train))["terms"]
    assert all(torch.isfinite(value) for value in terms.values())
    assert ("generator/flicker" in terms) == (configuration == "3d_fullres")


def test_the_generator_learns_no_intensity_augmentation_as_style(make: MakeTrainer, make_trainer: MakeTrainer) -> None:
    """The loader's images keep the range of the scans; the segmenter's do not."""
    trainer = started(make(mirror=True))
    kinds = [type(t).__name__ for t in trainer.dataloader_train.data_loader.transforms.transforms]
    assert "SpatialTransform" in kinds
    assert "MirrorTransform" in kinds
    assert "DownsampleSegForDSTransform" in kinds
    assert "RandomTransform" not in kinds
    ordinary = started(make_trainer("SourceOnlyTrainer", augmentation="nnunet"))
    assert "RandomTransform" in [type(t).__name__ for t in ordinary.dataloader_train.data_loader.transforms.transforms]
    batch = batch_of(trainer)
    outputs = trainer.translation(batch, None)
    shown = [trainer.shown_to_segmenter(batch, outputs).batch.images for _ in range(6)]
    assert any(not torch.equal(one[batch.target_rows], batch.images[batch.target_rows]) for one in shown)
    assert any(not torch.equal(one[batch.source_rows], shown[0][batch.source_rows]) for one in shown)


def test_gin_waits_for_the_generator(make: MakeTrainer) -> None:
    trainer = started(make(gin="source"))
    seen = []
    generator, segmenter = trainer.players[:2]
    translate, segment = generator.forward, segmenter.forward
    generator.forward = lambda batch, outputs: seen.append(batch.images) or translate(batch, outputs)
    segmenter.forward = lambda batch, outputs: (
        seen.append(segment(batch, outputs).batch.images) or segment(batch, outputs)
    )
    loaded = next(trainer.dataloader_train)
    trainer.train_step(loaded)
    assert torch.equal(seen[0], loaded["data"])
    assert not torch.equal(seen[1], loaded["data"])


@CONFIGURATIONS
def test_online_validation_shows_translations_of_the_source(configuration: str, make: MakeTrainer) -> None:
    trainer = started(make(configuration))
    loaded = next(trainer.dataloader_val)
    batch = CrossModalBatch.from_loader(loaded, trainer.block, trainer.validated, trainer.device)
    with torch.no_grad():
        shown = trainer.validation_images(batch)
        expected = trainer.as_target(batch.images[:, :-1])
    torch.testing.assert_close(shown[:, :-1], expected)
    assert set(batch.images[:, -1].unique().tolist()) <= {0.0, 1.0}
    assert set(shown[:, -1].unique().tolist()) <= {0.0, 2.0}
    assert np.isfinite(trainer.validation_step(loaded)["loss"])


def test_without_any_foreground_nothing_is_nan(make: MakeTrainer) -> None:
    trainer = started(make())
    loaded = next(trainer.dataloader_train)
    loaded["target"] = [torch.zeros_like(level) for level in loaded["target"]]
    terms = trainer.train_step(loaded)["terms"]
    assert all(torch.isfinite(value) for value in terms.values())
    assert all(torch.isfinite(p).all() for p in trainer.network.parameters())


# ---- guards ----------------------------------------------------------------------------------------------------


def test_foreground_variance_is_that_of_the_labelled_voxels() -> None:
    images, foreground = torch.randn(3, 2, 4, 5), torch.rand(3, 4, 5) > 0.5
    chosen = torch.cat([images[:, c][foreground] for c in range(2)])
    torch.testing.assert_close(foreground_variance(images, foreground), chosen.var(unbiased=False))
    assert foreground_variance(images, torch.zeros(3, 4, 5).bool()) == 0


def test_warnings_state_the_numbers() -> None:
    assert collapse_warnings(0.5, 0.3, 0.4, 0.2, tie="pcl_weight") == []
    assert collapse_warnings(0.0, 0.0, 0.4, 0.2, tie="pcl_weight") == []
    (collapsed,) = collapse_warnings(0.5, 0.001, 0.4, 0.2, tie="pcl_weight")
    assert "0.001, 0.2 % of the source's 0.5" in collapsed
    (saturated,) = collapse_warnings(0.5, 0.3, 0.99, 0.001, tie="pcl_weight")
    assert "0.001" in saturated
    assert "0.99" in saturated


def test_a_collapsed_generator_is_told_and_a_healthy_one_is_not(
    make: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = started(make())
    trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train)) for _ in range(3)])
    assert "WARNING" not in capsys.readouterr().out
    with torch.no_grad():
        trainer.translator.generator.up[-1].bias.fill_(20)
    trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train)) for _ in range(3)])
    assert "WARNING: the generator has collapsed" in capsys.readouterr().out


@pytest.mark.parametrize(("player", "term"), [("generator", "gan"), ("mask_discriminator", "detect")])
def test_a_nan_names_player_and_term_and_keeps_the_checkpoint(player: str, term: str, make: MakeTrainer) -> None:
    trainer = started(make(save_every=1))
    outputs = [trainer.train_step(next(trainer.dataloader_train))]
    file = Path(trainer.output_folder) / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(file))
    before = file.read_bytes()
    outputs[0]["terms"][f"{player}/{term}"] = torch.tensor(torch.nan)
    with pytest.raises(CrossmodError, match=f"term '{term}' of player '{player}' is nan"):
        trainer.on_train_epoch_end(outputs)
    assert file.read_bytes() == before


# ---- pictures and translation ------------------------------------------------------------------------------------


@CONFIGURATIONS
def test_translations_are_drawn(configuration: str, make: MakeTrainer) -> None:
    trainer = started(make(configuration, picture_every=1))
    trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train))])
    assert (Path(trainer.output_folder) / "translations" / "epoch_0000.png").stat().st_size > 5000


@CONFIGURATIONS
def test_scans_are_translated_with_their_own_geometry(
    configuration: str, make: MakeTrainer, nnunet: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = started(make(configuration))
    trainer.train_step(next(trainer.dataloader_train))
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    raw = next(nnunet["nnUNet_raw"].glob("Dataset901_*"))
    scans = sorted((raw / "imagesTr").glob("*cine_000?.nii.gz"))[:4]
    (tmp_path / "scans").mkdir()
    for scan in scans:
        image = sitk.ReadImage(str(scan))
        image.SetOrigin((11.0, -7.0, 3.0))
        image = sitk.ConstantPad(image, (3, 5, 0), (2, 0, 1), 0)
        sitk.WriteImage(image, str(tmp_path / "scans" / scan.name))
    words = ["translate", "-d", "901", "-c", configuration, "-tr", "CISFATrainer", "-p", "nnUNetPlans_tiny"]
    words += ["-f", "0", "-device", "cpu", "-i", str(tmp_path / "scans"), "-o", str(tmp_path / "out")]
    assert main(words) == 0
    assert "scans translated: 2; slices differ" in capsys.readouterr().out
    written = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in written] == [scan.name for scan in scans if scan.name.endswith("_0000.nii.gz")]
    for path in written:
        source, translated = sitk.ReadImage(str(tmp_path / "scans" / path.name)), sitk.ReadImage(str(path))
        assert translated.GetSize() == source.GetSize()
        np.testing.assert_allclose(translated.GetOrigin(), source.GetOrigin())
        np.testing.assert_allclose(translated.GetSpacing(), source.GetSpacing())
        np.testing.assert_allclose(translated.GetDirection(), source.GetDirection())
        values, scan = sitk.GetArrayFromImage(translated), sitk.GetArrayFromImage(source)
        assert not values[:, :, :3].any()
        assert not values[-1].any()
        assert values[:-1, 5:, 3:-2].std() > 0
        assert np.isfinite(values).all()
        assert not np.allclose(values, scan)
    assert main(words) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0


def test_the_command_translates_as_the_trainer_does(make: MakeTrainer) -> None:
    from nnunet_crossmod.inference.trained_model import open_model
    from nnunet_crossmod.inference.translation import load_translation

    trainer = started(make())
    trainer.train_step(next(trainer.dataloader_train))
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    translation = load_translation(open_model(Path(trainer.output_folder).parent), torch.device("cpu"))
    patch = trainer.configuration_manager.patch_size
    images = np.random.default_rng(0).normal(size=(1, 3, *patch)).astype(np.float32)
    found = translation.translate(images, 0, 1)
    with torch.no_grad():
        expected = trainer.as_target(torch.from_numpy(images).movedim(1, 0)).movedim(0, 1)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"-tr": "AICLTrainer"}, "has no generator"),
        ({"-chk": "checkpoint_best.pth"}, "choose another with -chk"),
        ({"-m": "lge"}, "no source modality"),
        ({"-i": "nowhere"}, "does not exist"),
    ],
)
def test_a_wrong_call_ends_in_one_line(
    change: dict[str, str], says: str, make: MakeTrainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = started(make())
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    if "-tr" in change:
        folder = Path(trainer.output_folder).parent
        folder.rename(folder.with_name(folder.name.replace("CISFATrainer", change["-tr"])))
    options = {"-d": "901", "-c": "2d", "-tr": "CISFATrainer", "-p": "nnUNetPlans_tiny", "-device": "cpu"}
    options |= {"-i": str(tmp_path), "-o": str(tmp_path / "out"), **change}
    assert main(["translate", *[word for pair in options.items() for word in pair]]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert says in error
    assert not (tmp_path / "out").exists()


def test_the_cpu_preset_knows_the_trainer(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["configure", "-d", "901", "--preset", "cpu", "-tr", "CISFATrainer", "--set", "generator_blocks=3"]
    assert main([*words, "--name", "nnUNetPlans_cisfa", "--overwrite"]) == 0
    file = dataset / "nnUNetPlans_cisfa.json"
    settings = json.loads(file.read_text())["crossmod"]
    file.unlink()
    assert settings["generator_width"] == 16
    assert settings["generator_blocks"] == 3
    assert settings["num_epochs"] == 20
