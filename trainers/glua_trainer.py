"""GLUA: style transfer, then global-local union alignment (Su et al., "Mind the Gap")."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_crossmod.data import CrossModalBatch
from nnunet_crossmod.losses import (
    GanLoss,
    adversarial_confusion,
    adversarial_discrimination,
    certainty,
    discriminate,
    domain_accuracy,
    fool,
)
from nnunet_crossmod.nn import (
    AdaINAutoEncoder,
    AlignedUNet,
    DiscriminatorDesign,
    DomainImageDiscriminator,
    FeatureSide,
    ModalityUNet,
    StyleTranslator,
    build_discriminator,
    build_feature_discriminator,
    translator_plan,
)
from nnunet_crossmod.training import CrossModalTrainer, Losses, Player, collapse_warnings, foreground_variance


class Translations(NamedTuple):
    """Stage 1, all −1 … 1, slices where the translator works slice by slice: images x_i of the modalities i ``of``,
    their reconstructions x_ii, their translations x_ij ``into`` modality j and back again x_iji; contents of x_i and
    x_ij."""

    images: Tensor
    of: Tensor
    into: Tensor
    reconstructed: Tensor
    translated: Tensor
    cycled: Tensor
    content: Tensor
    translated_content: Tensor


class Segmentation(NamedTuple):
    """Stage 2: the ``batch`` as the segmenter sees it, ``logits`` of every deep-supervision level, features f
    (n, c, *f) before the mask and D1's logits on them, where there is a D1."""

    batch: CrossModalBatch
    logits: list[Tensor]
    features: Tensor | None
    decisions: Tensor | None


class GLUATrainer(CrossModalTrainer):
    """Stage 1: an auto-encoder with AdaIN learns to show scans of one modality as another. Stage 2: the segmenter
    learns from translated source, while D1 aligns the features and D2 the predictions of the real target with it.

    Stage 1: reconstruction_weight · l_rec + cycle_weight · l_cyc + content_weight · l_cont + gan_weight · l_adv.
    Stage 2: l_seg + local_weight · l_D1 + global_weight · l_D2, where target features f are raised by the local feature
    mask to f + f · tanh |D1(f)|, at inference as well.

    Differs from the paper: nnU-Net's segmentation loss, momentum and schedule; the feature is the U-Net's bottleneck.
    """

    weight_decay = 5e-4
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cpu": {"stage_1": 0.5, "style_width": 16, "image_discriminator_width": 16, "local_discriminator_width": 64}
    }

    style_transfer: bool = True
    stage_1: float = 0.2
    """Share of the training that is stage 1, rounded to whole epochs; each stage has at least one."""
    style_width: int = 64
    style_blocks: int = 4
    style_mode: Literal["volume", "slices"] = "volume"
    """In 3D: a 3D auto-encoder, or the paper's 2D one slice by slice, whose slices may flicker. In 2D the same."""
    style_lr: float = 2e-4
    style_weight_decay: float = 1e-4
    image_discriminator_width: int = 64
    reconstruction_weight: float = 20.0
    cycle_weight: float = 20.0
    content_weight: float = 1.0
    gan_weight: float = 1.0
    gan_loss: GanLoss = "bce"
    """The game of all discriminators."""
    local_alignment: bool = True
    local_weight: float = 0.01
    local_discriminator_width: int = 256
    feature_side: FeatureSide = "encoder"
    feature_stage: int | None = None
    """The stage whose features D1 sees and the mask raises; ``null`` is the bottleneck of the encoder, or the full
    resolution of the decoder."""
    mask_detached: bool = False
    global_alignment: bool = True
    global_weight: float = 0.01
    global_discriminator: DiscriminatorDesign = "strided"
    global_discriminator_width: int | None = None
    """Channels of the first layer; ``null`` is twice the network's, at most 64."""
    discriminator_lr: float = 1e-4

    def check_options(self, planned: dict[str, Any]) -> None:
        stages = planned["architecture"]["arch_kwargs"]["n_stages"] - (self.feature_side == "decoder")
        stage = 0 if self.feature_stage is None else self.feature_stage
        self.check_option("feature_stage", 0 <= stage < stages, f"0 … {stages - 1}, or null")
        self.check_option("stage_1", 0 < self.stage_1 < 1, "between 0 and 1; style_transfer=false leaves stage 1 out")
        self.check_option("num_epochs", self.num_epochs > 1 or not self.style_transfer, "at least 2, one a stage")
        for name in ("style_width", "style_blocks", "image_discriminator_width"):
            self.check_option(name, getattr(self, name) > 0, "at least 1")
        self.check_option("local_discriminator_width", self.local_discriminator_width >= 8, "at least 8")
        width = self.global_discriminator_width
        self.check_option("global_discriminator_width", width is None or width > 0, "at least 1, or null")
        for name in ("style_lr", "discriminator_lr"):
            self.check_option(name, getattr(self, name) > 0, "above 0")
        for name in ("reconstruction", "cycle", "content", "gan", "local", "global"):
            self.check_option(f"{name}_weight", getattr(self, f"{name}_weight") >= 0, "0 or more")
        total = self.reconstruction_weight + self.cycle_weight + self.content_weight + self.gan_weight
        self.check_option("reconstruction_weight", total > 0, "above 0 where the other weights of stage 1 are 0")

    # ---- the stages --------------------------------------------------------------------------------------------

    def first_segmenter_epoch(self) -> int:
        if not self.style_transfer:
            return 0
        return min(max(1, round(self.stage_1 * self.num_epochs)), self.num_epochs - 1)

    def in_stage_1(self) -> bool:
        return int(self.current_epoch) < self.first_segmenter_epoch()

    def phase(self) -> str:
        return "stage 1, style transfer" if self.in_stage_1() else "stage 2, segmentation and alignment"

    def playing(self) -> list[Player]:
        stage_1 = ("translator", "image_discriminator")
        return [player for player in self.players if (player.name in stage_1) == self.in_stage_1()]

    def augments_intensity_itself(self) -> bool:
        return self.style_transfer

    # ---- networks and players ----------------------------------------------------------------------------------

    @classmethod
    def extend_network(
        cls, build: Callable[[], ModalityUNet], options: Mapping[str, Any], configuration: Any
    ) -> nn.Module:
        unet: Any = build()
        if not options["local_alignment"]:
            return unet  # type: ignore[no-any-return]
        side, stage = options["feature_side"], options["feature_stage"]
        if stage is None:
            stage = len(unet.encoder.output_channels) - 1 if side == "encoder" else 0
        stride = np.prod(configuration.pool_op_kernel_sizes[: stage + 1], axis=0)
        discriminator = build_feature_discriminator(
            unet.encoder.output_channels[stage],
            (np.array(configuration.patch_size) // stride).tolist(),
            options["local_discriminator_width"],
        )
        return AlignedUNet(unet, discriminator, options["target_modalities"], side, stage, options["mask_detached"])

    @classmethod
    def build_translator(cls, plans: Any, configuration: Any, channels: int) -> StyleTranslator:
        """The auto-encoder for images of ``channels`` channels; its down-convolutions stride as planned."""
        options = plans.plans["crossmod"]
        slicewise, size, strides = translator_plan(
            configuration.patch_size, configuration.pool_op_kernel_sizes, options["style_mode"]
        )
        domains, width, blocks = len(options["modalities"]), options["style_width"], options["style_blocks"]
        auto_encoder = AdaINAutoEncoder(channels, size, domains, width, blocks, strides)
        return StyleTranslator(auto_encoder, slicewise)

    def build_players(self, segmenter: Player) -> list[Player]:
        players = [segmenter]
        game: dict[str, Any] = {"lr": self.discriminator_lr, "first_epoch": self.first_segmenter_epoch()}
        if self.local_alignment:
            d1 = self.bare_network.local_discriminator
            players.append(self.opponent("local_discriminator", d1, self.local_discriminator_objective, **game))
        if self.global_alignment:
            self.d2 = self.build_global_discriminator()
            players.append(self.opponent("global_discriminator", self.d2, self.global_discriminator_objective, **game))
        if not self.style_transfer:
            return players
        channels, size = self.num_input_channels - 1, list(self.configuration_manager.patch_size)
        self.translator = self.build_translator(self.plans_manager, self.configuration_manager, channels)
        self.image_discriminator = DomainImageDiscriminator(
            channels, size[self.translator.slicewise :], len(self.block.modalities), self.image_discriminator_width
        )
        self.target_indices = torch.tensor(list(map(self.block.modalities.index, self.block.target)))
        self.target_indices = self.target_indices.to(self.device)
        adam: dict[str, Any] = {
            "lr": self.style_lr,
            "betas": (0.5, 0.999),
            "weight_decay": self.style_weight_decay,
            "constant": True,
        }
        translator = nn.ModuleDict({"translator": self.translator})
        return [
            self.opponent("translator", translator, self.translator_objective, **adam),
            self.opponent("image_discriminator", self.image_discriminator, self.image_discriminator_objective, **adam),
            *players,
        ]

    def build_global_discriminator(self) -> nn.Module:
        """D2: a prediction's probabilities (n, k, *s) → scores (n, 1, *smaller)."""
        plan = self.configuration_manager
        width = self.global_discriminator_width or min(64, 2 * self.bare_network.encoder.output_channels[0])
        classes = self.label_manager.num_segmentation_heads
        return build_discriminator(self.global_discriminator, classes, plan.patch_size, plan.spacing, width)

    def forward(self, batch: CrossModalBatch) -> Translations | Segmentation:
        return self.transfer(batch) if self.in_stage_1() else self.segment(batch)

    # ---- stage 1 -----------------------------------------------------------------------------------------------

    def transfer(self, batch: CrossModalBatch) -> Translations:
        """Every scan as it is, as a scan of another modality, and back again."""
        images = self.translator.shown(batch.images)
        others = len(self.block.modalities)
        of = batch.modality.repeat_interleave(len(images) // len(batch.images))
        into = (of + 1 + self.step % (others - 1)) % others
        network = self.translator.generator
        content = network.encode(images, of)
        translated = network.decode(content, into)
        translated_content = network.encode(translated, into)
        return Translations(
            images,
            of,
            into,
            network.decode(content, of),
            translated,
            network.decode(translated_content, of),
            content,
            translated_content,
        )

    def translator_objective(self, batch: CrossModalBatch, outputs: Translations) -> Losses:
        reconstruction = functional.l1_loss(outputs.reconstructed, outputs.images)
        cycle = functional.l1_loss(outputs.cycled, outputs.images)
        content = functional.l1_loss(outputs.translated_content, outputs.content)
        scores = self.image_discriminator(outputs.translated, outputs.into)
        losses = (
            Losses()
            .add("reconstruction", reconstruction, self.reconstruction_weight)
            .add("cycle", cycle, self.cycle_weight)
            .add("content", content, self.content_weight)
            .add("gan", adversarial_confusion(scores, self.gan_loss), self.gan_weight)
        )
        rows = batch.source_rows
        foreground = self.translator.sliced(batch.foreground[rows, None])[:, 0]
        depth = batch.images.shape[2]
        source, translated = (
            self.translator.sliced(self.translator.restored(images.detach(), depth)[rows])
            for images in (outputs.images, outputs.translated)
        )
        losses.add("source_variance", foreground_variance(source, foreground), 0.0)
        return losses.add("translated_variance", foreground_variance(translated, foreground), 0.0)

    def image_discriminator_objective(self, batch: CrossModalBatch, outputs: Translations) -> Losses:
        real = self.image_discriminator(outputs.images, outputs.of)
        made = self.image_discriminator(outputs.translated.detach(), outputs.into)
        losses = Losses().add("tell", adversarial_discrimination(real, made, self.gan_loss))
        # what the warning of a saturated discriminator is made of, on the scale of least squares in either game
        passing_real, passing_made = (1 - certainty(scores, self.gan_loss) for scores in (real, made))
        losses.add("fakes_told", fool(passing_made), 0.0)
        return losses.add("misjudged", discriminate(passing_real, passing_made), 0.0)

    def review(self, means: Mapping[str, float]) -> None:
        if "translator/source_variance" not in means:
            return
        for warning in collapse_warnings(
            means["translator/source_variance"],
            means["translator/translated_variance"],
            means["image_discriminator/fakes_told"],
            means["image_discriminator/misjudged"],
            tie="reconstruction_weight and cycle_weight",
        ):
            self.print_to_log_file(f"WARNING: {warning}")

    # ---- stage 2 -----------------------------------------------------------------------------------------------

    def segment(self, batch: CrossModalBatch) -> Segmentation:
        """Translated source and, where a discriminator wants it, real target: raw source never reaches the network."""
        if not (self.local_alignment or self.global_alignment) and batch.annotations:
            batch = batch.annotated
        seen = self.as_segmented(batch) if self.style_transfer else batch
        maps = self.network(seen.images, seen.modality, features=True)
        if self.local_alignment:
            return Segmentation(seen, maps.logits, maps.tapped, maps.decisions)
        return Segmentation(seen, maps.logits, None, None)

    def as_segmented(self, batch: CrossModalBatch) -> CrossModalBatch:
        """Translated source, with the source's labels, and real target: intensities are augmented here, not before."""
        images, rows = batch.images.clone(), batch.source_rows
        images[rows] = self.as_target(images[rows], batch.modality[rows])
        return self.augment_intensity(replace(batch, images=images))

    @torch.no_grad()
    def as_target(self, images: Tensor, modality: Tensor) -> Tensor:
        """Images (n, c, *s), z-scores, of the given modalities as target images, in turn of every target modality."""
        if len(images) == 0:
            return images
        turns = torch.arange(self.step, self.step + len(images), device=images.device) % len(self.target_indices)
        return self.translate(images, modality, self.target_indices[turns])

    def translate(self, images: Tensor, modality: Tensor, wanted: Tensor) -> Tensor:
        """Images (n, c, *s), z-scores, of the modalities ``modality`` (n,) as images of the modalities ``wanted``."""
        return self.translator(images, modality, wanted)

    def objective(self, batch: CrossModalBatch, outputs: Segmentation) -> Losses:
        seen = outputs.batch
        losses = Losses().add("sup", self.supervised_loss(outputs.logits, seen))
        if self.local_alignment:
            fooled = adversarial_confusion(outputs.decisions[seen.target_rows], self.gan_loss)
            losses.add("local", fooled, self.local_weight)
        if self.global_alignment:
            scores = self.d2(outputs.logits[0][seen.target_rows].softmax(1))
            losses.add("global", adversarial_confusion(scores, self.gan_loss), self.global_weight)
        return losses

    def local_discriminator_objective(self, batch: CrossModalBatch, outputs: Segmentation) -> Losses:
        """D1 tells features of the target from those of the translated source, voxel by voxel."""
        scores = self.bare_network.local_discriminator(outputs.features.detach())
        return self.told_apart(scores, outputs.batch)

    def global_discriminator_objective(self, batch: CrossModalBatch, outputs: Segmentation) -> Losses:
        """D2 tells predictions on the target from those on the translated source."""
        return self.told_apart(self.d2(outputs.logits[0].detach().softmax(1)), outputs.batch)

    def told_apart(self, scores: Tensor, batch: CrossModalBatch) -> Losses:
        source, target = scores[batch.source_rows], scores[batch.target_rows]
        middle = 0.0 if self.gan_loss == "bce" else 0.5
        losses = Losses().add("tell", adversarial_discrimination(source, target, self.gan_loss))
        return losses.add("accuracy", domain_accuracy(source - middle, target - middle), 0.0)

    # ---- what else the translator is good for --------------------------------------------------------------------

    def validation_images(self, batch: CrossModalBatch) -> Tensor:
        """Online validation on what the segmenter is trained for: annotated source scans are translated."""
        if not self.style_transfer:
            return batch.images
        images, rows = batch.images.clone(), batch.source_rows
        images[rows, :-1] = self.as_target(images[rows, :-1], batch.modality[rows])
        return images

    def draw(self, batch: CrossModalBatch, folder: Path) -> None:
        if self.style_transfer:
            from nnunet_crossmod.pictures.translation_grid import translation_grid

            source, target = batch.source, batch.target
            for direction, here, there in (("to_target", source, target), ("to_source", target, source)):
                number = min(len(here.images), len(there.images))
                here, wanted = here.select(slice(0, number)), there.modality[:number]
                made = self.translate(here.images, here.modality, wanted)
                file = folder / "translations" / f"epoch_{self.current_epoch:04d}_{direction}.png"
                translation_grid(here.images, made, there.images, file, f"epoch {self.current_epoch}, {direction}")
        if self.local_alignment and not self.in_stage_1():
            from nnunet_crossmod.pictures.feature_mask_grid import feature_mask_grid

            target = batch.target
            maps = self.bare_network(target.images, target.modality, features=True)
            file = folder / "local_feature_mask" / f"epoch_{self.current_epoch:04d}.png"
            feature_mask_grid(target.images[:, 0], maps.decisions[:, 0].abs().tanh(), maps.logits[0].argmax(1), file)
