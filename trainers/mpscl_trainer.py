"""MPSCL: margin-preserving self-paced contrastive learning (Liu et al., JBHI 2022), and AdvEnt, its warm-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nnunet_crossmod.data import Case, CrossModalBatch
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.losses import (
    MarginMode,
    detect,
    detection_accuracy,
    fool,
    margin_contrast,
    prototype_cosines,
    self_information,
)
from nnunet_crossmod.losses.processes import summed
from nnunet_crossmod.nn import DiscriminatorDesign
from nnunet_crossmod.prototypes import PrototypeBank, class_sums
from nnunet_crossmod.pseudo_labels import confident, labels_at, valid_shares
from nnunet_crossmod.training import CrossModalTrainer, Losses, Player
from nnunet_crossmod.training.hyperparameters import Angle, Bounds, Count, Index, Momentum, Positive, Share, Weight


class Outputs(NamedTuple):
    """``logits`` of every deep-supervision level, ``information`` maps I by discriminator, ``decoder`` features."""

    logits: list[Tensor]
    information: Mapping[str, Tensor]
    decoder: list[Tensor]


class AdvEntTrainer(CrossModalTrainer):
    """Entropy adversary (Eq. 9-10): target predictions shall be as certain, in the same places, as source predictions.

    l = l_sup + fool_main_weight · l_fool(full resolution) + fool_aux_weight · l_fool(first deep-supervision level).

    Differs from the paper: nnU-Net's segmentation loss, optimiser and schedule; no auxiliary level where deep
    supervision is off; discriminators narrower than the paper's 64 channels in front of a narrow network.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "segmentation_loss": "dice_weighted_ce",
            "optimizer_name": "sgd",
            "initial_lr": 2.5e-4,
            "weight_decay": 1e-4,
            "fool_main_weight": 0.003,
            "fool_aux_weight": 2e-5,
            "discriminator_lr": 1e-4,
            "discriminator_width": 64,
        }
    }

    fool_main_weight: Weight = 1.0
    """0.003 in the paper, at which the adversary's gradient is a ten-thousandth of the segmentation's here."""
    fool_aux_weight: Weight = 2e-5
    discriminator: DiscriminatorDesign = "strided"
    discriminator_width: Count | None = None
    """Channels of the first layer; ``null`` is twice the network's, at most the paper's 64."""
    discriminator_lr: Positive = 1e-4
    """Constant, as the segmenter's falls."""
    adversary_start: Share = 0.0
    """Share of the training after which the segmenter begins to fool the discriminators."""

    def build_players(self, segmenter: Player) -> list[Player]:
        levels = len(self.bare_network.decoder.stages) if self.enable_deep_supervision else 1
        weights = {"main": self.fool_main_weight, "aux": self.fool_aux_weight}
        self.fooled = {name: weight for name, weight in list(weights.items())[:levels] if weight}
        if not self.fooled:
            return [segmenter]
        design, width = self.discriminator, self.discriminator_width
        judges = {name: self.prediction_discriminator(design, width, self.level(name)) for name in self.fooled}
        self.discriminators = nn.ModuleDict(judges)
        lr = self.discriminator_lr
        judge = self.opponent("discriminator", self.discriminators, self.discriminate, lr=lr, constant=True)
        return [segmenter, judge]

    def level(self, name: str) -> int:
        """The deep-supervision level that a discriminator looks at."""
        return ("main", "aux").index(name)

    def forward(self, batch: CrossModalBatch) -> Outputs:
        maps = self.network(batch.images, batch.modality, features=True)
        information = {
            name: batch.framed(self_information(maps.logits[self.level(name)].softmax(1))) for name in self.fooled
        }
        return Outputs(maps.logits, information, maps.decoder)

    def objective(self, batch: CrossModalBatch, outputs: Outputs) -> Losses:
        losses = Losses().add("sup", self.supervised_loss(outputs.logits, batch))
        for name, weight in self.fooled.items():
            scores = self.discriminators[name](outputs.information[name][batch.target_rows])
            losses.adapt(f"fool_{name}", fool(scores), weight * self.joined(self.adversary_start))
        return losses

    def discriminate(self, batch: CrossModalBatch, outputs: Outputs) -> Losses:
        """What the discriminators descend, on maps that carry no gradient."""
        losses = Losses()
        for name in self.fooled:
            scores = self.discriminators[name](outputs.information[name].detach())
            source, target = scores[batch.source_rows], scores[batch.target_rows]
            losses.add(f"detect_{name}", detect(source, target))
            losses.add(f"accuracy_{name}", detection_accuracy(source, target), 0.0)
        return losses


class MPSCLTrainer(AdvEntTrainer):
    """l = l_sup + l_fool + margin_source_weight · l_margin(source) + margin_target_weight · l_margin(target) (Eq. 11).

    The first ``warm_up`` of the training is AdvEnt's. A pass over the source cases then initialises the prototypes, and
    the margin contrast joins.

    Differs from the paper: the feature is a stage of the U-Net's decoder; the warm-up is a share of the training;
    angles are taken about the mean of the prototypes, since features behind a rectifier lie in one corner, where all
    cosines are above 0.9 and no pixel is clearly nearer to one prototype; the contrast is averaged over classes, not
    over pixels.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            **AdvEntTrainer.presets["paper"],
            "margin_source_weight": 1.0,
            "margin_target_weight": 0.1,
            "source_margin": 0.4,
            "target_margin": 0.2,
            "margin_temperature": 1.0,
            "prototype_momentum": 0.2,
            "centred": False,
            "balanced": False,
            "confidence_threshold": 0.25,
        }
    }

    warm_up: Share = 0.2
    feature_stage: Index | None = None
    """Decoder stage whose features are contrasted; ``null`` is the first at half of the resolution or less."""
    margin_source_weight: Weight = 1.0
    margin_target_weight: Weight = 0.1
    source_margin: Angle = 0.4
    target_margin: Angle = 0.2
    margin_temperature: Positive = 1.0
    margin_mode: MarginMode = "paper"
    centred: bool = True
    """Whether angles are taken about the mean of the prototypes, not about the origin."""
    balanced: bool = True
    """Whether every class weighs the same in the contrast, not every pixel."""
    pseudo_labels: Literal["prototypes", "teacher"] = "prototypes"
    """Who labels the target: the nearest prototype, or the teacher (``teacher=true``) from when it labels on."""
    prototype_momentum: Momentum = 0.9
    """Weight of the old prototype."""
    prototype_patches: Count = 128
    """Most patches of the pass that initialises the prototypes."""
    confidence_threshold: Annotated[float, Bounds(0, 2)] = 0.25
    """Least difference of the two largest cosines."""

    def check_plan(self, planned: dict[str, Any]) -> None:
        stages = planned["architecture"]["arch_kwargs"]["n_stages"]
        self.check_option(
            "pseudo_labels", self.teacher or self.pseudo_labels != "teacher", "prototypes, or teacher=true"
        )
        self.check_option("feature_stage", (self.feature_stage or 0) < stages - 1, f"0 … {stages - 2}, or null")

    @property
    def stage(self) -> int:
        if self.feature_stage is not None:
            return self.feature_stage
        strides = self.stage_strides[:-1].max(1)
        return int(np.argmax(strides >= 2)) if strides.max() >= 2 else len(strides) - 1

    @property
    def bank(self) -> PrototypeBank:
        bank: PrototypeBank = self.heads["prototypes"]
        return bank

    def build_heads(self) -> nn.ModuleDict:
        width = self.bare_network.encoder.output_channels[self.stage]
        classes = self.label_manager.num_segmentation_heads
        return nn.ModuleDict({"prototypes": PrototypeBank(classes, width, self.prototype_momentum)})

    def phase(self) -> str:
        return "warm-up" if self.current_epoch < round(self.warm_up * self.num_epochs) else "margin contrast"

    def before_epoch(self) -> None:
        if self.phase() == "warm-up" or self.bank.initialised:
            return
        sums = torch.zeros_like(self.bank.centers)
        counts = sums.new_zeros(len(sums))
        patches = 0
        for batch in self.training_patches(self.is_annotated_source, self.prototype_patches):
            features = self.bare_network(batch.images, batch.modality, features=True).decoder[self.stage]
            class_totals = class_sums(features, self.source_labels(batch, features.shape[2:]), len(sums))
            sums, counts, patches = sums + class_totals[0], counts + class_totals[1], patches + len(features)
        if not counts.any():
            raise CrossmodError(f"fold {self.fold} has no annotated source case, of which prototypes could be made")
        self.bank.initialise(sums, counts)
        pixels = ", ".join(f"{name} {int(count)}" for name, count in zip(self.classes, counts, strict=True))
        self.print_to_log_file(f"Prototypes initialised from {patches} source patches; feature pixels: {pixels}")

    @property
    def classes(self) -> list[str]:
        return ["background", *sorted(self.block.labels, key=lambda name: self.block.labels[name])]

    def is_annotated_source(self, case: Case) -> bool:
        return case.annotated and case.modality in self.block.source

    def source_labels(self, batch: CrossModalBatch, size: Sequence[int]) -> Tensor:
        """Labels of source samples at the features' resolution (n, *size); −1 where training knows none."""
        labels = torch.full_like(batch.labels[0], -1)
        for annotated, rows in batch.annotations:
            known = batch.labels[0][rows]
            # beside organs that are not annotated, "background" may be any of them
            labels[rows] = known if len(annotated) == len(self.block.labels) else known.masked_fill(known == 0, -1)
        return labels_at(labels, size)

    def objective(self, batch: CrossModalBatch, outputs: Outputs) -> Losses:
        losses = super().objective(batch, outputs)
        if self.phase() == "warm-up":
            return losses
        features = outputs.decoder[self.stage]
        source, target = features[batch.source_rows], features[batch.target_rows]
        labels = self.source_labels(batch.source, features.shape[2:])
        self.bank.blend(*summed(*class_sums(source, labels, len(self.classes))))
        source, target, centers = self.about_centre(source, target)
        cosines = prototype_cosines(target.detach(), centers)
        pseudo_labels, valid = self.labelled(batch, cosines, centers)
        joined = self.joined(self.warm_up)
        on_source = self.contrast(source, centers, labels, self.source_margin)
        on_target = self.contrast(target, centers, pseudo_labels, self.target_margin, valid)
        losses.adapt("margin_source", on_source, self.margin_source_weight * joined)
        losses.adapt("margin_target", on_target, self.margin_target_weight * joined)
        for name, share in zip(self.classes, valid_shares(pseudo_labels, valid, len(self.classes)), strict=True):
            losses.add(f"valid_{name}", share, 0.0)
        return losses.add("target_angle", cosines.amax(1).clamp(-1, 1).acos().rad2deg().mean(), 0.0)

    def about_centre(self, *features: Tensor) -> tuple[Tensor, ...]:
        """Features (n, d, *s), and then the prototypes (k, d), as they are compared."""
        return self.bank.about_middle(*features) if self.centred else (*features, self.bank.centers)

    def labelled(self, batch: CrossModalBatch, cosines: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (n, *f) of the target's features by their cosines (n, k, *f), and where they are valid (Eq. 6-7)."""
        if self.pseudo_labels == "teacher" and batch.pseudo_labels is not None and batch.trusted is not None:
            size = cosines.shape[2:]
            return labels_at(batch.pseudo_labels, size), labels_at(batch.trusted, size)
        return confident(cosines, centers, self.confidence_threshold)

    def contrast(
        self, features: Tensor, centers: Tensor, labels: Tensor, margin: float, valid: Tensor | None = None
    ) -> Tensor:
        """l_margin (Eq. 8)."""
        tau, mode = self.margin_temperature, self.margin_mode
        return margin_contrast(features, centers, labels, margin, tau, valid, mode, self.balanced)

    def draw(self, batch: CrossModalBatch, folder: Path) -> None:
        if not self.bank.initialised:
            return
        from nnunet_crossmod.pictures.pseudo_label_grid import pseudo_label_grid

        target = batch.target
        features = self.bare_network(target.images, target.modality, features=True).decoder[self.stage]
        features, centers = self.about_centre(features)
        labels, valid = self.labelled(batch, prototype_cosines(features, centers), centers)
        pseudo_label_grid(target.images[:, 0], labels, valid, self.block.labels, folder / "pseudo_labels.png")
