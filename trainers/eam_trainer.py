"""EAM: structured semantic consistency by external attention modules (Yang et al., MIDL 2023)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from nnunet_crossmod.data import CrossModalBatch
from nnunet_crossmod.losses import image_consistency_of_all, modality_consistency_of_all, trusted_dice_ce
from nnunet_crossmod.nn import (
    ClassEmbeddings,
    ExternalAttention,
    ModalityUNet,
    ModulatedUNet,
    SemanticMaps,
    encoder_per_modality,
    semantic_correlations,
)
from nnunet_crossmod.pseudo_labels import labels_at
from nnunet_crossmod.training import CrossModalTrainer, Losses
from nnunet_crossmod.training.hyperparameters import Count, Positive, Share, Weight


class Outputs(NamedTuple):
    """``logits`` of every deep-supervision level; ``maps`` of every modality in the batch, lowest scale first."""

    logits: list[Tensor]
    maps: dict[str, list[SemanticMaps]]


class EAMTrainer(CrossModalTrainer):
    """Eq. 12: Σ_m L_seg(m) + aux_weight · Σ_m L_aux(m) + mcr_weight · L_mcr + icr_weight · L_icr.

    External attention modules, one a modality and scale, look at the lowest decoder scales; they are heads and stay
    behind at inference. A modality without annotation has no L_seg and no L_aux.

    Differs from the paper: scales are averaged, not summed; correlations are divided by their deviation, or L_icr would
    grow and shrink with the length of the features; where no target scan is annotated, the target is seen through the
    source's attention, and L_icr moves the target alone, once ``warm_up`` of the training is over.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "architecture": "v3",
            "aux_weight": 1.0,
            "mcr_weight": 0.5,
            "icr_weight": 0.5,
            "icr_temperature": 4.0,
            "warm_up": 0.0,
            "over_scales": "sum",
            "standardised": False,
            "guidance": "mutual",
        }
    }

    architecture: Literal["v1", "v2", "v3"] = "v2"
    """What modalities share: the decoder (v1), everything (v2), everything but gains on residual branches (v3)."""
    aux_weight: Weight = 1.0
    mcr_weight: Weight = 0.5
    icr_weight: Weight = 0.5
    icr_temperature: Positive = 4.0
    warm_up: Share = 0.25
    """Share of the training after which L_icr joins."""
    over_scales: Literal["mean", "sum"] = "mean"
    """L_aux and L_icr of the scales: averaged, or summed as in the paper."""
    standardised: bool = True
    """Whether semantic correlations are divided by their deviation before L_icr compares them."""
    guidance: Literal["auto", "source", "mutual"] = "auto"
    """``source``: the target shares the source's attention, and L_icr does not move the source; ``auto``: so where no
    target scan is annotated; ``mutual``: every modality has attention of its own and all move, as in the paper."""
    attention_heads: Count = 8
    """At most; every scale takes the largest divisor of its width up to this."""
    attention_scales: Count = 3
    """Decoder scales that are attended to, from the lowest up; as many as the network has, where it has fewer."""
    max_tokens: Count = 4096
    """Voxels a scale is averaged to before it is attended to, where it has more."""

    @classmethod
    def extend_network(
        cls, build: Callable[[], ModalityUNet], options: Mapping[str, Any], configuration: Any
    ) -> nn.Module:
        if options["architecture"] == "v1":
            return encoder_per_modality([build() for _ in options["modalities"]])
        return ModulatedUNet(build()) if options["architecture"] == "v3" else build()

    def build_heads(self) -> nn.ModuleDict:
        widths = self.bare_network.encoder.output_channels[-2::-1][: self.attention_scales]
        modalities, classes = len(self.block.modalities), self.label_manager.num_segmentation_heads

        def scales() -> nn.ModuleList:
            return nn.ModuleList(
                ExternalAttention(classes, width, self.attention_heads, following, self.max_tokens)
                for width, following in zip(widths, [*widths[1:], None], strict=True)
            )

        heads = nn.ModuleDict({"attention": nn.ModuleList(scales() for _ in self.attentive())})
        if self.architecture != "v3":
            heads["class_embeddings"] = ClassEmbeddings(modalities, classes, widths[0])
        return heads

    def gathers_dice(self) -> bool:
        """L_seg is computed modality by modality: in every process only if all of a modality's cases have labels."""
        cases = self.block.cases.values()
        return super().gathers_dice() and all(
            len({case.annotated for case in cases if case.modality == modality}) == 1
            for modality in self.block.modalities
        )

    def check_plan(self, planned: dict[str, Any]) -> None:
        separate = self.architecture == "v1"
        self.check_option("conditioning", not separate or self.conditioning == "none", "none with architecture = v1")

    def source_guides(self) -> bool:
        """Whether the target shares the source's attention and leaves the source as it is."""
        return self.guidance == "source" or (self.guidance == "auto" and not self.block.target_annotated)

    def attentive(self) -> tuple[str, ...]:
        """The modalities that have attention modules of their own; the others look through those of the first."""
        return self.block.source if self.source_guides() else self.block.modalities

    def attention(self, modality: str) -> Any:
        """The attention modules that look at a modality's features, the lowest scale first."""
        own = self.attentive()
        return self.heads["attention"][own.index(modality) if modality in own else 0]

    def class_embeddings(self) -> Tensor:
        """Q (m, z, c); in V3 the network's own, from which its gains derive."""
        embeddings: Tensor = (
            self.bare_network.class_embeddings if self.architecture == "v3" else self.heads["class_embeddings"].weight
        )
        return embeddings

    def forward(self, batch: CrossModalBatch) -> Outputs:
        return self.look(self.network, batch)

    def look(self, network: nn.Module, batch: CrossModalBatch) -> Outputs:
        """Segment, and let every modality's class embeddings look at its samples' features (Eq. 1-5)."""
        rows = [batch.rows_of(modality) for modality in self.block.modalities]
        features = network(batch.images, batch.modality, features=True, rows=rows)
        maps: dict[str, list[SemanticMaps]] = {}
        if not (self.aux_weight or self.icr_weight):
            return Outputs(features.logits, maps)
        present = {case.modality for case in batch.cases}
        for modality, chosen, embeddings in zip(self.block.modalities, rows, self.class_embeddings(), strict=True):
            if modality in present:
                maps[modality] = []
                for attention, level in zip(self.attention(modality), features.decoder[::-1], strict=False):
                    embeddings, seen = attention(embeddings, level[chosen])
                    maps[modality].append(seen)
        return Outputs(features.logits, maps)

    def objective(self, batch: CrossModalBatch, outputs: Outputs) -> Losses:
        losses = Losses().add("seg", self.segmentation(batch, outputs))
        if self.aux_weight:
            losses.add("aux", self.auxiliary(batch, outputs), self.aux_weight)
        if self.mcr_weight:
            losses.adapt("mcr", modality_consistency_of_all(self.class_embeddings()), self.mcr_weight)
        if self.icr_weight:
            losses.adapt("icr", self.image_consistency(outputs), self.icr_weight * self.joined(self.warm_up))
        return losses

    def segmentation(self, batch: CrossModalBatch, outputs: Outputs) -> Tensor:
        """Σ_m L_seg(m), each over the annotated samples of its modality."""
        terms = []
        for modality in self.block.modalities:
            chosen = batch.rows_of(modality)
            terms.append(self.supervised_loss([level[chosen] for level in outputs.logits], batch.select(chosen)))
        return torch.stack(terms).sum()

    def auxiliary(self, batch: CrossModalBatch, outputs: Outputs) -> Tensor:
        """Σ_m L_aux(m): the semantic-aware maps segment, at every scale (Eq. 9)."""
        terms = []
        for modality, maps in outputs.maps.items():
            samples = batch.of(modality)
            for attention, seen in zip(self.attention(modality), maps, strict=True):
                logits = attention.predict(seen.attention)
                labels = labels_of_size(samples, logits.shape[2:])
                terms.append(self.supervised_loss([logits], replace(samples, labels=(labels,))))
        if batch.pseudo_labels is not None and batch.trusted is not None:
            terms += self.taught(batch, outputs, batch.pseudo_labels, batch.trusted)
        return self.summed_over_scales(terms)

    def taught(self, batch: CrossModalBatch, outputs: Outputs, labels: Tensor, trusted: Tensor) -> list[Tensor]:
        """The target's semantic-aware maps segment as its teacher does, where it is sure, at every scale."""
        present = [
            (modality, batch.target.rows_of(modality)) for modality in self.block.target if modality in outputs.maps
        ]
        terms = []
        for scale in range(len(outputs.maps[present[0][0]])):
            seen = [self.attention(m)[scale].predict(outputs.maps[m][scale].attention) for m, _ in present]
            size = seen[0].shape[2:]
            known, sure = (
                torch.cat([labels_at(maps[rows], size) for _, rows in present]) for maps in (labels, trusted)
            )
            taught = trusted_dice_ce(torch.cat(seen), known, sure)
            terms.append(self.teacher_weight * self.teacher_share * taught)
        return terms

    def image_consistency(self, outputs: Outputs) -> Tensor:
        """L_icr (Eq. 6-8, 11): the b-th samples of all modalities relate the classes alike, at every scale."""
        pairs = min(len(maps[0].attention) for maps in outputs.maps.values())
        terms = []
        for scale in zip(*outputs.maps.values(), strict=True):
            correlations = torch.stack(
                [self.correlations(modality, seen, pairs) for modality, seen in zip(outputs.maps, scale, strict=True)]
            )
            terms.append(image_consistency_of_all(correlations, self.icr_temperature))
        return self.summed_over_scales(terms)

    def correlations(self, modality: str, seen: SemanticMaps, pairs: int | None = None) -> Tensor:
        """E (Eq. 6-8) of a modality's first samples, or of all (pairs, z, z), as L_icr compares it."""
        correlations = semantic_correlations(seen.attention[:pairs], seen.kernels[:pairs])
        if self.standardised:
            correlations = correlations / correlations.float().std((1, 2), keepdim=True).clamp(min=1e-6)
        if self.source_guides() and modality in self.block.source:
            correlations = correlations.detach()
        return correlations

    def summed_over_scales(self, terms: list[Tensor]) -> Tensor:
        """The sum of terms, one a scale, or one a scale and modality: with ``over_scales=mean`` of the mean scale."""
        total = torch.stack(terms).sum()
        return total / len(self.heads["attention"][0]) if self.over_scales == "mean" else total

    def draw(self, batch: CrossModalBatch, folder: Path) -> None:
        from nnunet_crossmod.pictures.semantic_maps import draw_correlations, draw_semantic_maps

        maps = self.look(self.bare_network, batch).maps
        if not maps:
            return
        classes = ["background", *self.block.labels]
        draw_correlations(
            {
                modality: [
                    (self.correlations(modality, seen) / self.icr_temperature).softmax(2).mean(0).cpu().numpy()
                    for seen in scales
                ]
                for modality, scales in maps.items()
            },
            classes,
            folder / "semantic_correlations.png",
        )
        draw_semantic_maps(
            {modality: batch.images[batch.rows_of(modality)][0, 0].cpu().numpy() for modality in maps},
            {modality: scales[-1].attention[0].sum(1).cpu().numpy() for modality, scales in maps.items()},
            classes,
            folder / "semantic_maps.png",
        )


def labels_of_size(batch: CrossModalBatch, size: torch.Size) -> Tensor:
    """The labels of the deep-supervision level of that size, or else the full labels brought to it: (n, *size)."""
    for level in batch.labels:
        if level.shape[1:] == size:
            return level
    return labels_at(batch.labels[0], size)
