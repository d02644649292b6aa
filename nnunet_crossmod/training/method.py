"""What a method says and what it may use: the part of the trainer base that the author of a method reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunet_crossmod.data import (
    Case,
    CrossModalBatch,
    CrossModalDataset,
    CrossmodBlock,
    GinSamples,
    IntensityAugmentation,
    representative_patches,
    with_class_mix,
    with_cut_mix,
)
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.nn import DiscriminatorDesign, ModalityUNet, build_discriminator
from nnunet_crossmod.nn.unet import Conditioning
from nnunet_crossmod.training.hyperparameters import Count, Degrees, Index, Momentum, Positive, Share, Weight
from nnunet_crossmod.training.losses import Losses
from nnunet_crossmod.training.optimizers import OptimizerName
from nnunet_crossmod.training.player import Player
from nnunet_crossmod.training.schedule import LatePolyLR
from nnunet_crossmod.training.strong_base import Augmentation
from nnunet_crossmod.training.supervision import Criterion, SegmentationLoss, supervised_loss
from nnunet_crossmod.training.teacher import Teacher, ramp

__all__ = ["Method"]


class Method:
    """The hyper-parameters of every trainer, the methods that a trainer overrides and those that it calls.

    A method overrides :meth:`forward` (batch → outputs of its own) and :meth:`objective` (batch, outputs → loss terms
    of the segmenter); where it has them :meth:`build_heads` (modules trained along with the network and dropped at
    inference) and :meth:`build_players` (opponents).

    Annotated class attributes are hyper-parameters: ``"crossmod": {"name": value}`` in a copy of the plans overrides
    them (``crossmod configure``).
    """

    num_epochs: Count = 1000
    num_iterations_per_epoch: Count = 250
    num_val_iterations_per_epoch: Count = 50
    save_every: Count = 50
    optimizer_name: OptimizerName = "sgd"
    initial_lr: Positive = 1e-2
    weight_decay: Weight = 3e-5
    adam_betas: tuple[Momentum, ...] = (0.9, 0.999)
    lr_schedule: Literal["polynomial", "constant"] = "polynomial"
    lr_warm_up: Share = 0.0
    """Share of the training in which the rate rises to its schedule, in whole epochs; transformers need some."""
    oversample_foreground_percent: Share = 0.33
    enable_deep_supervision: bool = True
    segmentation_loss: SegmentationLoss = "dice_ce"
    conditioning: Conditioning = "none"
    shared_norms: bool = True
    """Where training has no label of a modality, neither its own nor a teacher's, conditional norms take the source's
    affine for it."""
    target_batch_size: Count | None = None
    """Samples of the target per step beside the planned batch of the source; ``null`` is as many."""
    augmentation: Augmentation = "strong"
    """``strong``: class-local curves, GIN, orientation kept; ``nnunet``: nnU-Net's own. It fills in the next five."""
    curve_probability: Share | None = None
    """Share of the annotated samples whose classes get intensity curves of their own."""
    gin: GinSamples | None = None
    """The samples that pass a random convolutional network."""
    rotation_degrees: Degrees | None = None
    """Largest rotation; ``null`` with ``augmentation=nnunet`` is nnU-Net's own range."""
    spatial_probability: Share | None = None
    """Share of the samples that are rotated, and share of those that are scaled."""
    mirror: bool | None = None
    """Whether training mirrors, and thus test-time augmentation too."""
    gin_probability: Share = 1.0
    teacher: bool = False
    """Self-training: the network's moving average labels the target scans, and is the model that predicts."""
    teacher_weight: Weight = 1.0
    teacher_start: Share = 0.5
    """Share of the segmenter's training after which the teacher's labels count."""
    teacher_ramp: Share = 0.2
    """Share of it in which their weight grows to ``teacher_weight``."""
    teacher_momentum: Momentum = 0.99
    teacher_confidence: Share = 0.95
    """Confidence of the teacher that is always enough."""
    teacher_trust: Share = 0.75
    """Share of every predicted class's voxels whose labels are learnt, the surest ones."""
    teacher_curves: bool = True
    """Whether target samples get class-local curves, too, by the teacher's labels (``curve_probability``)."""
    teacher_cut_mix: Share = 0.0
    """Share of the target samples that get a box of another one pasted in, with the teacher's labels."""
    teacher_mix: Share = 0.0
    """Share of the target samples that get the structures of a source sample pasted in, with their labels."""
    adaptation_share: Share | None = 0.2
    """Largest gradient of an adaptation term as a share of the segmentation's; ``null``: the weights as they are."""
    adaptation_ramp: Share = 0.2
    """Share of the training in which a term of adaptation grows to its weight, from where the method lets it join."""
    cpu_bf16: Literal["auto", "on", "off"] = "auto"
    """Mixed precision (bfloat16) in training on the CPU; ``auto``: where the processor has it."""
    forbid_annotated_target: bool = False
    seed: Index | None = None
    label_free_selection: bool = False
    """Also keep the checkpoint that a criterion without target labels prefers (:mod:`.selection`)."""
    picture_every: Count = 10
    """Epochs between the method's own pictures, where it draws any."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Hyper-parameters that ``crossmod configure -tr TRAINER --preset NAME`` sets on top of the preset's own."""

    translates_scans: ClassVar[bool] = False
    """Whether the trainer has a ``build_translator``, which ``crossmod translate`` loads."""

    block: CrossmodBlock
    network: nn.Module
    device: torch.device
    batch_size: int
    current_epoch: int
    iteration: int
    is_ddp: bool
    short_first_axis: bool
    configuration_manager: Any
    label_manager: Any
    dataset_class: Any
    preprocessed_dataset_folder: str
    criterion: Criterion
    optimizer: torch.optim.Optimizer
    players: list[Player]
    seen: dict[str, Case]
    heads: Any
    teaching: Teacher | None

    # ---- what a method says ------------------------------------------------------------------------------------

    def see(self, case: Case) -> Case | None:
        """What the training sees of a case of its fold; ``None`` leaves the case out."""
        return case

    def check_plan(self, planned: dict[str, Any]) -> None:
        """Refuse hyper-parameters that do not fit the planned configuration: call :meth:`check_option`."""

    @property
    def augments_in_objective(self) -> bool:
        """Whether the method calls :meth:`augmented` itself, as on images that it makes in the step."""
        return False

    def uses_registered_pairs(self) -> bool:
        """Whether batches hold registered scans of one subject, cropped and augmented alike."""
        return False

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

    def build_heads(self) -> nn.ModuleDict:
        """Modules trained along with the network that inference does not need. Buffers here survive ``--c``."""
        return nn.ModuleDict()

    def build_players(self, segmenter: Player) -> list[Player]:
        """The players in the order in which they step."""
        return [segmenter]

    def forward(self, batch: CrossModalBatch) -> Any:
        """Run the network (under autocast); the outputs go to every objective.

        Their ``logits`` (all deep-supervision levels) are those of the samples of ``batch``, or of the outputs' own
        ``batch`` where they have one.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what its forward pass is")

    def objective(self, batch: CrossModalBatch, outputs: Any) -> Losses:
        """The segmenter's loss terms."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its segmenter descends")

    def gathers_dice(self) -> bool:
        """Whether all processes compute the supervised Dice equally often, so that they may gather their batch Dice.

        By default where all annotated cases annotate the same classes.
        """
        return len({case.visible for case in self.block.cases.values() if case.annotated}) <= 1

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
    def bare_network(self) -> Any:
        """The network, a module, without the wrappers of torch.compile and DistributedDataParallel."""
        # nnU-Net wraps it after configure_optimizers, which may ask for it
        wrapped = isinstance(self.network, DistributedDataParallel)
        module: Any = self.network.module if wrapped else self.network
        return module._orig_mod if isinstance(module, OptimizedModule) else module

    @property
    def segmenter(self) -> Player:
        """The player that trains the network."""
        return next(player for player in self.players if player.optimizer is self.optimizer)

    @property
    def stage_strides(self) -> NDArray[np.int64]:
        """Stride of every encoder stage along every axis against the patch: (stages, axes)."""
        return np.cumprod(self.configuration_manager.pool_op_kernel_sizes, axis=0)

    @property
    def teacher_share(self) -> float:
        """Weight of the teacher's labels in this step, as a share of ``teacher_weight``."""
        if self.teaching is None:
            return 0.0
        first = self.segmenter.first_epoch / self.num_epochs
        return ramp((self.progress - first) / (1 - first), self.teacher_start, self.teacher_ramp)

    def joined(self, start: float) -> float:
        """Share of its weight, 0 … 1, that a term of adaptation has in this step.

        Args:
            start: share of the training after which it joins.
        """
        steps = self.num_epochs * self.num_iterations_per_epoch
        return ramp((self.step + 1) / steps, start, self.adaptation_ramp)

    def training_patches(self, wanted: Callable[[Case], bool], limit: int) -> Iterator[CrossModalBatch]:
        """Un-augmented patches of the training cases that are wanted, at most ``limit``, the same ones every time."""
        cases = {name: case for name, case in self.seen.items() if wanted(case)}
        files = self.dataset_class(self.preprocessed_dataset_folder, sorted(cases))
        dataset = CrossModalDataset(files, cases, self.block)
        patch_size = self.configuration_manager.patch_size
        for loaded in representative_patches(dataset, patch_size, self.batch_size, limit):
            yield CrossModalBatch.from_loader(loaded, self.block, cases, self.device)

    def check_option(self, name: str, holds: bool, must_be: str) -> None:
        """Raise :class:`CrossmodError` unless the hyper-parameter holds what it must."""
        if not holds:
            raise CrossmodError(f"{name} = {getattr(self, name)} must be {must_be}: set it with crossmod configure")

    def intensity_augmentation(self) -> IntensityAugmentation:
        """What the step does to intensities; where nothing asks for images as they are, the loader does nnU-Net's part
        by itself. A teacher labels them as they are."""
        curves, gin = self.curve_probability or 0.0, self.gin or "off"
        in_step = self.augments_in_objective or gin != "off" or curves > 0 or self.teacher
        return IntensityAugmentation(
            curves, self.teacher_curves, gin, self.gin_probability, in_step, self.short_first_axis
        )

    def augmented(self, batch: CrossModalBatch) -> CrossModalBatch:
        """The batch as a network learns from it: boxes of target samples and structures of the source pasted into the
        target, as ``teacher_cut_mix`` and ``teacher_mix`` say, and intensities augmented, as far as that is done in
        the step."""
        if batch.pseudo_labels is not None:
            if self.teacher_cut_mix > 0:
                batch = with_cut_mix(batch, self.teacher_cut_mix)
            if self.teacher_mix > 0:
                batch = with_class_mix(batch, self.teacher_mix)
        return self.intensity_augmentation()(batch)

    def supervised_loss(self, logits: Sequence[Tensor], batch: CrossModalBatch) -> Tensor:
        """The supervised term over all deep-supervision levels, on annotated samples and classes only."""
        return supervised_loss(self.criterion, logits, batch)

    @torch.no_grad()
    def best_labels(self, batch: CrossModalBatch, logits: Tensor) -> Tensor:
        """What is known of the classes of a batch: (n, *s), −1 where nothing is.

        Labels where all classes are annotated; the teacher's where it is sure, −1 elsewhere, on the target where there
        is a teacher; otherwise the network's own prediction.

        Args:
            batch: n samples.
            logits: of the network for them (n, k, *s).
        """
        labels = logits.argmax(1)
        if batch.pseudo_labels is not None and batch.trusted is not None:
            labels[batch.target_rows] = batch.pseudo_labels.masked_fill(~batch.trusted, -1)
        for annotated, rows in batch.annotations:
            if len(annotated) == len(self.block.labels):
                labels[rows] = batch.labels[0][rows].to(labels.dtype)
        return labels

    def prediction_discriminator(self, design: DiscriminatorDesign, width: int | None, level: int = 0) -> nn.Module:
        """A discriminator of maps of all classes: (n, k, *s) → scores (n, 1, *smaller).

        Args:
            design: ``strided`` or ``patch``.
            width: channels of its first layer; ``None`` is twice the network's, at most the papers' 64.
            level: of deep supervision, that the maps are of.
        """
        plan, stride = self.configuration_manager, self.stage_strides[level]
        channels: int = width or min(64, 2 * self.bare_network.encoder.output_channels[0])
        classes = self.label_manager.num_segmentation_heads
        size, spacing = (np.array(plan.patch_size) // stride).tolist(), (np.array(plan.spacing) * stride).tolist()
        return build_discriminator(design, classes, size, spacing, channels)

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
        **when: Any,
    ) -> Player:
        """A player of its own: Adam, on nnU-Net's polynomial schedule from its first epoch on, unless ``constant``.

        Args:
            when: ``forward``, ``first_epoch``, ``last_epoch`` of the :class:`Player`.
        """
        module.to(self.device)
        optimizer = torch.optim.Adam(module.parameters(), lr, betas=betas, weight_decay=weight_decay)
        first_epoch = when.get("first_epoch", 0)
        scheduler = None if constant else LatePolyLR(optimizer, lr, self.num_epochs, first_epoch=first_epoch)
        return Player(name, [module], objective, optimizer, scheduler, **when)
