"""The base of all trainers: *when* things happen. *What* a method computes stands in its own file in ``trainers/``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn
from torch import distributed as dist

from nnunet_crossmod.data import (
    BalancedDataLoader,
    Case,
    CrossModalBatch,
    CrossModalDataset,
    CrossmodBlock,
    RegisteredDataLoader,
    RegisteredScans,
    spatial_part,
)
from nnunet_crossmod.errors import CrossmodError, report_errors_in_one_line
from nnunet_crossmod.losses import trusted_dice_ce
from nnunet_crossmod.nn import build_unet
from nnunet_crossmod.precision import autocast, processor_has_bf16
from nnunet_crossmod.training import hyperparameters
from nnunet_crossmod.training.adaptation import GradientShare
from nnunet_crossmod.training.borders import training_scans_fill_their_box
from nnunet_crossmod.training.checkpoints import read_addition, write_checkpoint
from nnunet_crossmod.training.drift import adaptation_warnings, target_figures
from nnunet_crossmod.training.input_check import (
    check_fold_of,
    check_input,
    check_role_sizes,
    mixed_orientations,
    planned_configuration,
)
from nnunet_crossmod.training.interruption import stopping_in_one_line
from nnunet_crossmod.training.loading import cases_of_fold, check_fold, end_workers, in_background, summary_of_cases
from nnunet_crossmod.training.losses import Losses
from nnunet_crossmod.training.method import Method
from nnunet_crossmod.training.optimizers import build_optimizer
from nnunet_crossmod.training.player import Player, only_trainable
from nnunet_crossmod.training.record import LossRecord
from nnunet_crossmod.training.resuming import check_resumed, keep_record, resuming
from nnunet_crossmod.training.schedule import LatePolyLR
from nnunet_crossmod.training.selection import CHECKPOINT, LabelFreeSelection
from nnunet_crossmod.training.shared_norms import affine_of
from nnunet_crossmod.training.strong_base import resolve_augmentation
from nnunet_crossmod.training.supervision import annotated_counts, build_criterion
from nnunet_crossmod.training.teacher import Teacher
from nnunet_crossmod.training.terms import LOST, check_finite, lost_gradients, mean_terms
from nnunet_crossmod.training.validation import validate

__all__ = ["CrossModalTrainer"]

MODALITIES = "modalities"  # the entries of the plans' "crossmod" that are no hyper-parameters
TARGET_MODALITIES = "target_modalities"
AFFINE_OF = "affine_of"
FIGURES_EVERY = 5  # steps
EXPECTS_CROP = "expects_crop"


class CrossModalTrainer(Method, nnUNetTrainer):  # type: ignore[misc]
    """Composes a cross-modal training step on nnU-Net's loop; :class:`Method` says what a method may override."""

    _hyperparameter_types: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        # here, not later: nnU-Net forgets the modules of external trainers, and with them what annotations mean
        cls._hyperparameter_types = hyperparameters.types_of(cls)

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ) -> None:
        report_errors_in_one_line()
        self.block = CrossmodBlock.from_dataset_json(dataset_json)
        options = self.options_of(plans)
        self.dataset_class: Any = None
        self._set(options)
        planned = planned_configuration(plans, configuration)
        self._check(plans, configuration, planned, dataset_json)
        check_fold_of(plans, fold)
        # the network is built from the plans alone, also at inference: they record what was trained
        plans["crossmod"] = {
            **options,
            MODALITIES: list(self.block.modalities),
            TARGET_MODALITIES: list(self.block.target),
            AFFINE_OF: affine_of(self.block, self._seen_of_all(), shared=self.shared_norms and not self.teacher),
        }
        super().__init__(plans, configuration, fold, dataset_json, device)
        self._set(options)
        self.uses_bf16 = self.cpu_bf16 == "on" or (self.cpu_bf16 == "auto" and processor_has_bf16())
        self.iteration = 0
        self.seen: dict[str, Case] = {}
        self.validated: dict[str, Case] = {}
        self.players: list[Player] = []
        self.heads = nn.ModuleDict()
        self.teaching: Teacher | None = None
        self.gradient_share: GradientShare | None = None
        self.record: LossRecord | None = None
        self.selection: LabelFreeSelection | None = None
        self.last_batch: CrossModalBatch | None = None
        self.short_first_axis = False

    @classmethod
    def options_of(cls, plans: Mapping[str, Any]) -> dict[str, Any]:
        """Every hyper-parameter as plans, before or after a training, set it.

        Raises:
            CrossmodError: a name that the trainer does not have, or a value that it cannot take.
        """
        recorded = (MODALITIES, TARGET_MODALITIES, AFFINE_OF, EXPECTS_CROP)
        overrides = {name: value for name, value in plans.get("crossmod", {}).items() if name not in recorded}
        where = f"{plans['plans_name']}.json"
        return resolve_augmentation(hyperparameters.resolve(cls, cls._hyperparameter_types, overrides, where))

    def _set(self, options: dict[str, Any]) -> None:
        for name, value in options.items():
            setattr(self, name, value)

    def _check(
        self, plans: dict[str, Any], configuration: str, planned: dict[str, Any], dataset_json: dict[str, Any]
    ) -> None:
        """Refuse wrong input before nnU-Net writes its first file."""
        annotated = [c.name for c in self.block.cases.values() if c.modality in self.block.target and c.annotated]
        if self.forbid_annotated_target and annotated:
            raise CrossmodError(
                f"case {annotated[0]!r} is of the target modality and annotated for training, which "
                f'{type(self).__name__} forbids: set its "annotated" to [] in dataset.json (nnUNet_raw and '
                "nnUNet_preprocessed), or set forbid_annotated_target=false"
            )
        check_role_sizes(self.block, self._seen_of_all(), planned["batch_size"], self.target_batch_size)
        self.check_option("adam_betas", len(self.adam_betas) == 2, "two numbers")
        self.check_plan(planned)
        check_input(plans, configuration, planned, dataset_json)

    def _seen_of_all(self) -> dict[str, Case]:
        return {name: seen for name, case in self.block.cases.items() if (seen := self.see(case)) is not None}

    # ---- the network -------------------------------------------------------------------------------------------

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The planned network, conditioned on the modality; nnU-Net calls this on the class at inference.

        A method that needs more than the planned network overrides :meth:`extend_network`.
        """
        report_errors_in_one_line()
        recorded = plans_manager.plans.get("crossmod", {})
        if MODALITIES not in recorded:
            raise CrossmodError(
                f"the plans {plans_manager.plans_name} do not say which modalities {cls.__name__} was trained on: use "
                "the plans.json of its results folder"
            )
        options = {name: getattr(cls, name) for name in cls._hyperparameter_types} | recorded
        build = partial(
            build_unet,
            configuration_manager.configuration["architecture"],
            num_input_channels,
            num_output_channels,
            recorded[MODALITIES],
            conditioning=options["conditioning"],
            affine_of=recorded.get(AFFINE_OF),
            deep_supervision=enable_deep_supervision,
        )
        network = cls.extend_network(build, options, configuration_manager)
        network.expects_crop = recorded.get(EXPECTS_CROP, False)
        return network

    # ---- setting up --------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """Build network, heads, optimisers and losses."""
        if self.seed is not None:
            torch.manual_seed(self.seed)
            np.random.seed(self.seed)
        super().initialize()
        self.bare_network.expects_crop = False  # whatever a training shows it is cropped
        check_role_sizes(self.block, self._seen_of_all(), self.batch_size, self._target_samples())
        gathered = self.is_ddp and self.gathers_dice()
        ignore, batch_dice = self.label_manager.ignore_label, self.configuration_manager.batch_dice
        self.criterion = build_criterion(self.segmentation_loss, batch_dice, gathered, ignore)
        segmenter = Player(
            "segmenter",
            [self.network, self.heads],
            self.objective,
            self.optimizer,
            self.lr_scheduler,
            lambda batch, outputs: self.forward(batch),
        )
        self.players = self.build_players(segmenter)
        for player in self.players:
            player.begin_alike()
        if self.adaptation_share is not None:
            trained = self.bare_network.parameters()
            self.gradient_share = GradientShare(trained, self.adaptation_share)
        if self.teacher:
            classes = self.label_manager.num_segmentation_heads
            trusted = (self.teacher_confidence, self.teacher_trust)
            teacher = Teacher(self.bare_network, classes, self.teacher_momentum, *trusted)
            self.teaching = teacher.to(self.device)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, LatePolyLR]:
        """One optimiser for network and heads, on nnU-Net's polynomial schedule.

        What of the network is built frozen is not the segmenter's: a player of its own may train it.
        """
        self.heads = self.build_heads().to(self.device)
        modules = [self.network, self.heads]
        optimizer = build_optimizer(modules, self.optimizer_name, self.initial_lr, self.weight_decay, self.adam_betas)
        # nnU-Net's loop asks for a scheduler: with exponent 0 it keeps the rate
        exponent = 0.9 if self.lr_schedule == "polynomial" else 0.0
        warm_up = round(self.lr_warm_up * self.num_epochs)
        return optimizer, LatePolyLR(optimizer, self.initial_lr, self.num_epochs, exponent, warm_up=warm_up)

    def _target_samples(self) -> int:
        """Target samples per step of this process."""
        if self.target_batch_size is None:
            return int(self.batch_size)
        processes = dist.get_world_size() if self.is_ddp else 1
        return max(1, self.target_batch_size // processes)

    # ---- data --------------------------------------------------------------------------------------------------

    def do_split(self) -> tuple[list[str], list[str]]:
        """The fold of ``splits_final.json``, never one that nnU-Net would draw at random across subjects."""
        check_fold(Path(self.preprocessed_dataset_folder_base) / "splits_final.json", self.fold)
        split: tuple[list[str], list[str]] = super().do_split()
        return split

    def get_tr_and_val_datasets(self) -> tuple[CrossModalDataset, CrossModalDataset]:
        """The fold's cases as training and online validation may see them."""
        if self.dataset_class is None:
            self.dataset_class = infer_dataset_class(self.preprocessed_dataset_folder)
        training, validation = cases_of_fold(self, *self.do_split())
        self.seen, self.validated = training, validation
        self.print_to_log_file(summary_of_cases(self.block, training, validation))
        folder, kind = self.preprocessed_dataset_folder, self.dataset_class
        return (
            CrossModalDataset(kind(folder, sorted(training)), training, self.block),
            CrossModalDataset(kind(folder, sorted(validation)), validation, self.block, keep_modality_channel=True),
        )

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, ...]:  # noqa: N802
        """nnU-Net's choice, with the rotation and the mirroring of the hyper-parameters."""
        rotation, dummy_2d, initial_patch_size, mirror_axes = (
            super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        if self.rotation_degrees is not None:
            largest = float(np.deg2rad(self.rotation_degrees))
            rotation = (-largest, largest)
        if not self.mirror:
            mirror_axes = self.inference_allowed_mirroring_axes = None
        return rotation, dummy_2d, initial_patch_size, mirror_axes

    def get_dataloaders(self) -> tuple[Any, Any]:
        """A modality-balanced loader for training and nnU-Net's own for validation."""
        plan, labels = self.configuration_manager, self.label_manager
        scales = self._get_deep_supervision_scales()
        rotation, dummy_2d, initial_patch_size, mirror_axes = (
            self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        self.short_first_axis = bool(dummy_2d)
        of_labels = {"foreground_labels": labels.foreground_labels, "ignore_label": labels.ignore_label}
        transforms = self.get_training_transforms(
            plan.patch_size, rotation, scales, mirror_axes, dummy_2d, plan.use_mask_for_norm, **of_labels
        )
        for transform in transforms.transforms:
            if isinstance(transform, SpatialTransform):
                transform.p_rotation = transform.p_scaling = self.spatial_probability
        if self.intensity_augmentation().nnunet:
            transforms = spatial_part(transforms)
        training, validation = self.get_tr_and_val_datasets()
        sampling = {"oversample_foreground_percent": self.oversample_foreground_percent, "transforms": transforms}
        shared = (self.batch_size, initial_patch_size, plan.patch_size, labels)
        if self.uses_registered_pairs():
            pairs = RegisteredScans(training)
            alone = sorted(set(training.cases) - {name for names in pairs.groups.values() for name in names})
            self.print_to_log_file(
                f"Batches hold registered scans of {len(pairs.groups)} subjects, cropped and augmented alike"
                + (f"; left out, for want of a partner: {', '.join(alone)}" if alone else "")
            )
            train_loader = RegisteredDataLoader(pairs, *shared, **sampling)
        else:
            train_loader = BalancedDataLoader(training, *shared, target_batch_size=self._target_samples(), **sampling)
        sampling["transforms"] = self.get_validation_transforms(scales, **of_labels)
        validation_loader = nnUNetDataLoader(
            validation, self.batch_size, plan.patch_size, plan.patch_size, labels, **sampling
        )
        # other seeds on every rank and after every --c, or the same batches would come again
        first_seed = None if self.seed is None else self.seed + 1000 * (self.local_rank + 64 * self.current_epoch)
        return in_background(train_loader, validation_loader, first_seed, self.device)

    # ---- the step ----------------------------------------------------------------------------------------------

    def train_step(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """One iteration: every player descends its objective in turn. Values stay on the device."""
        batch = CrossModalBatch.from_loader(
            loaded, self.block, self.seen, self.device, registered=self.uses_registered_pairs()
        )
        if self.teacher_share > 0:
            batch = self._with_pseudo_labels(batch)
        if not self.augments_in_objective:
            batch = self.augmented(batch)
        outputs: Any = None
        terms: dict[str, Tensor] = {}
        figures: dict[str, Tensor] = {}
        totals: dict[str, Tensor] = {}
        for player in self.playing():
            with only_trainable(player, self.players):
                with self._autocast():
                    outputs = player.forward(batch, outputs)
                    losses = player.objective(batch, outputs)
                    if player is self.segmenter:
                        self._complete_objective(losses, batch, outputs)
                loss = losses.total()
                lost = player.step(loss, self.grad_scaler)
            terms |= {f"{player.name}/{name}": value.detach() for name, value in losses.terms.items()}
            figures |= {f"{player.name}/{name}": value.detach() for name, value in losses.figures.items()}
            figures[f"{player.name}/{LOST}"] = lost.float()
            totals[player.name] = loss.detach()
        if self.grad_scaler is not None:
            self.grad_scaler.update()
        if self.teaching is not None and "segmenter" in totals:
            self.teaching.follow(self.bare_network)
        self.iteration += 1
        self.last_batch = batch
        return {"loss": totals.get("segmenter", next(iter(totals.values()))), "terms": terms, "figures": figures}

    def playing(self) -> list[Player]:
        """Those of the players that step in the current epoch; the others' modules are in evaluation mode."""
        return [player for player in self.players if player.plays(self.current_epoch)]

    def _autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.device, self.uses_bf16)

    def _with_pseudo_labels(self, batch: CrossModalBatch) -> CrossModalBatch:
        """The teacher labels the target's samples, as they are before any change of intensity."""
        assert self.teaching is not None
        with torch.no_grad(), self._autocast():
            target = batch.target
            return batch.with_pseudo_labels(*self.teaching.label(target.images, target.modality))

    def _complete_objective(self, losses: Losses, batch: CrossModalBatch, outputs: Any) -> None:
        """What the base adds to the segmenter's terms: bounds for those of adaptation, the teacher's, figures."""
        if self.gradient_share is not None:
            scaler = self.grad_scaler
            self.gradient_share.hold(losses, self.step, *([] if scaler is None else [scaler.scale]))
        shown, logits = getattr(outputs, "batch", batch), outputs.logits[0]
        if shown.pseudo_labels is not None and shown.trusted is not None:
            taught = trusted_dice_ce(logits[shown.target_rows], shown.pseudo_labels, shown.trusted)
            losses.add("teacher", taught, self.teacher_weight * self.teacher_share)
        if self.step % FIGURES_EVERY == 0 and len(logits) == len(shown.images):
            is_target = [case.modality in self.block.target for case in shown.cases]
            losses.figures |= target_figures(logits, is_target, self.block.labels)

    def _predicting(self) -> AbstractContextManager[None]:
        """As long as this lasts the network is the one that predicts: the teacher where there is one."""
        return nullcontext() if self.teaching is None else self.teaching.standing_in(self.bare_network)

    def validation_step(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """As nnU-Net's, with the training's own loss, and every case counted on the classes that it annotates."""
        batch = CrossModalBatch.from_loader(loaded, self.block, self.validated, self.device)
        with self._predicting(), self._autocast():
            output = self.network(self.validation_images(batch))
        logits = output if isinstance(output, list) else [output]
        counts = annotated_counts(logits[0], batch, self._ignored())
        loss = self.supervised_loss(logits, batch)
        tp, fp, fn = counts.cpu().numpy()
        return {"loss": loss.detach().cpu().numpy(), "tp_hard": tp, "fp_hard": fp, "fn_hard": fn}

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Dice 0, not NaN, where an epoch's patches show no structure: nnU-Net's moving average would stay NaN."""
        if not sum(output[name].sum() for output in val_outputs for name in ("tp_hard", "fp_hard", "fn_hard")):
            val_outputs[0]["fp_hard"] = val_outputs[0]["fp_hard"] + 1
        super().on_validation_epoch_end(val_outputs)

    def _ignored(self) -> int:
        ignore = self.label_manager.ignore_label
        return -1 if ignore is None else int(ignore)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's, by the network that predicts; scans whose labels training may not see are kept apart."""
        with self._predicting():
            validate(self, partial(super().perform_actual_validation, save_probabilities))

    # ---- the epoch ---------------------------------------------------------------------------------------------

    def run_training(self) -> None:
        """As nnU-Net's; the processes that load and augment end with a training that fails, too."""
        with stopping_in_one_line(self):
            try:
                super().run_training()
            finally:
                end_workers(self.dataloader_train, self.dataloader_val)

    def on_train_start(self) -> None:
        """Nothing is trained before the input was found right; the record begins where the training does."""
        check_resumed(self)
        self.plans_manager.plans["crossmod"][EXPECTS_CROP] = training_scans_fill_their_box(self)
        super().on_train_start()
        keep_record(self)
        if self.device.type == "cpu":
            self.print_to_log_file(
                f"Training on the CPU in {'bfloat16 mixed' if self.uses_bf16 else 'single'} precision (cpu_bf16)"
            )
        if self.augmentation == "strong":
            scans = self.dataset_class(self.preprocessed_dataset_folder, sorted(self.seen))
            if warning := mixed_orientations({name: scans.load_case(name)[-1] for name in self.seen}):
                self.print_to_log_file(warning)
        if self.local_rank == 0:
            self.record = LossRecord(Path(self.output_folder), self.current_epoch)
        if self.label_free_selection:
            self.selection = LabelFreeSelection(self)

    def on_train_epoch_start(self) -> None:
        """Set the learning rate of every player."""
        super().on_train_epoch_start()
        self.iteration = 0
        if phase := self.phase():
            self.print_to_log_file("phase:", phase)
        for player in self.players:
            for module in player.modules:
                module.eval()
        with torch.no_grad(), self._autocast():
            self.before_epoch()
        playing = {player.name for player in self.playing()}
        for player in self.players:
            for module in player.modules:
                module.train(player.name in playing)
            if player.scheduler is not None and player.optimizer is not self.optimizer:
                player.scheduler.step(self.current_epoch)

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Bring the terms to the host once, check, log and draw them."""
        means, losses = mean_terms(train_outputs)
        check_finite(means, self.current_epoch, self.output_folder)
        super().on_train_epoch_end([{"loss": np.array(loss)} for loss in losses])
        self.print_to_log_file("terms", ", ".join(f"{name} {mean:.4f}" for name, mean in means.items()))
        self.review(means)
        earlier = [] if self.record is None else self.record.rows
        for warning in (*lost_gradients(means), *adaptation_warnings(earlier, means)):
            self.print_to_log_file(f"WARNING: {warning}")
        for logger in self.logger.loggers:
            for name, mean in means.items():
                logger.log(name, mean, self.current_epoch)
        if self.record is not None:
            phase = {"phase": self.phase()} if self.phase() else {}
            self.record.add(self.current_epoch, means, lr=self.optimizer.param_groups[0]["lr"], **phase)
            self.record.draw()
            last = self.current_epoch == self.num_epochs - 1
            if self.last_batch is not None and (last or (self.current_epoch + 1) % self.picture_every == 0):
                with torch.no_grad(), self._autocast():
                    self.draw(self.last_batch, Path(self.output_folder))

    def on_epoch_end(self) -> None:
        """Keep the checkpoint that the label-free criterion prefers, where it is asked for."""
        if self.selection is not None:
            with self._predicting():
                improved = self.selection.improved()
            if improved:
                self.save_checkpoint(str(Path(self.output_folder) / CHECKPOINT))
        super().on_epoch_end()

    # ---- checkpoints -------------------------------------------------------------------------------------------

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's checkpoint, with heads, players and teacher beside the network; never half-written.

        With a teacher, ``network_weights`` are the teacher's: it is what predicts.
        """
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
        else:
            write_checkpoint(filename, super().save_checkpoint, self._complete)

    def _complete(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["crossmod"] = {
            "heads": self.heads.state_dict(),
            "players": {player.name: player.state_dict() for player in self._opponents()},
        }
        if self.gradient_share is not None:
            checkpoint["crossmod"]["gradient_share"] = self.gradient_share.state_dict()
        if self.teaching is not None:
            checkpoint["crossmod"] |= {"student": checkpoint["network_weights"], "teacher": self.teaching.state_dict()}
            checkpoint["network_weights"] = self.teaching.network.state_dict()

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Continue every player where it stopped, with the rates of the plans."""
        saved = read_addition(filename_or_checkpoint, self.device)
        with resuming(self, filename_or_checkpoint, saved):
            super().load_checkpoint(filename_or_checkpoint)
            self.heads.load_state_dict(saved["heads"])
            for player in self._opponents():
                player.load_state_dict(saved["players"][player.name])
            if self.gradient_share is not None:
                self.gradient_share.load_state_dict(saved.get("gradient_share", {}))
            if self.teaching is not None:
                self.bare_network.load_state_dict(saved["student"])
                self.teaching.load_state_dict(saved["teacher"])

    def _opponents(self) -> list[Player]:
        return [player for player in self.players if player.optimizer is not self.optimizer]
