"""CISFA: contrastive image synthesis and self-supervised feature adaptation (Hu, Wang and Shi)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from nnunet_crossmod.data import CrossModalBatch
from nnunet_crossmod.losses import Game, detect, fool, nt_xent, patch_nce
from nnunet_crossmod.nn import ImageDiscriminator, ImageTranslator, ProjectionHead, ResnetGenerator, translator_plan
from nnunet_crossmod.pseudo_labels import labels_at
from nnunet_crossmod.training import CollapseTerms, Losses, Player, TranslatingTrainer, TranslationMode
from nnunet_crossmod.training.hyperparameters import Bounds, Count, Positive, Share, Weight
from nnunet_crossmod.training.translating import where_it_shows_something


class Outputs(NamedTuple):
    """What the players see. Images of the generator are −1 … 1, slices where it works slice by slice.

    G: ``source``, ``target`` and ``translated`` (n, c, *s), ``features`` of the source in G's encoder, ``foreground``
    (n, *s) of the source. D_g: ``frames`` (n, 1, *s) of source and target, within which it looks. S: the ``batch`` as
    it sees it, its ``logits`` of every deep-supervision level and its ``bottleneck`` (n, c, *f). D_s: ``probabilities``
    (n, k, *s) on that batch, after S has stepped, within the common frame.
    """

    source: Tensor
    target: Tensor
    translated: Tensor
    features: list[Tensor]
    foreground: Tensor
    frames: tuple[Tensor, Tensor]
    batch: Any = None
    logits: Any = None
    bottleneck: Any = None
    probabilities: Any = None


LEAST_SQUARES: Game = "least_squares"


class CISFATrainer(TranslatingTrainer):
    """Four players: G translates source into target, S segments both, D_g judges images and D_s label maps.

    G: fool D_g + pcl_weight · L_pcl. S: L_seg on the source, but for ``raw_share`` of it translated, + gcl_weight ·
    L_gcl + fool_weight · fool D_s.
    """

    optimizer_name = "adam"
    initial_lr = 2e-4
    weight_decay = 0.0
    adam_betas = (0.5, 0.999)
    lr_schedule = "constant"
    adaptation_share = 0.05  # at 0.2 L_gcl and the fooling cost more than they give
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cpu": {"generator_width": 16, "generator_blocks": 4, "discriminator_width": 16},
        "paper": {
            "warm_up": 0.0,
            "raw_share": 0.0,
            "optimizer_name": "adam",
            "initial_lr": 2e-4,
            "adam_betas": (0.5, 0.999),
            "lr_schedule": "constant",
        },
    }
    keeps_modality = False
    collapse_terms = CollapseTerms("generator", "generator/gan", "image_discriminator/detect", "pcl_weight")

    generator_width: Count = 64
    generator_blocks: Annotated[int, Bounds(2)] = 9
    generator_mode: TranslationMode = "volume"
    generator_lr: Positive = 2e-4
    discriminator_width: Count = 64
    discriminator_lr: Positive = 2e-4
    gan_weight: Weight = 1.0
    pcl_weight: Weight = 1.0
    pcl_temperature: Positive = 0.2
    pcl_locations: Count = 256
    foreground_weight: Weight = 2.0
    """Weight of foreground locations in L_pcl; that of the background is 1."""
    gcl_weight: Weight = 1.0
    gcl_temperature: Positive = 0.2
    gcl_mode: Literal["sum", "sequential"] = "sum"
    """L_gcl as one of the segmenter's terms, or in a step of the encoder's own before the segmenter's."""
    fool_weight: Weight = 1.0
    warm_up: Share = 0.2
    """Share of the training after which the segmenter begins to fool D_s and, as one of its terms, L_gcl joins."""

    def check_plan(self, planned: dict[str, Any]) -> None:
        self.check_option("gan_weight", self.gan_weight + self.pcl_weight > 0, "above 0 where pcl_weight is 0")

    # ---- the players: G, S, D_g, D_s ---------------------------------------------------------------------------

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
        adam = partial(self.opponent, betas=(0.5, 0.999), constant=True)
        self.translator = self.build_translator(self.plans_manager, self.configuration_manager, channels)
        self.patch_heads = nn.ModuleList(map(ProjectionHead, self.translator.generator.feature_channels))
        trained = {"translator": self.translator, **({"patch_heads": self.patch_heads} if self.pcl_weight > 0 else {})}
        g: dict[str, Any] = {"lr": self.generator_lr, "forward": self.translation}
        players = [adam("generator", nn.ModuleDict(trained), self.generator_objective, **g)]
        segmenter.forward = self.segmentation
        if self.gcl_weight > 0 and self.gcl_mode == "sequential":
            self.contrast_head = self.global_head()
            encoder = nn.ModuleDict({"encoder": self.bare_network.encoder, **self.contrast_head})
            e: dict[str, Any] = {"lr": self.initial_lr, "forward": self.shown_to_segmenter}
            players.append(adam("encoder", encoder, self.encoder_objective, **e))
            segmenter.forward = self.segmented
        players.append(segmenter)
        width, d = self.discriminator_width, dict[str, Any](lr=self.discriminator_lr)
        d_g = self.image_discriminator = ImageDiscriminator(channels, size[self.translator.slicewise :], width)
        players.append(adam("image_discriminator", d_g, self.image_discriminator_objective, **d))
        if self.fool_weight > 0:
            d_s = ImageDiscriminator(self.label_manager.num_segmentation_heads, size, width)
            self.mask_discriminator, d["forward"] = d_s, self.predicted_again
            players.append(adam("mask_discriminator", d_s, self.mask_discriminator_objective, **d))
        return players

    # ---- G -----------------------------------------------------------------------------------------------------

    def translation(self, batch: CrossModalBatch, outputs: None) -> Outputs:
        """G translates the source."""
        rows = (batch.source_rows, batch.target_rows)
        source, target = (self.translator.shown(batch.images[row]) for row in rows)
        translated, features = self.translator.generator.translate_and_encode(source)
        translated = where_it_shows_something(source, translated)
        frame = batch.common_frame
        frames = (self.translator.sliced(frame[rows[0]]), self.translator.sliced(frame[rows[1]]))
        return Outputs(source, target, translated, features, self.source_foreground(batch), frames)

    def generator_objective(self, batch: CrossModalBatch, outputs: Outputs) -> Losses:
        scores = self.image_discriminator(outputs.translated * outputs.frames[0])
        losses = Losses().add("gan", fool(scores, LEAST_SQUARES), self.gan_weight)
        if self.pcl_weight > 0:
            losses.add("pcl", self.patch_contrast(outputs), self.pcl_weight)
        self.add_variances(losses, outputs.source, outputs.translated, outputs.foreground)
        return self.add_flicker(losses, batch, outputs.source, outputs.translated)

    def patch_contrast(self, outputs: Outputs) -> Tensor:
        """L_pcl (Eq. 2-4): the mean over five layers of G's encoder; keys from the source, queries from G(source)."""
        encoded = self.translator.generator.encode(outputs.translated)
        queries = [where_it_shows_something(outputs.source, query) for query in encoded]
        terms = []
        heads: Iterable[Any] = self.patch_heads
        for head, query, key in zip(heads, queries, outputs.features, strict=True):
            size = query.shape[2:]
            chosen = torch.randperm(size.numel(), device=query.device)[: self.pcl_locations]
            foreground = labels_at(outputs.foreground, size).flatten(1)[:, chosen]
            queried, keyed = head.describe_at(query, chosen), head.describe_at(key, chosen).detach()
            weight = 1.0 + (self.foreground_weight - 1.0) * foreground
            terms.append(patch_nce(queried, keyed, self.pcl_temperature, weight))
        return torch.stack(terms).mean()

    # ---- S -----------------------------------------------------------------------------------------------------

    def segmentation(self, batch: CrossModalBatch, outputs: Outputs) -> Outputs:
        """The source is translated anew, after G's step, and segmented along with the target."""
        return self.segmented(batch, self.shown_to_segmenter(batch, outputs))

    @torch.no_grad()
    def shown_to_segmenter(self, batch: CrossModalBatch, outputs: Outputs) -> Outputs:
        translated = self.translator.generator(outputs.source)
        restored = self.translator.restored(translated, batch.images.shape[2])
        return outputs._replace(translated=translated, features=[], batch=self.as_segmented(batch, restored))

    def segmented(self, batch: CrossModalBatch, outputs: Outputs) -> Outputs:
        maps = self.network(outputs.batch.images, outputs.batch.modality, features=True)
        return outputs._replace(logits=maps.logits, bottleneck=maps.encoder[-1])

    def objective(self, batch: CrossModalBatch, outputs: Outputs) -> Losses:
        losses = Losses().add("sup", self.supervised_loss(outputs.logits, outputs.batch))
        joined = self.joined(self.warm_up)
        if "global" in self.heads and joined > 0:
            gcl = self.global_contrast(batch, outputs.bottleneck[batch.source_rows], self.heads["global"])
            losses.adapt("gcl", gcl, self.gcl_weight * joined)
        if self.fool_weight > 0:
            predicted = batch.framed(outputs.logits[0].softmax(1))
            scores = self.mask_discriminator(predicted[batch.target_rows])
            losses.adapt("fool", fool(scores, LEAST_SQUARES), self.fool_weight * joined)
        return losses

    def encoder_objective(self, batch: CrossModalBatch, outputs: Outputs) -> Losses:
        rows = batch.source_rows
        encoded = self.bare_network.encode(outputs.batch.images[rows], outputs.batch.modality[rows])
        gcl = self.global_contrast(batch, encoded[-1], self.contrast_head["global"])
        return Losses().add("gcl", gcl, self.gcl_weight)

    def global_contrast(self, batch: CrossModalBatch, translated: Tensor, head: nn.Module) -> Tensor:
        """L_gcl (Eq. 5) between the bottlenecks of source images and of what the segmenter sees of them (n, c, *f):
        translated, or as they are, and augmented."""
        source = self.bare_network.encode(batch.images[batch.source_rows], batch.modality[batch.source_rows])[-1]
        a, b = (head(features.flatten(2).mean(2)) for features in (source, translated))
        return nt_xent(a, b, self.gcl_temperature)

    # ---- D_g and D_s -------------------------------------------------------------------------------------------

    def image_discriminator_objective(self, batch: CrossModalBatch, outputs: Outputs) -> Losses:
        shown = (outputs.target * outputs.frames[1], outputs.translated * outputs.frames[0])
        real, fake = map(self.image_discriminator, shown)
        return Losses().add("detect", detect(real, fake, LEAST_SQUARES))

    @torch.no_grad()
    def predicted_again(self, batch: CrossModalBatch, outputs: Outputs) -> Outputs:
        """The predictions of S after its step."""
        logits = self.bare_network(outputs.batch.images, outputs.batch.modality, features=True).logits
        return outputs._replace(probabilities=batch.framed(logits[0].softmax(1)))

    def mask_discriminator_objective(self, batch: CrossModalBatch, outputs: Outputs) -> Losses:
        """Predictions on translated source, which labels have shaped, are real; those on the target are fake."""
        scores = self.mask_discriminator(outputs.probabilities)
        real, fake = scores[batch.source_rows], scores[batch.target_rows]
        return Losses().add("detect", detect(real, fake, LEAST_SQUARES))

    def as_target(self, images: Tensor, modality: Tensor | None = None) -> Tensor:
        """Source images (n, c, *s), z-scores, in the target's style; G knows one way."""
        translated: Tensor = self.translator(images)
        return translated

    def draw(self, batch: CrossModalBatch, folder: Path) -> None:
        source, target = batch.images[batch.source_rows], batch.images[batch.target_rows]
        self.draw_translations(folder, source, self.as_target(source), target)
