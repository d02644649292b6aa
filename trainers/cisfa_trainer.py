"""CISFA: contrastive image synthesis and self-supervised feature adaptation (Hu, Wang and Shi)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_crossmod.data import CrossModalBatch
from nnunet_crossmod.losses import discriminate, fool, nt_xent, patch_nce
from nnunet_crossmod.nn import (
    ImageDiscriminator,
    ImageTranslator,
    ProjectionHead,
    ResnetGenerator,
    flicker,
    translator_plan,
)
from nnunet_crossmod.pseudo_labels import labels_at
from nnunet_crossmod.training import CrossModalTrainer, Losses, Player, collapse_warnings, foreground_variance


class Outputs(NamedTuple):
    """What the players see. Images of the generator are −1 … 1, slices where it works slice by slice.

    ``source``, ``target`` and ``translated`` (n, c, *s); ``features`` of the source in the generator's encoder;
    ``foreground`` (n, *s) of the source; ``segmented`` the batch as the segmenter sees it; ``probabilities`` (n, k, *s)
    of its prediction on it. The last two, and ``translated`` anew, once the players they come from have stepped.
    """

    source: Tensor
    target: Tensor
    translated: Tensor
    features: list[Tensor]
    foreground: Tensor
    segmented: CrossModalBatch | None = None
    probabilities: Tensor | None = None


def described(head: nn.Module, features: Tensor, chosen: Tensor) -> Tensor:
    """Unit descriptions (n, p, d) of features (n, c, *s) at the p chosen places of the flattened map."""
    return functional.normalize(head(features.flatten(2)[:, :, chosen].transpose(1, 2)), dim=2)


class CISFATrainer(CrossModalTrainer):
    """Four players: G translates source into target, S segments both, D_g judges images and D_s label maps.

    G: fool D_g + pcl_weight · L_pcl. S: L_seg on translated source + gcl_weight · L_gcl + fool_weight · fool D_s.
    """

    optimizer_name = "adam"
    initial_lr = 2e-4
    weight_decay = 0.0
    adam_betas = (0.5, 0.999)
    lr_schedule = "constant"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cpu": {"generator_width": 16, "generator_blocks": 4, "discriminator_width": 16}
    }

    generator_width: int = 64
    generator_blocks: int = 9
    generator_mode: Literal["volume", "slices"] = "volume"
    """In 3D: a 3D generator, or the paper's 2D one slice by slice, whose slices may flicker. In 2D there is one way."""
    generator_lr: float = 2e-4
    discriminator_width: int = 64
    discriminator_lr: float = 2e-4
    gan_weight: float = 1.0
    pcl_weight: float = 1.0
    pcl_temperature: float = 0.2
    pcl_locations: int = 256
    foreground_weight: float = 2.0
    """Weight of foreground locations in L_pcl; that of the background is 1."""
    gcl_weight: float = 1.0
    gcl_temperature: float = 0.2
    gcl_mode: Literal["sum", "sequential"] = "sum"
    """L_gcl as one of the segmenter's terms, or in a step of the encoder's own before the segmenter's."""
    fool_weight: float = 1.0

    def check_options(self, planned: dict[str, Any]) -> None:
        for name in ("generator_width", "discriminator_width", "pcl_locations"):
            self.check_option(name, getattr(self, name) > 0, "at least 1")
        self.check_option("generator_blocks", self.generator_blocks >= 2, "at least 2")
        for name in ("pcl_temperature", "gcl_temperature", "generator_lr", "discriminator_lr"):
            self.check_option(name, getattr(self, name) > 0, "above 0")
        for name in ("gan_weight", "pcl_weight", "gcl_weight", "fool_weight", "foreground_weight"):
            self.check_option(name, getattr(self, name) >= 0, "0 or more")
        self.check_option("gan_weight", self.gan_weight + self.pcl_weight > 0, "above 0 where pcl_weight is 0")

    def augments_intensity_itself(self) -> bool:
        return True

    # ---- the players -------------------------------------------------------------------------------------------

    @classmethod
    def build_translator(cls, plans: Any, configuration: Any, channels: int) -> ImageTranslator:
        """G for images of ``channels`` channels, z-scores in and out; its down-convolutions stride as planned."""
        options = plans.plans["crossmod"]
        slicewise, size, strides = translator_plan(
            configuration.patch_size, configuration.pool_op_kernel_sizes, options["generator_mode"]
        )
        generator = ResnetGenerator(channels, size, options["generator_width"], options["generator_blocks"], strides)
        return ImageTranslator(generator, slicewise)

    def build_heads(self) -> nn.ModuleDict:
        return self.global_head() if self.gcl_weight > 0 and self.gcl_mode == "sum" else nn.ModuleDict()

    def global_head(self) -> nn.ModuleDict:
        return nn.ModuleDict({"global": ProjectionHead(self.bare_network.encoder.output_channels[-1])})

    def build_players(self, segmenter: Player) -> list[Player]:
        channels, size = self.num_input_channels - 1, list(self.configuration_manager.patch_size)
        self.translator = self.build_translator(self.plans_manager, self.configuration_manager, channels)
        self.patch_heads = nn.ModuleList(map(ProjectionHead, self.translator.generator.feature_channels))
        width = self.discriminator_width
        self.image_discriminator = ImageDiscriminator(channels, size[self.translator.slicewise :], width)
        self.mask_discriminator = ImageDiscriminator(self.label_manager.num_segmentation_heads, size, width)
        adam: dict[str, Any] = {"betas": (0.5, 0.999), "constant": True}
        generator = nn.ModuleDict({"translator": self.translator})
        if self.pcl_weight > 0:
            generator["patch_heads"] = self.patch_heads
        first = [self.opponent("generator", generator, self.generator_objective, lr=self.generator_lr, **adam)]
        if self.gcl_weight > 0 and self.gcl_mode == "sequential":
            self.contrast_head = self.global_head()
            encoder = nn.ModuleDict({"encoder": self.bare_network.encoder, **self.contrast_head})
            first.append(self.opponent("encoder", encoder, self.encoder_objective, lr=self.initial_lr, **adam))
        adam["lr"] = self.discriminator_lr
        last = [
            self.opponent("image_discriminator", self.image_discriminator, self.image_discriminator_objective, **adam)
        ]
        if self.fool_weight > 0:
            last.append(
                self.opponent("mask_discriminator", self.mask_discriminator, self.mask_discriminator_objective, **adam)
            )
        return [*first, segmenter, *last]

    # ---- the iteration: G, regenerate, S, regenerate, D_g and D_s -------------------------------------------------

    def forward(self, batch: CrossModalBatch) -> Outputs:
        source, target = (self.translator.shown(batch.images[rows]) for rows in (batch.source_rows, batch.target_rows))
        translated, features = self.translator.generator.translate_and_encode(source)
        foreground = self.translator.sliced(batch.foreground[batch.source_rows, None])[:, 0]
        return Outputs(source, target, translated, features, foreground)

    def regenerate(self, player: Player, batch: CrossModalBatch, outputs: Outputs) -> Outputs:
        if player.name == "generator":
            translated = self.translator.generator(outputs.source)
            return outputs._replace(translated=translated, features=[], segmented=self.as_segmented(batch, translated))
        if player.name == "segmenter" and self.fool_weight > 0:
            logits = self.network(outputs.segmented.images, outputs.segmented.modality, features=True).logits
            return outputs._replace(probabilities=logits[0].softmax(1))
        return outputs

    def as_segmented(self, batch: CrossModalBatch, translated: Tensor) -> CrossModalBatch:
        """Translated source, with the source's labels, and real target: intensities are augmented here, not before."""
        images, modality = batch.images.clone(), batch.modality.clone()
        images[batch.source_rows] = self.translator.restored(translated, images.shape[2])
        modality[batch.source_rows] = self.block.modalities.index(self.block.target[0])
        return self.augment_intensity(replace(batch, images=images, modality=modality))

    def generator_objective(self, batch: CrossModalBatch, outputs: Outputs) -> Losses:
        losses = Losses().add("gan", fool(self.image_discriminator(outputs.translated)), self.gan_weight)
        if self.pcl_weight > 0:
            losses.add("pcl", self.patch_contrast(outputs), self.pcl_weight)
        made = outputs.translated.detach()
        losses.add("source_variance", foreground_variance(outputs.source, outputs.foreground), 0.0)
        losses.add("translated_variance", foreground_variance(made, outputs.foreground), 0.0)
        if batch.images.ndim == 5:
            depth = batch.images.shape[2]
            flickering = [flicker(self.translator.restored(images, depth)) for images in (made, outputs.source)]
            losses.add("flicker", flickering[0] / flickering[1].clamp(min=1e-6), 0.0)
        return losses

    def patch_contrast(self, outputs: Outputs) -> Tensor:
        """L_pcl (Eq. 2-4): the mean over five layers of G's encoder; keys from the source, queries from G(source)."""
        queries = self.translator.generator.encode(outputs.translated)
        terms = []
        for head, query, key in zip(self.patch_heads, queries, outputs.features, strict=True):
            size = query.shape[2:]
            chosen = torch.randperm(size.numel(), device=query.device)[: self.pcl_locations]
            foreground = labels_at(outputs.foreground, size).flatten(1)[:, chosen]
            terms.append(
                patch_nce(
                    described(head, query, chosen),
                    described(head, key, chosen).detach(),
                    self.pcl_temperature,
                    1.0 + (self.foreground_weight - 1.0) * foreground,
                )
            )
        return torch.stack(terms).mean()

    def objective(self, batch: CrossModalBatch, outputs: Outputs) -> Losses:
        seen = outputs.segmented
        maps = self.network(seen.images, seen.modality, features=True)
        losses = Losses().add("sup", self.supervised_loss(maps.logits, seen))
        if "global" in self.heads:
            gcl = self.global_contrast(batch, maps.encoder[-1][seen.source_rows], self.heads["global"])
            losses.add("gcl", gcl, self.gcl_weight)
        if self.fool_weight > 0:
            told = self.mask_discriminator(maps.logits[0][seen.target_rows].softmax(1))
            losses.add("fool", fool(told), self.fool_weight)
        return losses

    def encoder_objective(self, batch: CrossModalBatch, outputs: Outputs) -> Losses:
        rows = outputs.segmented.source_rows
        encoded = self.bare_network.encode(outputs.segmented.images[rows], outputs.segmented.modality[rows])
        gcl = self.global_contrast(batch, encoded[-1], self.contrast_head["global"])
        return Losses().add("gcl", gcl, self.gcl_weight)

    def global_contrast(self, batch: CrossModalBatch, translated: Tensor, head: nn.Module) -> Tensor:
        """L_gcl (Eq. 5) between the bottlenecks of source images and of their translations (n, c, *f)."""
        source = self.bare_network.encode(batch.images[batch.source_rows], batch.modality[batch.source_rows])[-1]
        a, b = (head(features.flatten(2).mean(2)) for features in (source, translated))
        return nt_xent(a, b, self.gcl_temperature)

    def image_discriminator_objective(self, batch: CrossModalBatch, outputs: Outputs) -> Losses:
        real, made = self.image_discriminator(outputs.target), self.image_discriminator(outputs.translated)
        return Losses().add("tell", discriminate(real, made))

    def mask_discriminator_objective(self, batch: CrossModalBatch, outputs: Outputs) -> Losses:
        """Predictions on translated source, which labels have shaped, are real; those on the target are fake."""
        real, made = (
            self.mask_discriminator(outputs.probabilities[rows]) for rows in (batch.source_rows, batch.target_rows)
        )
        return Losses().add("tell", discriminate(real, made))

    # ---- what else G is good for ---------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.gcl_weight > 0 and self.batch_size < 2 * len(self.block.modalities):
            self.print_to_log_file(
                f"A batch of {self.batch_size} may hold a single source scan, for which L_gcl is 0: give it at least "
                f"{2 * len(self.block.modalities)} scans, as with crossmod configure -b"
            )

    def translate(self, images: Tensor, modality: Tensor | None = None) -> Tensor:
        """Source images (n, c, *s), z-scores, in the target's style; without gradient where the caller says so."""
        return self.translator(images, modality)

    def validation_images(self, batch: CrossModalBatch) -> Tensor:
        """Online validation on what the segmenter is trained for: annotated source scans are translated."""
        images, rows = batch.images.clone(), batch.source_rows
        images[rows, :-1] = self.translate(images[rows, :-1])
        images[rows, -1:] = (images[rows, -1:] > 0) * (1.0 + self.block.modalities.index(self.block.target[0]))
        return images

    def review(self, means: Mapping[str, float]) -> None:
        for warning in collapse_warnings(
            means["generator/source_variance"],
            means["generator/translated_variance"],
            means["generator/gan"],
            means["image_discriminator/tell"],
            tie="pcl_weight",
        ):
            self.print_to_log_file(f"WARNING: {warning}")

    def draw(self, batch: CrossModalBatch, folder: Path) -> None:
        from nnunet_crossmod.pictures.translation_grid import translation_grid

        source, target = batch.images[batch.source_rows], batch.images[batch.target_rows]
        file = folder / "translations" / f"epoch_{self.current_epoch:04d}.png"
        translation_grid(source, self.translate(source), target, file, f"epoch {self.current_epoch}")
