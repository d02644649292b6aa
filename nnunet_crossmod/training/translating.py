"""The base of trainers whose segmenter learns from source scans translated into the target's style."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from nnunet_crossmod.data import CrossModalBatch
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.losses import Game, detect, fool, probability_of_real
from nnunet_crossmod.nn import ImageTranslator, flicker, translator_state
from nnunet_crossmod.training.collapse import collapse_warnings, foreground_variance
from nnunet_crossmod.training.hyperparameters import Share
from nnunet_crossmod.training.losses import Losses
from nnunet_crossmod.training.trainer import CrossModalTrainer
from nnunet_crossmod.weights import read_checkpoint

__all__ = ["CollapseTerms", "TranslatingTrainer", "TranslationMode"]

TranslationMode = Literal["volume", "slices"]
"""In 3D: a 3D translator, or the papers' 2D one slice by slice, whose slices may flicker. In 2D there is one way."""


class CollapseTerms(NamedTuple):
    """The logged terms, ``player/term``, by which a failing translation is detected.

    ``translator`` is the player that logs the variances of source and translations. ``fool`` is its least-squares loss,
    1 where every fake is detected, ``detect`` the discriminator's. ``advice`` names the weight that the warning says to
    raise.
    """

    translator: str
    fool: str
    detect: str
    advice: str


FLAT = 0.02  # a standard deviation of a tenth, as z-score


def where_it_shows_something(images: Tensor, made: Tensor) -> Tensor:
    """What a generator made of images, without a gradient for those that are flat, as empty slices are.

    Every instance norm on the way multiplies the gradient of a flat image by 1 / sqrt(eps): a dozen make it infinite.

    Args:
        images: (n, c, *s), −1 … 1.
        made: (n, …).
    """
    flat = images.detach().flatten(1).std(1) < FLAT
    return torch.where(flat.view(-1, *[1] * (made.ndim - 1)), made.detach(), made)


class TranslatingTrainer(CrossModalTrainer):
    """Source scans are translated in the training step, with their labels; the segmenter sees them and real targets.

    A share of the source stays as it is, so that a translation that goes wrong is never all that the segmenter knows.
    Intensities are augmented after the translation: the translator sees the scans as they are.
    """

    raw_share: Share = 0.5
    """Share of the source samples that the segmenter sees untranslated."""

    translator_checkpoint: str | None = None
    """Checkpoint of another training by the same trainer on the same data set: its translator is where this one's
    begins, so that several trainings share what took long to learn."""

    translates_scans = True

    translator: ImageTranslator
    collapse_terms: ClassVar[CollapseTerms]
    keeps_modality: ClassVar[bool] = True
    """Whether a translated source scan is still shown to the network as one of its own modality."""

    @classmethod
    def build_translator(cls, plans: Any, configuration: Any, channels: int) -> ImageTranslator:
        """The translator of images of ``channels`` channels, z-scores in and out; ``crossmod translate`` loads it.

        Args:
            plans: nnU-Net's plans manager.
            configuration: nnU-Net's configuration manager.
            channels: image channels.
        """
        raise NotImplementedError(f"{cls.__name__} does not say what its translator is")

    def on_train_start(self) -> None:
        """A training that begins takes over the translator of ``translator_checkpoint``; one that goes on has it."""
        if not self.was_initialized:
            self.initialize()
        if self.translates and self.translator_checkpoint is not None and self.current_epoch == 0:
            self._take_over(Path(self.translator_checkpoint))
        super().on_train_start()

    def _take_over(self, file: Path) -> None:
        if not file.is_file():
            raise CrossmodError(f"translator_checkpoint = {file} is no file: name a checkpoint_final.pth")
        checkpoint = read_checkpoint(file)
        weights = translator_state(checkpoint)
        modalities = checkpoint.get("init_args", {}).get("plans", {}).get("crossmod", {}).get("modalities")
        try:
            self.translator.load_state_dict(weights)
            fits = checkpoint.get("trainer_name") == type(self).__name__ and modalities == list(self.block.modalities)
        except RuntimeError:
            fits = False
        if not fits:
            raise CrossmodError(
                f"translator_checkpoint = {file} holds {'another' if weights else 'no'} translator: name one that "
                f"{type(self).__name__} wrote with the same widths and modalities"
            )
        self.print_to_log_file(f"The translator is that of {file}")

    @property
    def translates(self) -> bool:
        """Whether there is a translator at all: an ablation may leave it out."""
        return True

    @property
    def augments_in_objective(self) -> bool:
        return self.translates

    def as_target(self, images: Tensor, modality: Tensor) -> Tensor:
        """Source images (n, c, *s), z-scores, of the given modalities (n,) in the target's style; without gradient."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it translates")

    def as_segmented(self, batch: CrossModalBatch, translated: Tensor) -> CrossModalBatch:
        """What the segmenter sees: source, translated or not, with its labels, and real target, all augmented."""
        images, modality = batch.images.clone(), batch.modality.clone()
        raw = torch.rand(len(translated), device=translated.device) < self.raw_share
        source = images[batch.source_rows]
        images[batch.source_rows] = torch.where(raw.view(-1, *[1] * (source.ndim - 1)), source, translated.to(source))
        if not self.keeps_modality:
            modality[batch.source_rows] = self.first_target
        return self.augmented(replace(batch, images=images, modality=modality))

    @property
    def first_target(self) -> int:
        """Index of the first target modality."""
        return self.block.modalities.index(self.block.target[0])

    def validation_images(self, batch: CrossModalBatch) -> Tensor:
        """Online validation on what the segmenter is trained for: annotated source scans are translated."""
        if not self.translates:
            return batch.images
        images, rows = batch.images.clone(), batch.source_rows
        images[rows, :-1] = self.as_target(images[rows, :-1], batch.modality[rows])
        if not self.keeps_modality:
            images[rows, -1:] = (images[rows, -1:] > 0) * (1.0 + self.first_target)
        return images

    def source_foreground(self, batch: CrossModalBatch) -> Tensor:
        """Where the source's labels are a structure (n, *s), in slices where the translator works slice by slice."""
        return self.translator.sliced(batch.foreground[batch.source_rows, None])[:, 0]

    def add_variances(self, losses: Losses, source: Tensor, translated: Tensor, foreground: Tensor) -> Losses:
        """Log the foreground variances of source images and of their translations (n, c, *s), on the same scale."""
        losses.add("source_variance", foreground_variance(source, foreground), 0.0)
        return losses.add("translated_variance", foreground_variance(translated.detach(), foreground), 0.0)

    def add_variances_of_source(
        self, losses: Losses, batch: CrossModalBatch, shown: Tensor, translated: Tensor
    ) -> Losses:
        """As :meth:`add_variances`, of the source, in z-scores, where all samples (n, c, *s) were translated."""
        depth, rows = batch.images.shape[2], batch.source_rows
        before, after = (
            self.translator.sliced(self.translator.restored(images.detach(), depth)[rows])
            for images in (shown, translated)
        )
        return self.add_variances(losses, before, after, self.source_foreground(batch))

    def add_certainty(self, losses: Losses, real: Tensor, fake: Tensor, game: Game) -> Losses:
        """Log by what a saturated discriminator is detected, on the scale of least squares in either game."""
        on_real, on_fake = (probability_of_real(scores, game) for scores in (real, fake))
        losses.add("fakes_detected", fool(on_fake, "least_squares"), 0.0)
        return losses.add("misjudged", detect(on_real, on_fake, "least_squares"), 0.0)

    def add_flicker(self, losses: Losses, batch: CrossModalBatch, source: Tensor, translated: Tensor) -> Losses:
        """Log how much neighbouring slices of a translated volume differ, against those of the source (1 is: alike)."""
        if batch.images.ndim < 5:
            return losses
        depth = batch.images.shape[2]
        of_source, of_translated = (flicker(self.translator.restored(x.detach(), depth)) for x in (source, translated))
        return losses.add("flicker", of_translated / of_source.clamp(min=1e-6), 0.0)

    def review(self, means: Mapping[str, float]) -> None:
        """Warn of a translator that has collapsed and of a discriminator that is saturated."""
        terms = self.collapse_terms
        if terms.fool not in means:
            return
        source, translated = (means[f"{terms.translator}/{which}_variance"] for which in ("source", "translated"))
        for warning in collapse_warnings(source, translated, means[terms.fool], means[terms.detect], terms.advice):
            self.print_to_log_file(f"WARNING: {warning}")

    def draw_both_directions(
        self,
        folder: Path,
        source: CrossModalBatch,
        target: CrossModalBatch,
        translate: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> None:
        """Draw source scans as target scans, and the reverse; ``translate``: images, their modality, the wanted one."""
        for direction, here, there in (("to_target", source, target), ("to_source", target, source)):
            number = min(len(here.images), len(there.images))
            shown, wanted = here.select(slice(0, number)), there.modality[:number]
            translated = translate(shown.images, shown.modality, wanted)
            self.draw_translations(folder, shown.images, translated, there.images, direction)

    def draw_translations(
        self, folder: Path, source: Tensor, translated: Tensor, target: Tensor, direction: str = ""
    ) -> None:
        """Draw scans, their translations and scans of the wanted modality below each other."""
        from nnunet_crossmod.pictures.translation_grid import translation_grid

        epoch = int(self.current_epoch)
        name, title = f"epoch_{epoch:04d}", f"epoch {epoch}"
        if direction:
            name, title = f"{name}_{direction}", f"{title}, {direction}"
        translation_grid(source, translated, target, folder / "translations" / f"{name}.png", title)
