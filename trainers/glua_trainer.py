"""GLUA: style transfer, then global-local union alignment (Su et al., "Mind the Gap")."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_crossmod.data import CrossModalBatch
from nnunet_crossmod.losses import Game, detect, detection_accuracy, fool, signed_decision
from nnunet_crossmod.nn import (
    AdaINAutoEncoder,
    DiscriminatorDesign,
    DomainImageDiscriminator,
    FeatureSide,
    ModalityUNet,
    StyleTranslator,
    build_aligned_unet,
    translator_plan,
)
from nnunet_crossmod.training import CollapseTerms, Losses, Player, TranslatingTrainer, TranslationMode
from nnunet_crossmod.training.hyperparameters import Bounds, Count, Index, Positive, Weight
from nnunet_crossmod.training.translating import where_it_shows_something


class Translations(NamedTuple):
    """Stage 1, −1 … 1: images x_i of modality i, their reconstructions x_ii, their translations x_ij as the modality j
    wanted and back again x_iji; contents of x_i and x_ij; the frame (n, 1, *s) within which they are judged. Slices,
    where the translator works slice by slice."""

    images: Tensor
    modality: Tensor
    wanted: Tensor
    reconstructed: Tensor
    translated: Tensor
    cycled: Tensor
    content: Tensor
    translated_content: Tensor
    frame: Tensor


class Segmentation(NamedTuple):
    """Stage 2: ``batch`` as the segmenter sees it, ``logits`` of all levels; f before the mask, D1(f), where it is."""

    batch: CrossModalBatch
    logits: list[Tensor]
    features: Tensor | None = None
    decisions: Tensor | None = None


class GLUATrainer(TranslatingTrainer):
    """Stage 1: an auto-encoder with AdaIN learns to show scans of one modality as another. Stage 2: the segmenter
    learns from source scans, but for ``raw_share`` of them translated, while D1 aligns the features and D2 the
    predictions of the real target with theirs.

    Stage 1: reconstruction_weight · l_rec + cycle_weight · l_cyc + content_weight · l_cont + gan_weight · l_adv.
    Stage 2: l_seg + local_weight · l_D1 + global_weight · l_D2, where target features f are raised by the local feature
    mask to f + f · tanh |D1(f)|, at inference as well.

    Differs from the paper: nnU-Net's segmentation loss, momentum and schedule; the feature is the U-Net's bottleneck.
    """

    weight_decay = 5e-4
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cpu": {"stage_1": 0.5, "style_width": 16, "image_discriminator_width": 16, "local_discriminator_width": 64},
        "paper": {
            "raw_share": 0.0,
            "optimizer_name": "sgd",
            "weight_decay": 5e-4,
            "reconstruction_weight": 20.0,
            "cycle_weight": 20.0,
            "local_weight": 0.01,
            "global_weight": 0.01,
        },
    }
    collapse_terms = CollapseTerms(
        "translator", "image_discriminator/fakes_detected", "image_discriminator/misjudged", "cycle_weight"
    )

    translator: StyleTranslator

    style_transfer: bool = True
    stage_1: Annotated[float, Bounds(0, 1, above=True, below=True)] = 0.2
    """Share of the training that is stage 1, rounded to whole epochs; each stage has at least one. There is no stage 1
    where ``translator_checkpoint`` names the translator."""
    style_width: Count = 64
    style_blocks: Count = 4
    style_mode: TranslationMode = "volume"
    style_lr: Positive = 2e-4
    style_weight_decay: Weight = 1e-4
    image_discriminator_width: Count = 64
    reconstruction_weight: Weight = 1.0
    """20 in the paper, for a translator that must first learn to draw; it pins one that begins as identity there."""
    cycle_weight: Weight = 1.0
    """20 in the paper, likewise."""
    content_weight: Weight = 1.0
    gan_weight: Weight = 1.0
    gan_loss: Game = "bce"
    """The game of all discriminators."""
    local_alignment: bool = True
    local_weight: Weight = 0.01
    local_discriminator_width: Annotated[int, Bounds(8)] = 256
    feature_side: FeatureSide = "encoder"
    feature_stage: Index | None = None
    """Of the features that D1 sees; ``null`` is the encoder's bottleneck, or the decoder's full resolution."""
    mask_detached: bool = False
    global_alignment: bool = True
    global_weight: Weight = 0.01
    global_discriminator: DiscriminatorDesign = "strided"
    global_discriminator_width: Count | None = None
    """Channels of the first layer; ``null`` is twice the network's, at most 64."""
    discriminator_lr: Positive = 1e-4

    def check_plan(self, planned: dict[str, Any]) -> None:
        stages = planned["architecture"]["arch_kwargs"]["n_stages"] - (self.feature_side == "decoder")
        self.check_option("feature_stage", (self.feature_stage or 0) < stages, f"0 … {stages - 1}, or null")
        self.check_option("num_epochs", self.num_epochs > 1 or not self.has_stage_1, "at least 2, one per stage")
        total = self.reconstruction_weight + self.cycle_weight + self.content_weight + self.gan_weight
        self.check_option("reconstruction_weight", total > 0, "above 0 where the other weights of stage 1 are 0")

    @property
    def translates(self) -> bool:
        return self.style_transfer

    @property
    def has_stage_1(self) -> bool:
        """Whether a translator is trained: there may be none, or one that was trained before."""
        return self.style_transfer and self.translator_checkpoint is None

    @property
    def stage_2(self) -> int:
        """The epoch in which stage 2 begins."""
        if not self.has_stage_1:
            return 0
        return min(max(1, round(self.stage_1 * self.num_epochs)), self.num_epochs - 1)

    def phase(self) -> str:
        stage_1 = int(self.current_epoch) < self.stage_2
        return "stage 1, style transfer" if stage_1 else "stage 2, segmentation and alignment"

    @classmethod
    def extend_network(
        cls, build: Callable[[], ModalityUNet], options: Mapping[str, Any], configuration: Any
    ) -> nn.Module:
        if not options["local_alignment"]:
            return build()
        tap = (options["feature_side"], options["feature_stage"], options["local_discriminator_width"])
        planned = (configuration.patch_size, configuration.pool_op_kernel_sizes, options["target_modalities"])
        detached, game = options["mask_detached"], options["gan_loss"]
        return build_aligned_unet(build(), *planned, *tap, detached=detached, game=game)

    @classmethod
    def build_translator(cls, plans: Any, configuration: Any, channels: int) -> StyleTranslator:
        """The auto-encoder for images of ``channels`` channels; its down-convolutions stride as planned."""
        options = plans.plans["crossmod"]
        slicewise, size, strides = translator_plan(
            configuration.patch_size, configuration.pool_op_kernel_sizes, options["style_mode"]
        )
        shape = (len(options["modalities"]), options["style_width"], options["style_blocks"])
        return StyleTranslator(AdaINAutoEncoder(channels, size, *shape, strides), slicewise)

    def build_players(self, segmenter: Player) -> list[Player]:
        players = [*(self.players_of_stage_1() if self.style_transfer else []), segmenter.joins(self.stage_2)]
        game: dict[str, Any] = {"lr": self.discriminator_lr, "first_epoch": self.stage_2, "constant": True}
        if self.local_alignment:
            d1 = self.bare_network.local_discriminator
            players.append(self.opponent("local_discriminator", d1, self.local_discriminator_objective, **game))
        if self.global_alignment:
            self.d2 = self.prediction_discriminator(self.global_discriminator, self.global_discriminator_width)
            players.append(self.opponent("global_discriminator", self.d2, self.global_discriminator_objective, **game))
        return players

    def players_of_stage_1(self) -> list[Player]:
        channels, size = self.num_input_channels - 1, list(self.configuration_manager.patch_size)
        self.translator = self.build_translator(self.plans_manager, self.configuration_manager, channels)
        translator = nn.ModuleDict({"translator": self.translator})
        judge = self.image_discriminator = DomainImageDiscriminator(
            channels, size[self.translator.slicewise :], len(self.block.modalities), self.image_discriminator_width
        )
        self.target_indices = torch.tensor([*map(self.block.modalities.index, self.block.target)], device=self.device)
        adam: dict[str, Any] = {"lr": self.style_lr, "betas": (0.5, 0.999), "weight_decay": self.style_weight_decay}
        adam |= {"constant": True, "last_epoch": self.stage_2 - 1}
        return [
            self.opponent("translator", translator, self.translator_objective, forward=self.transfer, **adam),
            self.opponent("image_discriminator", judge, self.image_discriminator_objective, **adam),
        ]

    # ---- stage 1 -----------------------------------------------------------------------------------------------

    def transfer(self, batch: CrossModalBatch, outputs: None = None) -> Translations:
        """Every scan as it is, as a scan of another modality, and back again."""
        images = self.translator.shown(batch.images)
        others = len(self.block.modalities)
        modality = batch.modality.repeat_interleave(len(images) // len(batch.images))
        wanted = (modality + 1 + self.step % (others - 1)) % others
        network = self.translator.generator
        x = network.encode(images, modality)
        translated = network.decode(x, wanted, images)
        x_ij = network.encode(translated, wanted)
        reconstructed, cycled = network.decode(x, modality, images), network.decode(x_ij, modality, translated)
        reconstructed, translated, cycled, x, x_ij = (
            where_it_shows_something(images, made) for made in (reconstructed, translated, cycled, x, x_ij)
        )
        frame = self.translator.sliced(batch.common_frame)
        return Translations(images, modality, wanted, reconstructed, translated, cycled, x, x_ij, frame)

    def translator_objective(self, batch: CrossModalBatch, outputs: Translations) -> Losses:
        weights = (self.reconstruction_weight, self.cycle_weight, self.content_weight)
        l1 = functional.l1_loss
        losses = Losses().add("reconstruction", l1(outputs.reconstructed, outputs.images), weights[0])
        losses.add("cycle", l1(outputs.cycled, outputs.images), weights[1])
        losses.add("content", l1(outputs.translated_content, outputs.content), weights[2])
        scores = self.image_discriminator(outputs.translated * outputs.frame, outputs.wanted)
        losses.add("gan", fool(scores, self.gan_loss), self.gan_weight)
        return self.add_variances_of_source(losses, batch, outputs.images, outputs.translated)

    def image_discriminator_objective(self, batch: CrossModalBatch, outputs: Translations) -> Losses:
        real = self.image_discriminator(outputs.images * outputs.frame, outputs.modality)
        fake = self.image_discriminator(outputs.translated.detach() * outputs.frame, outputs.wanted)
        detection = Losses().add("detect", detect(real, fake, self.gan_loss))
        return self.add_certainty(detection, real, fake, self.gan_loss)

    # ---- stage 2 -----------------------------------------------------------------------------------------------

    def forward(self, batch: CrossModalBatch) -> Segmentation:
        """Source, translated or, as ``raw_share`` says, as it is; where a discriminator wants it, real target."""
        if not (self.local_alignment or self.global_alignment or self.teacher) and batch.annotations:
            batch = batch.annotated
        if self.style_transfer:
            rows = batch.source_rows
            batch = self.as_segmented(batch, self.as_target(batch.images[rows], batch.modality[rows]))
        maps = self.network(batch.images, batch.modality, features=True)
        aligned = (maps.tapped, maps.decisions) if self.local_alignment else ()
        return Segmentation(batch, maps.logits, *aligned)

    @torch.no_grad()
    def as_target(self, images: Tensor, modality: Tensor) -> Tensor:
        """Images (n, c, *s), z-scores, of the given modalities as target images, in turn of every target modality."""
        if len(images) == 0:
            return images
        turns = torch.arange(self.step, self.step + len(images), device=images.device) % len(self.target_indices)
        return self.translate(images, modality, self.target_indices[turns])

    def translate(self, images: Tensor, modality: Tensor, wanted: Tensor) -> Tensor:
        """Images (n, c, *s), z-scores, of the modalities ``modality`` (n,) as images of the modalities ``wanted``."""
        translated: Tensor = self.translator(images, modality, wanted)
        return translated

    def objective(self, batch: CrossModalBatch, outputs: Segmentation) -> Losses:
        target = outputs.batch.target_rows
        joined = self.joined(self.stage_2 / self.num_epochs)
        losses = Losses().add("sup", self.supervised_loss(outputs.logits, outputs.batch))
        if outputs.decisions is not None:
            losses.adapt("local", fool(outputs.decisions[target], self.gan_loss), self.local_weight * joined)
        if self.global_alignment:
            scores = self.d2(batch.framed(outputs.logits[0].softmax(1))[target])
            losses.adapt("global", fool(scores, self.gan_loss), self.global_weight * joined)
        return losses

    def local_discriminator_objective(self, batch: CrossModalBatch, outputs: Segmentation) -> Losses:
        """D1 detects features of the target among those of the translated source, voxel by voxel."""
        assert outputs.features is not None
        return self.detection(self.bare_network.local_discriminator(outputs.features.detach()), outputs.batch)

    def global_discriminator_objective(self, batch: CrossModalBatch, outputs: Segmentation) -> Losses:
        """D2 detects predictions on the target among those on the translated source."""
        predicted = batch.framed(outputs.logits[0].detach().softmax(1))
        return self.detection(self.d2(predicted), outputs.batch)

    def detection(self, scores: Tensor, batch: CrossModalBatch) -> Losses:
        source, target = scores[batch.source_rows], scores[batch.target_rows]
        accuracy = detection_accuracy(source, target, self.gan_loss)
        return Losses().add("detect", detect(source, target, self.gan_loss)).add("accuracy", accuracy, 0.0)

    def draw(self, batch: CrossModalBatch, folder: Path) -> None:
        source, target = batch.source, batch.target
        if self.style_transfer:
            self.draw_both_directions(folder, source, target, self.translate)
        if self.local_alignment and self.segmenter.plays(self.current_epoch):
            from nnunet_crossmod.pictures.feature_mask_grid import feature_mask_grid

            maps = self.bare_network(target.images, target.modality, features=True)
            file = folder / "local_feature_mask" / f"epoch_{self.current_epoch:04d}.png"
            mask = signed_decision(maps.decisions[:, 0], self.gan_loss).abs().tanh()
            feature_mask_grid(target.images[:, 0], mask, maps.logits[0].argmax(1), file)
