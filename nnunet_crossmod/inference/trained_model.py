"""A trained model as nnU-Net leaves it in a folder: what is there, and whether it can be used."""

from __future__ import annotations

import contextlib
import io
import pickle
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.inference.scans import known_modality
from nnunet_crossmod.paths import FINAL, let_nnunet_find_trainers, load_trainer, read_json
from nnunet_crossmod.plans import reader_reorients
from nnunet_crossmod.raw.block import CrossmodBlock

if TYPE_CHECKING:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

__all__ = ["TrainedModel", "open_model", "untranslated"]


@dataclass(frozen=True)
class TrainedModel:
    """The folder of a cross-modal model, checked.

    ``folds`` are the chosen ones, each with its ``checkpoint``; ``modalities`` those the network knows.
    """

    folder: Path
    folds: tuple[int | str, ...]
    checkpoint: str
    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    modalities: tuple[str, ...]

    @property
    def trainer(self) -> str:
        """Name of the trainer."""
        return self.folder.name.split("__")[0]

    @property
    def configuration(self) -> str:
        """Name of the configuration."""
        return self.folder.name.split("__")[-1]

    @property
    def ending(self) -> str:
        """Ending of the data set's files."""
        return str(self.dataset_json["file_ending"])

    @property
    def channels(self) -> int:
        """Number of image channels, the modality channel not counted."""
        return len(self.dataset_json["channel_names"]) - 1

    @property
    def orientations(self) -> dict[str, tuple[str, ...]]:
        """Modality → orientations of its training scans, as ``LPS``; nothing where nnU-Net's reader turns all alike."""
        if reader_reorients(self.plans.get("image_reader_writer")):
            return {}
        block = CrossmodBlock.from_dataset_json(self.dataset_json, str(self.folder / "dataset.json"))
        return dict(block.orientations)

    def index_of(self, modality: str) -> int:
        """Position of a modality.

        Raises:
            CrossmodError: the model was not trained on it.
        """
        return self.modalities.index(known_modality(modality, self.modalities, f"the model {self.folder.name}"))

    def caution(self, modality: str) -> str:
        """What to know before the model is used on a modality; nothing as a rule."""
        source = self.dataset_json["crossmod"]["source"]
        return untranslated(self.trainer, [modality], self.plans) if modality in source else ""

    def load(self, **options: Any) -> nnUNetPredictor:
        """nnU-Net's predictor with the weights of the folds.

        Args:
            options: of ``nnUNetPredictor``.

        Raises:
            CrossmodError: a checkpoint that is damaged or of another network.
        """
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        let_nnunet_find_trainers()
        try:
            self._warn_of_code()
            with contextlib.redirect_stdout(io.StringIO()):  # what it says is of no use here
                predictor = nnUNetPredictor(**options)
                predictor.initialize_from_trained_model_folder(str(self.folder), list(self.folds), self.checkpoint)
        except CrossmodError:
            raise
        except (RuntimeError, KeyError, EOFError, OSError, pickle.UnpicklingError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            if "Could not find requested nnunet trainer" in reason:
                raise CrossmodError(
                    f"nnU-Net finds no trainer {self.trainer}: let nnUNet_extTrainer name the folder it lies in"
                ) from error
            raise CrossmodError(
                f"{self.checkpoint} of {self.folder} cannot be loaded ({reason}): copy it again, or name another with "
                "-chk"
            ) from error
        return predictor

    def _warn_of_code(self) -> None:
        """nnU-Net reads checkpoints as pickles, which may run code: say so where one holds more than weights."""
        from nnunet_crossmod.weights import what_could_run

        for fold in self.folds:
            file, strange = self.folder / f"fold_{fold}" / self.checkpoint, []
            with contextlib.suppress(CrossmodError):  # what is damaged is told where it is loaded
                strange = what_could_run(file)
            if strange:
                warnings.warn(
                    f"{file} calls {', '.join(strange[:3])} when nnU-Net reads it, as no checkpoint of nnU-Net does: "
                    "use it only if you trust whoever made it",
                    stacklevel=2,
                )


def untranslated(trainer: str, source: Sequence[str], plans: Mapping[str, Any]) -> str:
    """What to know of source scans where a method trains its segmenter on translations of them alone; else nothing.

    Args:
        trainer: its name.
        source: modalities, for the message.
        plans: the ``plans.json`` of the model.
    """
    options = plans.get("crossmod", {})
    shows_some = options.get("raw_share", 0) > 0 or options.get("style_transfer") is False
    if shows_some or not getattr(load_trainer(trainer), "translates_scans", False):
        return ""
    return (
        f"{trainer} trains its segmenter on translated {', '.join(source)} scans: of untranslated ones it has seen none"
    )


def open_model(folder: Path, folds: Sequence[int | str] | None = None, checkpoint: str = FINAL) -> TrainedModel:
    """Look at the folder of a trained model without loading weights.

    Args:
        folder: ``TRAINER__PLANS__CONFIGURATION``.
        folds: which ones; ``None`` takes all that have the checkpoint but ``all``, as nnU-Net does.
        checkpoint: file name.

    Raises:
        CrossmodError: no such folder, not a cross-modal model, a fold that is missing or whose training is unfinished.
    """
    if not folder.is_dir():
        raise CrossmodError(f"model folder {folder} does not exist: check the path")
    dataset_json, plans = (
        read_json(folder / name, "is this the folder of a model?") for name in ("dataset.json", "plans.json")
    )
    modalities = plans.get("crossmod", {}).get("modalities")
    if not modalities:
        raise CrossmodError(
            f"{folder} was not trained by a cross-modal trainer (its plans.json names no modalities): predict with "
            "nnUNetv2_predict, share with nnUNetv2_export_model_to_zip"
        )
    return TrainedModel(
        folder, _folds(folder, folds, checkpoint), checkpoint, plans, dataset_json, tuple(map(str, modalities))
    )


def _folds(folder: Path, wanted: Sequence[int | str] | None, checkpoint: str) -> tuple[int | str, ...]:
    trained = sorted(path.name.removeprefix("fold_") for path in folder.glob("fold_*") if path.is_dir())
    if wanted is None:
        finished = [fold for fold in trained if fold != "all" and (folder / f"fold_{fold}" / checkpoint).is_file()]
        if finished:
            return tuple(int(fold) for fold in finished)
        wanted = trained
    if not wanted:
        raise CrossmodError(f"{folder} holds no fold: train one with nnUNetv2_train")
    for fold in wanted:
        if str(fold) not in trained:
            raise CrossmodError(f"{folder} has no fold {fold}; trained: {', '.join(trained) or 'none'}")
        if not (folder / f"fold_{fold}" / checkpoint).is_file():
            there = ", ".join(sorted(path.name for path in (folder / f"fold_{fold}").glob("*.pth"))) or "none"
            remedy = "finish the training (nnUNetv2_train … --c), or " if checkpoint == FINAL else ""
            raise CrossmodError(
                f"{folder / f'fold_{fold}'} has no {checkpoint}: {remedy}choose another with -chk (there: {there})"
            )
    return tuple(int(fold) if str(fold).isdigit() else str(fold) for fold in wanted)
