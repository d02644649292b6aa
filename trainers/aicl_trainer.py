"""AICL: adaptive inter-organ contrastive learning (MIDL 2026 submission)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nnunet_crossmod.data import CrossModalBatch, Rows
from nnunet_crossmod.losses import class_descriptors, feature_patch_contrast, structural_consistency
from nnunet_crossmod.pseudo_labels import Embedding, dense_organ_patches, labels_at
from nnunet_crossmod.training import CrossModalTrainer, Losses
from nnunet_crossmod.training.hyperparameters import Count, Index, Positive, Share, Weight


class Outputs(NamedTuple):
    """``logits`` of every deep-supervision level, ``features`` F (n, c, *f), ``decoder`` features (n, d, *s)."""

    logits: list[Tensor]
    features: Tensor
    decoder: Tensor


def resized(probabilities: Tensor, size: Sequence[int]) -> Tensor:
    """Average class probabilities (n, k, *s) to a map of another size: (n, k, *size)."""
    if tuple(probabilities.shape[2:]) == tuple(size):
        return probabilities
    pool = functional.adaptive_avg_pool2d if len(size) == 2 else functional.adaptive_avg_pool3d
    averaged: Tensor = pool(probabilities, tuple(size))  # type: ignore[arg-type]
    return averaged


def held(features: Tensor, rows: Rows) -> Tensor:
    """The features (n, …), of which those at ``rows`` carry no gradient."""
    fixed = features.clone()
    fixed[rows] = features[rows].detach()
    return fixed


class AICLTrainer(CrossModalTrainer):
    """l = l_sup + csc_weight · l_csc + fpc_weight · l_fpc (Eq. 6) on an encoder with conditional instance norm (Eq. 1).

    Differs from the paper: l_sup is nnU-Net's Dice and cross-entropy, since Dice-focal learns slower; the contrastive
    terms join after ``warm_up`` of the training, when pseudo-labels have taken shape; unpaired scans are compared by
    class descriptors, since flattened probability maps presuppose registration; where no target scan is annotated, the
    contrastive terms move the target towards the source, not the reverse.
    """

    conditioning = "encoder"
    optimizer_name = "adam"
    initial_lr = 1e-4
    weight_decay = 1e-5

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "conditioning": "encoder",
            "segmentation_loss": "dice_focal",
            "optimizer_name": "adam",
            "initial_lr": 1e-4,
            "weight_decay": 1e-5,
            "warm_up": 0.0,
            "fpc_weight": 0.5,
            "csc_weight": 1.0,
            "patch_embedding": "mean",
            "patch_least_voxels": 1,
            "reference": "none",
        }
    }

    warm_up: Share = 0.3
    fpc_weight: Weight = 0.5
    fpc_temperature: Positive = 0.07
    fpc_mode: Literal["all", "literal"] = "all"
    feature_stage: Index | None = None
    """Encoder stage of F; ``null`` is the deepest with a stride of at most 8, the bottleneck of the paper's U-Net."""
    patch_size: tuple[Count, ...] | None = None
    """PS in input voxels; ``null`` is six voxels of F along every axis."""
    patch_width: Literal["full", "literal"] = "full"
    """Width of the cube: PS (the stated size of the embedding), or 2 · PS (Eq. 3 as printed)."""
    patch_embedding: Embedding = "organ"
    patch_least_voxels: Count = 2
    """Voxels of F with an organ's label that make a patch."""
    csc_weight: Weight = 1.0
    csc_temperature: Positive = 0.5
    csc_stage: Index = 0
    """Decoder stage whose features describe the classes; 0 is full resolution, every stage halves it."""
    csc_pooling: Literal["batch", "sample"] = "batch"
    """Unpaired scans: describe a class by all samples of a modality, or by each alone (where it may be absent)."""
    csc_directions: Literal["both", "source_to_target"] = "both"
    pairing: Literal["auto", "registered", "unpaired"] = "auto"
    reference: Literal["auto", "source", "none"] = "auto"
    """Whose features get no gradient from the contrastive terms; ``auto``: the source's where no target scan is
    annotated, so that labels alone shape the source."""

    def uses_registered_pairs(self) -> bool:
        return self.pairing == "registered" or (self.pairing == "auto" and self.block.registered)

    def check_plan(self, planned: dict[str, Any]) -> None:
        axes, stages = len(planned["patch_size"]), planned["architecture"]["arch_kwargs"]["n_stages"]
        size = self.patch_size
        self.check_option("patch_size", size is None or len(size) == axes, f"{axes} positive numbers")
        self.check_option("feature_stage", (self.feature_stage or 0) < stages, f"0 … {stages - 1}, or null")
        self.check_option("csc_stage", self.csc_stage < stages - 1, f"0 … {stages - 2}")

    def forward(self, batch: CrossModalBatch) -> Outputs:
        maps = self.network(batch.images, batch.modality, features=True)
        return Outputs(maps.logits, maps.encoder[self.feature_level()], maps.decoder[self.csc_stage])

    def feature_level(self) -> int:
        """The encoder stage that F comes from."""
        if self.feature_stage is not None:
            return self.feature_stage
        return int(np.flatnonzero(self.stage_strides.max(1) <= 8)[-1])

    def source_is_reference(self) -> bool:
        """Whether the contrastive terms hold the source's features fixed."""
        if self.reference == "auto":
            return not self.block.target_annotated
        return self.reference == "source"

    def objective(self, batch: CrossModalBatch, outputs: Outputs) -> Losses:
        losses = Losses().add("sup", self.supervised_loss(outputs.logits, batch))
        if joined := self.joined(self.warm_up):
            losses.adapt("csc", self.structural_consistency(batch, outputs), self.csc_weight * joined)
            losses.adapt("fpc", self.organ_patch_contrast(batch, outputs), self.fpc_weight * joined)
        return losses

    def organ_patch_contrast(self, batch: CrossModalBatch, outputs: Outputs) -> Tensor:
        """PGPS (Eq. 2-3), then l_fpc (Eq. 4)."""
        labels = self.best_labels(batch, outputs.logits[0])
        features = outputs.features
        organs = outputs.logits[0].shape[1] - 1
        patches, present = dense_organ_patches(
            features,
            labels_at(labels, features.shape[2:]),
            self.feature_patch_size(),
            organs,
            self.patch_embedding,
            self.patch_least_voxels,
        )
        if self.source_is_reference():
            patches = held(patches, batch.source_rows)
        organ = torch.arange(organs, device=features.device).masked_fill(~present, -1)
        modality = batch.modality[:, None].expand_as(present)
        return feature_patch_contrast(
            patches.flatten(0, 1), organ.flatten(), modality.flatten(), self.fpc_temperature, self.fpc_mode
        )

    def feature_patch_size(self) -> list[int]:
        """PS in voxels of F: at least 1; :func:`dense_organ_patches` cuts it to the map."""
        stride = self.stage_strides[self.feature_level()]
        size = 6 * stride if self.patch_size is None else np.array(self.patch_size)
        widened = 2 * size if self.patch_width == "literal" else size
        return [max(1, round(width)) for width in widened / stride]

    def structural_consistency(self, batch: CrossModalBatch, outputs: Outputs) -> Tensor:
        """l_csc (Eq. 5) between the b-th sample of every source and the b-th of every target modality."""
        probabilities = resized(outputs.logits[0].softmax(1), outputs.decoder.shape[2:])

        def described(modality: str) -> Tensor:
            rows = batch.rows_of(modality)
            if batch.registered:
                return outputs.logits[0][rows].softmax(1).flatten(2)
            return class_descriptors(outputs.decoder[rows], probabilities[rows], self.csc_pooling == "batch")

        source, target = list(map(described, self.block.source)), list(map(described, self.block.target))
        if self.source_is_reference():
            source = [descriptors.detach() for descriptors in source]
        return torch.stack([self.consistency_of_pairs(a, b) for a in source for b in target]).mean()

    def consistency_of_pairs(self, source: Tensor, target: Tensor) -> Tensor:
        """l_csc of the first samples of two modalities, as many as both have."""
        pairs = min(len(source), len(target))
        forth = structural_consistency(source[:pairs], target[:pairs], self.csc_temperature)
        if self.csc_directions == "source_to_target":
            return forth
        back = structural_consistency(target[:pairs], source[:pairs], self.csc_temperature)
        return (forth + back) / 2
