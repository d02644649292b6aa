"""The base of all trainers: *when* things happen. *What* a method computes stands in its own file in ``trainers/``."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.loss.dice import get_tp_fp_fn_tn
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from numpy.typing import NDArray
from torch import Tensor, nn
from torch import distributed as dist
from torch._dynamo import OptimizedModule
from torch.nn import functional

from nnunet_crossmod.data import (
    BalancedDataLoader,
    Case,
    CrossModalBatch,
    CrossModalDataset,
    CrossmodBlock,
    RegisteredDataLoader,
    RegisteredScans,
    augment_intensity,
    check_batch_size,
    random_convolution,
    representative_patches,
    spatial_part,
)
from nnunet_crossmod.errors import CrossmodError, UnsupportedError, report_errors_in_one_line
from nnunet_crossmod.losses import marginalise
from nnunet_crossmod.nn import ModalityUNet, build_unet
from nnunet_crossmod.nn.unet import Conditioning
from nnunet_crossmod.training import hyperparameters
from nnunet_crossmod.training.losses import Losses
from nnunet_crossmod.training.player import Player, only_trainable
from nnunet_crossmod.training.record import LossRecord
from nnunet_crossmod.training.schedule import LatePolyLR
from nnunet_crossmod.training.selection import CHECKPOINT, LabelFreeSelection
from nnunet_crossmod.training.supervision import (
    SegmentationLoss,
    dice_ce,
    dice_focal,
    dice_weighted_ce,
    supervised_loss,
)

__all__ = ["CrossModalTrainer"]

MODALITIES = "modalities"  # the entries of the plans' "crossmod" that are no hyper-parameters
TARGET_MODALITIES = "target_modalities"


class CrossModalTrainer(nnUNetTrainer):  # type: ignore[misc]
    """Composes a cross-modal training step on nnU-Net's loop.

    A method overrides :meth:`forward` (batch → outputs of its own) and :meth:`objective` (batch, outputs → loss terms
    of the segmenter); where it has them :meth:`build_heads` (modules trained along with the network and dropped at
    inference), :meth:`build_players` (opponents) and :meth:`after_step`.

    Annotated class attributes are hyper-parameters: ``"crossmod": {"name": value}`` in a copy of the plans overrides
    them (``crossmod configure``).
    """

    num_epochs: int = 1000
    num_iterations_per_epoch: int = 250
    num_val_iterations_per_epoch: int = 50
    save_every: int = 50
    optimizer_name: Literal["sgd", "adam", "adamw"] = "sgd"
    initial_lr: float = 1e-2
    weight_decay: float = 3e-5
    adam_betas: tuple[float, ...] = (0.9, 0.999)
    lr_schedule: Literal["polynomial", "constant"] = "polynomial"
    oversample_foreground_percent: float = 0.33
    enable_deep_supervision: bool = True
    segmentation_loss: SegmentationLoss = "dice_ce"
    conditioning: Conditioning = "none"
    gin: Literal["off", "source", "all"] = "off"
    gin_probability: float = 1.0
    forbid_annotated_target: bool = False
    seed: int | None = None
    label_free_selection: bool = False
    """Also keep the checkpoint that a criterion without target labels prefers (:mod:`.selection`)."""
    picture_every: int = 10
    """Epochs between the method's own pictures, where it draws any."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Hyper-parameters that ``crossmod configure -tr TRAINER --preset NAME`` sets on top of the preset's own."""

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
        block = CrossmodBlock.from_dataset_json(dataset_json)
        recorded = (MODALITIES, TARGET_MODALITIES)
        overrides = {name: value for name, value in plans.get("crossmod", {}).items() if name not in recorded}
        options = hyperparameters.resolve(
            type(self), self._hyperparameter_types, overrides, f"{plans['plans_name']}.json"
        )
        self.block = block
        self.dataset_class: Any = None
        self._set(options)
        self._check_input(plans, configuration, dataset_json)
        # the network is built from the plans alone, also at inference: they record what was trained
        plans["crossmod"] = {
            **options,
            MODALITIES: list(block.modalities),
            TARGET_MODALITIES: list(block.target),
        }
        super().__init__(plans, configuration, fold, dataset_json, device)
        self._set(options)
        self.iteration = 0
        self.seen: dict[str, Case] = {}
        self.validated: dict[str, Case] = {}
        self.players: list[Player] = []
        self.heads = nn.ModuleDict()
        self.record: LossRecord | None = None
        self.selection: LabelFreeSelection | None = None
        self.last_batch: CrossModalBatch | None = None
        self.short_first_axis = False

    # ---- what a method says ------------------------------------------------------------------------------------

    def see(self, case: Case) -> Case | None:
        """What the training sees of a case of its fold; ``None`` leaves the case out."""
        return case

    def check_options(self, planned: dict[str, Any]) -> None:
        """Refuse hyper-parameters that make no sense for the planned configuration: call :meth:`check_option`."""

    def uses_registered_pairs(self) -> bool:
        """Whether batches hold registered scans of one subject, cropped and augmented alike."""
        return False

    def augments_intensity_itself(self) -> bool:
        """Whether the method calls :meth:`augment_intensity` itself, as on images that it makes in the step.

        The loader then augments in space alone, and the batch holds the scans with the intensities they have.
        """
        return False

    def build_heads(self) -> nn.ModuleDict:
        """Modules trained along with the network that inference does not need. Buffers here survive ``--c``."""
        return nn.ModuleDict()

    def build_players(self, segmenter: Player) -> list[Player]:
        """The players in the order in which they step."""
        return [segmenter]

    def forward(self, batch: CrossModalBatch) -> Any:
        """Run the network (under autocast); the outputs go to every objective."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its forward pass is")

    def objective(self, batch: CrossModalBatch, outputs: Any) -> Losses:
        """The segmenter's loss terms."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its segmenter descends")

    def regenerate(self, player: Player, batch: CrossModalBatch, outputs: Any) -> Any:
        """The outputs that later players see, after ``player`` has stepped; without gradient, under autocast."""
        return outputs

    def gathers_dice(self) -> bool:
        """Whether all processes compute the supervised Dice equally often, so that they may gather their batch Dice.

        By default where all annotated cases annotate the same classes.
        """
        return len({case.visible for case in self.block.cases.values() if case.annotated}) <= 1

    def after_step(self, batch: CrossModalBatch, outputs: Any) -> None:
        """After all players have stepped, without gradient: prototypes, queues."""

    def validation_images(self, batch: CrossModalBatch) -> Tensor:
        """What the network is shown in online validation: images (n, c + 1, *s), the modality channel last."""
        return batch.images

    def review(self, means: Mapping[str, float]) -> None:
        """Look at an epoch's mean terms, ``player/term`` → value, all finite: warn where they tell of a failure."""

    def phase(self) -> str:
        """The phase that the current epoch belongs to, where the method has several; it is logged and recorded."""
        return ""

    def before_epoch(self) -> None:
        """What the epoch's phase needs before its first step: prototypes of a whole training set, for example.

        Called without gradient, the networks in evaluation mode; draw no random number that a training would miss.
        """

    def first_segmenter_epoch(self) -> int:
        """The epoch in which the segmenter begins to play: its learning rate falls from there to the last epoch."""
        return 0

    def playing(self) -> list[Player]:
        """Those of the players that step in the current epoch; the others' modules are in evaluation mode."""
        return self.players

    def draw(self, batch: CrossModalBatch, folder: Path) -> None:
        """Draw the method's own pictures of a training batch into the fold's folder, without gradient.

        Called after every ``picture_every``-th epoch and after the last, on the first process alone: run
        :attr:`bare_network`, and draw no random number that a training would miss.
        """

    # ---- what a method may use ---------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Iterations done since the training began."""
        return int(self.current_epoch) * self.num_iterations_per_epoch + self.iteration

    @property
    def progress(self) -> float:
        """Share of the training that is done, 0 … 1."""
        return self.step / (self.num_epochs * self.num_iterations_per_epoch)

    @property
    def bare_network(self) -> nn.Module:
        """The network without the wrappers of torch.compile and DistributedDataParallel."""
        module = self.network.module if self.is_ddp else self.network
        return module._orig_mod if isinstance(module, OptimizedModule) else module

    @property
    def stage_strides(self) -> NDArray[np.int64]:
        """Stride of every encoder stage along every axis against the patch: (stages, axes)."""
        return np.cumprod(self.configuration_manager.pool_op_kernel_sizes, axis=0)

    def training_patches(self, wanted: Callable[[Case], bool], limit: int) -> Iterator[CrossModalBatch]:
        """Un-augmented patches of the training cases that are wanted, at most ``limit``, the same ones every time."""
        cases = {name: case for name, case in self.seen.items() if wanted(case)}
        files = self.dataset_class(self.preprocessed_dataset_folder, sorted(cases))
        dataset = CrossModalDataset(files, cases, self.block)
        patch_size = self.configuration_manager.patch_size
        for loaded in representative_patches(dataset, patch_size, self.batch_size, limit):
            yield CrossModalBatch.from_loader(loaded, self.block, cases, self.device)

    def added_up(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The tensors, each summed over all processes of a distributed training."""
        if self.is_ddp:
            tensors = tuple(tensor.clone() for tensor in tensors)
            for tensor in tensors:
                dist.all_reduce(tensor)
        return tensors

    def check_option(self, name: str, holds: bool, must_be: str) -> None:
        """Raise :class:`CrossmodError` unless the hyper-parameter holds what it must."""
        if not holds:
            raise CrossmodError(f"{name} = {getattr(self, name)} must be {must_be}: set it with crossmod configure")

    def augment_intensity(self, batch: CrossModalBatch) -> CrossModalBatch:
        """nnU-Net's augmentation of intensities, then GIN where it is on, for a method that
        :meth:`augments_intensity_itself`."""
        images = augment_intensity(batch.images, keep_first_axis=self.short_first_axis)
        return self._augment_intensity(replace(batch, images=images))

    def supervised_loss(self, logits: Sequence[Tensor], batch: CrossModalBatch) -> Tensor:
        """The supervised term over all deep-supervision levels, on annotated samples and classes only."""
        return supervised_loss(self.criterion, logits, batch)

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
            deep_supervision=enable_deep_supervision,
        )
        return cls.extend_network(build, options, configuration_manager)

    @classmethod
    def extend_network(
        cls, build: Callable[[], ModalityUNet], options: Mapping[str, Any], configuration: Any
    ) -> nn.Module:
        """The network that inference needs.

        Args:
            build: builds the planned network, another one with every call.
            options: the hyper-parameters, with the names of the ``modalities`` and ``target_modalities``.
            configuration: nnU-Net's configuration manager.
        """
        return build()

    # ---- setting up --------------------------------------------------------------------------------------------

    def _set(self, options: dict[str, Any]) -> None:
        for name, value in options.items():
            setattr(self, name, value)

    def _check_input(self, plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any]) -> None:
        """Everything that can be wrong with the input is found here, before nnU-Net writes its first file."""
        channels = list(dataset_json.get("channel_names", {}).values())
        if len(channels) < 2 or channels[-1].casefold() != "nonorm":
            raise CrossmodError(
                f"dataset.json names the channels {channels}; the last one must be the modality channel, named "
                '"noNorm": write the data set with "crossmod convert"'
            )
        planned = plans["configurations"].get(configuration)
        if planned is None:
            raise CrossmodError(
                f"{plans['plans_name']}.json has no configuration {configuration!r}; it has "
                f"{', '.join(plans['configurations'])}"
            )
        if "previous_stage" in planned:
            raise UnsupportedError(
                f"{configuration} is a cascade, which cross-modal trainers do not do: train 3d_fullres or 2d instead"
            )
        if self.forbid_annotated_target:
            annotated = [c.name for c in self.block.cases.values() if c.modality in self.block.target and c.annotated]
            if annotated:
                raise CrossmodError(
                    f"case {annotated[0]!r} is of the target modality and annotated for training, which "
                    f'{type(self).__name__} forbids: set its "annotated" to [] in dataset.json (nnUNet_raw and '
                    "nnUNet_preprocessed), or set forbid_annotated_target=false"
                )
        while (parent := planned.get("inherits_from")) is not None:
            planned = {**plans["configurations"][parent], **{k: v for k, v in planned.items() if k != "inherits_from"}}
        check_batch_size(planned["batch_size"], self._modalities_in_a_batch())
        for name in (
            "num_epochs",
            "num_iterations_per_epoch",
            "num_val_iterations_per_epoch",
            "save_every",
            "picture_every",
        ):
            self.check_option(name, getattr(self, name) > 0, "at least 1")
        self.check_option("initial_lr", self.initial_lr > 0, "above 0")
        self.check_option(
            "adam_betas", len(self.adam_betas) == 2 and all(0 <= b < 1 for b in self.adam_betas), "two numbers, 0 … 1"
        )
        self.check_options(planned)
        if nnUNet_preprocessed.is_set():
            folder = Path(nnUNet_preprocessed) / plans["dataset_name"] / planned["data_identifier"]
            if not folder.is_dir():
                raise CrossmodError(f"{folder} does not exist: run nnUNetv2_preprocess -c {configuration} first")
            try:
                kind = infer_dataset_class(str(folder))
            except AssertionError as error:
                raise CrossmodError(
                    f"{folder} is empty or half-written: run nnUNetv2_preprocess -c {configuration} again"
                ) from error
            self.block.check_files(kind.get_identifiers(str(folder)), str(folder))

    def _modalities_in_a_batch(self) -> list[str]:
        seen = [case for case in map(self.see, self.block.cases.values()) if case is not None]
        return [m for m in self.block.modalities if any(case.modality == m for case in seen)]

    def initialize(self) -> None:
        """Build network, heads, optimisers and losses."""
        if self.seed is not None:
            torch.manual_seed(self.seed)
            np.random.seed(self.seed)
        super().initialize()
        check_batch_size(self.batch_size, self._modalities_in_a_batch())
        ignore = self.label_manager.ignore_label
        if self.segmentation_loss == "dice_ce":
            gathered = self.is_ddp and self.gathers_dice()
            self.criterion = dice_ce(self.configuration_manager.batch_dice, gathered, ignore)
        else:
            self.criterion = {"dice_focal": dice_focal, "dice_weighted_ce": dice_weighted_ce}[self.segmentation_loss](
                ignore
            )
        segmenter = Player("segmenter", [self.network, self.heads], self.objective, self.optimizer, self.lr_scheduler)
        self.players = self.build_players(segmenter)
        for player in self.players:
            player.begin_alike()

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, LatePolyLR]:
        """One optimiser for network and heads, on nnU-Net's polynomial schedule.

        What of the network is built frozen is not the segmenter's: a player of its own may train it.
        """
        self.heads = self.build_heads().to(self.device)
        optimizer = self.optimizer_for([self.network, self.heads])
        # nnU-Net's loop asks for a scheduler: with exponent 0 it keeps the rate
        exponent = 0.9 if self.lr_schedule == "polynomial" else 0.0
        return optimizer, LatePolyLR(
            optimizer, self.initial_lr, self.num_epochs, exponent, first_epoch=self.first_segmenter_epoch()
        )

    def optimizer_for(self, modules: Sequence[nn.Module]) -> torch.optim.Optimizer:
        """The optimiser the hyper-parameters name.

        Norms and biases are not decayed: an affine of a modality that gets no gradient in a step would drift to zero.
        """
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        norms = {
            id(parameter)
            for module in modules
            for layer in module.modules()
            if "Norm" in type(layer).__name__
            for parameter in layer.parameters(recurse=False)
        }
        kept = [p for p in parameters if p.ndim < 2 or id(p) in norms]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim >= 2 and id(p) not in norms]},
            {"params": kept, "weight_decay": 0.0},
        ]
        if self.optimizer_name == "sgd":
            return torch.optim.SGD(
                groups, self.initial_lr, weight_decay=self.weight_decay, momentum=0.99, nesterov=True
            )
        kind = torch.optim.Adam if self.optimizer_name == "adam" else torch.optim.AdamW
        beta1, beta2 = self.adam_betas
        return kind(groups, self.initial_lr, betas=(beta1, beta2), weight_decay=self.weight_decay)

    # ---- data --------------------------------------------------------------------------------------------------

    def do_split(self) -> tuple[list[str], list[str]]:
        """The fold of ``splits_final.json``, never one that nnU-Net would draw at random across subjects."""
        if self.fold != "all":
            file = Path(self.preprocessed_dataset_folder_base) / "splits_final.json"
            folds = len(json.loads(file.read_text())) if file.is_file() else 0
            if self.fold >= folds:
                raise CrossmodError(
                    f"{file} holds {folds} folds, no fold {self.fold}: train fold 0 … {folds - 1} or all"
                    if folds
                    else f"{file} does not exist: copy it from the raw data set, or convert again"
                )
        split: tuple[list[str], list[str]] = super().do_split()
        return split

    def get_tr_and_val_datasets(self) -> tuple[CrossModalDataset, CrossModalDataset]:
        """The fold's cases as training and online validation may see them.

        Online validation chooses ``checkpoint_best``: it sees what training may see, no label more. The validation
        after training uses every label of the fold.
        """
        if self.dataset_class is None:
            self.dataset_class = infer_dataset_class(self.preprocessed_dataset_folder)
        training, validation = (
            {name: case for name in names if (case := self.see(self.block.cases[name])) is not None}
            for names in self.do_split()
        )
        validation = {name: case for name, case in validation.items() if case.annotated}
        for what, cases in (("training", training), ("validation", validation)):
            if not any(case.annotated for case in cases.values()):
                raise CrossmodError(
                    f"fold {self.fold} has no annotated {what} case that {type(self).__name__} may use: annotate one "
                    'in the "crossmod" block of dataset.json, or write other splits_final.json'
                )
        absent = [m for m in self._modalities_in_a_batch() if not any(c.modality == m for c in training.values())]
        if absent:
            raise CrossmodError(
                f"fold {self.fold} has no training case of {absent[0]}, of which {type(self).__name__} needs one "
                "in every batch: write other splits_final.json"
            )
        self.seen, self.validated = training, validation
        self.print_to_log_file(self._what_is_seen(training, validation))
        folder, kind = self.preprocessed_dataset_folder, self.dataset_class
        return (
            CrossModalDataset(kind(folder, sorted(training)), training, self.block),
            CrossModalDataset(kind(folder, sorted(validation)), validation, self.block, keep_modality_channel=True),
        )

    def _what_is_seen(self, training: dict[str, Case], validation: dict[str, Case]) -> str:
        def told(cases: dict[str, Case], modality: str) -> str:
            of = [case for case in cases.values() if case.modality == modality]
            return f"{len(of)} ({sum(case.annotated for case in of)} annotated)"

        parts = [f"{m}: {told(training, m)}, validation {told(validation, m)}" for m in self.block.modalities]
        return "Cases seen in training: " + "; ".join(parts)

    def get_dataloaders(self) -> tuple[Any, Any]:
        """A modality-balanced loader for training and nnU-Net's own for validation."""
        patch_size = self.configuration_manager.patch_size
        scales = self._get_deep_supervision_scales()
        rotation, dummy_2d, initial_patch_size, mirror_axes = (
            self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        labels = self.label_manager
        train_transforms = self.get_training_transforms(
            patch_size,
            rotation,
            scales,
            mirror_axes,
            dummy_2d,
            use_mask_for_norm=self.configuration_manager.use_mask_for_norm,
            foreground_labels=labels.foreground_labels,
            ignore_label=labels.ignore_label,
        )
        if self.augments_intensity_itself():
            train_transforms = spatial_part(train_transforms)
        self.short_first_axis = bool(dummy_2d)
        validation_transforms = self.get_validation_transforms(
            scales, foreground_labels=labels.foreground_labels, ignore_label=labels.ignore_label
        )
        training, validation = self.get_tr_and_val_datasets()
        registered = self.uses_registered_pairs()
        pairs = RegisteredScans(training) if registered else None
        if pairs is not None:
            alone = sorted(set(training.cases) - {name for names in pairs.groups.values() for name in names})
            self.print_to_log_file(
                f"Batches hold registered scans of {len(pairs.groups)} subjects, cropped and augmented alike"
                + (f"; left out, for want of a partner: {', '.join(alone)}" if alone else "")
            )
        else:
            self.print_to_log_file("Scans of a batch are not paired")
        sampling = {"oversample_foreground_percent": self.oversample_foreground_percent}
        train_loader = (RegisteredDataLoader if pairs else BalancedDataLoader)(
            pairs or training,
            self.batch_size,
            initial_patch_size,
            patch_size,
            labels,
            transforms=train_transforms,
            **sampling,
        )
        validation_loader = nnUNetDataLoader(
            validation, self.batch_size, patch_size, patch_size, labels, transforms=validation_transforms, **sampling
        )
        workers = get_allowed_n_proc_DA()
        loaders = (
            self._in_background(train_loader, workers, max(6, workers // 2)),
            self._in_background(validation_loader, max(1, workers // 2) if workers else 0, max(3, workers // 4)),
        )
        for loader in loaders:
            next(loader)
        return loaders

    def _in_background(self, loader: nnUNetDataLoader, workers: int, cached: int) -> Any:
        if workers == 0:
            return SingleThreadedAugmenter(loader, None)
        # other seeds on every rank and after every --c, or the same batches would come again
        first = None if self.seed is None else self.seed + 1000 * (self.local_rank + 64 * self.current_epoch)
        seeds = None if first is None else [first + i for i in range(workers)]
        return NonDetMultiThreadedAugmenter(
            loader, None, workers, cached, seeds, pin_memory=self.device.type == "cuda", wait_time=0.002
        )

    # ---- the step ----------------------------------------------------------------------------------------------

    def train_step(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """One iteration: every player descends its objective in turn. Values stay on the device."""
        batch = CrossModalBatch.from_loader(
            loaded, self.block, self.seen, self.device, registered=self.uses_registered_pairs()
        )
        if not self.augments_intensity_itself():
            batch = self._augment_intensity(batch)
        with self._autocast():
            outputs = self.forward(batch)
        terms: dict[str, Tensor] = {}
        totals: dict[str, Tensor] = {}
        for player in self.playing():
            with only_trainable(player, self.players):
                with self._autocast():
                    losses = player.objective(batch, outputs)
                loss = losses.total()
                player.step(loss, self.grad_scaler)
            terms.update({f"{player.name}/{name}": value.detach() for name, value in losses.terms.items()})
            totals[player.name] = loss.detach()
            with torch.no_grad(), self._autocast():
                outputs = self.regenerate(player, batch, outputs)
        if self.grad_scaler is not None:
            self.grad_scaler.update()
        with torch.no_grad():
            self.after_step(batch, outputs)
        self.iteration += 1
        self.last_batch = batch
        return {"loss": totals.get("segmenter", next(iter(totals.values()))), "terms": terms}

    def _autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision where nnU-Net has it: on CUDA alone."""
        return torch.autocast("cuda") if self.device.type == "cuda" else nullcontext()

    def _augment_intensity(self, batch: CrossModalBatch) -> CrossModalBatch:
        if self.gin == "off":
            return batch
        chosen = slice(None) if self.gin == "all" else batch.source_rows
        originals = batch.images[chosen]
        convolved = random_convolution(originals)
        if self.gin_probability < 1:
            kept = torch.rand(len(originals), device=originals.device) >= self.gin_probability
            convolved = torch.where(kept.view(-1, *[1] * (originals.ndim - 1)), originals, convolved)
        images = batch.images.clone()
        images[chosen] = convolved
        return replace(batch, images=images)

    def validation_step(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """As nnU-Net's, with the training's own loss, and every case counted on the classes that it annotates."""
        batch = CrossModalBatch.from_loader(loaded, self.block, self.validated, self.device)
        with self._autocast():
            output = self.network(self.validation_images(batch))
        logits = output if isinstance(output, list) else [output]
        counts = torch.zeros(3, logits[0].shape[1], device=self.device)
        for classes, chosen in batch.annotations:
            merged, labels = marginalise(logits[0][chosen], batch.labels[0][chosen], classes)
            tp, fp, fn, _ = get_tp_fp_fn_tn(
                functional.one_hot(merged.argmax(1), merged.shape[1]).movedim(-1, 1),
                labels[:, None].clamp(min=0, max=merged.shape[1] - 1),
                axes=[0, *range(2, merged.ndim)],
                mask=(labels[:, None] >= 0) & (labels[:, None] != self._ignored()),
            )
            counts[:, [0, *classes]] += torch.stack((tp, fp, fn)).float()
        loss = self.supervised_loss(logits, batch)
        tp, fp, fn = counts[:, 1:].cpu().numpy()
        return {"loss": loss.detach().cpu().numpy(), "tp_hard": tp, "fp_hard": fp, "fn_hard": fn}

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Dice 0, not NaN, where an epoch's patches show no structure: nnU-Net's moving average would stay NaN."""
        if not sum(output[name].sum() for output in val_outputs for name in ("tp_hard", "fp_hard", "fn_hard")):
            val_outputs[0]["fp_hard"] = val_outputs[0]["fp_hard"] + 1
        super().on_validation_epoch_end(val_outputs)

    def _ignored(self) -> int:
        ignore = self.label_manager.ignore_label
        return -1 if ignore is None else int(ignore)

    # ---- the epoch ---------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Nothing is trained before the input was found right; the record begins where the training does."""
        super().on_train_start()
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
        names = list(dict.fromkeys(name for output in train_outputs for name in output["terms"]))
        columns = [torch.stack([o["terms"][name] for o in train_outputs if name in o["terms"]]) for name in names]
        columns.append(torch.stack([output["loss"] for output in train_outputs]))
        on_host = torch.cat([column.float() for column in columns]).cpu().double()
        *values, losses = torch.split(on_host, [len(column) for column in columns])
        means = {name: _mean_of_epoch(column) for name, column in zip(names, values, strict=True)}
        for name, mean in means.items():
            if not np.isfinite(mean):
                player, term = name.split("/", 1)
                raise CrossmodError(
                    f"term {term!r} of player {player!r} is {mean} in epoch {self.current_epoch}; the checkpoints in "
                    f"{self.output_folder} are from before: lower initial_lr or the term's weight (crossmod configure "
                    "--overwrite the same plans), then continue with --c"
                )
        super().on_train_epoch_end([{"loss": loss} for loss in losses.numpy()])
        self.print_to_log_file("terms", ", ".join(f"{name} {mean:.4f}" for name, mean in means.items()))
        self.review(means)
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
        if self.selection is not None and self.selection.improved():
            self.save_checkpoint(str(Path(self.output_folder) / CHECKPOINT))
        super().on_epoch_end()

    # ---- checkpoints -------------------------------------------------------------------------------------------

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's checkpoint, with heads and players beside the network; never half-written."""
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        # nnU-Net writes its checkpoint by itself: what it wrote is taken up and completed, whatever it holds
        buffer = io.BytesIO()
        super().save_checkpoint(buffer)
        buffer.seek(0)
        checkpoint = torch.load(buffer, map_location="cpu", weights_only=False)
        checkpoint["crossmod"] = {
            "heads": self.heads.state_dict(),
            "players": {player.name: player.state_dict() for player in self._opponents()},
        }
        temporary = f"{filename}.partial"
        torch.save(checkpoint, temporary)
        os.replace(temporary, filename)

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Continue every player where it stopped."""
        super().load_checkpoint(filename_or_checkpoint)
        saved = torch.load(filename_or_checkpoint, map_location=self.device, weights_only=False)["crossmod"]
        self.heads.load_state_dict(saved["heads"])
        for player in self._opponents():
            player.load_state_dict(saved["players"][player.name])

    def _opponents(self) -> list[Player]:
        return [player for player in self.players if player.optimizer is not self.optimizer]

    def opponent(
        self,
        name: str,
        module: nn.Module,
        objective: Callable[[CrossModalBatch, Any], Losses],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        constant: bool = False,
        first_epoch: int = 0,
    ) -> Player:
        """A player of its own: Adam, on nnU-Net's polynomial schedule from ``first_epoch`` on, unless ``constant``."""
        module.to(self.device)
        optimizer = torch.optim.Adam(module.parameters(), lr, betas=betas, weight_decay=weight_decay)
        scheduler = None if constant else LatePolyLR(optimizer, lr, self.num_epochs, first_epoch=first_epoch)
        return Player(name, [module], objective, optimizer, scheduler)


def _mean_of_epoch(values: Tensor) -> float:
    """Mean of a term over an epoch; a single step that overflowed, and that mixed precision skipped, does not count."""
    return float(values.mean() if not torch.isfinite(values[-1]) else values[torch.isfinite(values)].mean())
