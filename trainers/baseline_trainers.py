"""The rows every comparison needs: floor, joint training, teacher, ceiling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from nnunet_crossmod.data import Case, CrossModalBatch
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.training import CrossModalTrainer, Losses


class Outputs(NamedTuple):
    """``logits`` of every deep-supervision level for the samples that are learnt from."""

    logits: list[Tensor]


class _SupervisedTrainer(CrossModalTrainer):
    """The supervised terms alone; samples without any annotation pass the network for a teacher's term only."""

    def forward(self, batch: CrossModalBatch) -> Outputs:
        useful = self.useful(batch)
        return Outputs(self.network(useful.images, useful.modality, features=True).logits)

    def objective(self, batch: CrossModalBatch, outputs: Outputs) -> Losses:
        return Losses().add("sup", self.supervised_loss(outputs.logits, self.useful(batch)))

    def useful(self, batch: CrossModalBatch) -> CrossModalBatch:
        """The annotated samples; all of them where a teacher labels the others, or, for a loss of zero, none is."""
        return batch.annotated if batch.annotations and batch.pseudo_labels is None else batch


class SourceOnlyTrainer(_SupervisedTrainer):
    """The floor: nnU-Net on the source modality, applied to the target as it is."""

    forbid_annotated_target = True

    def check_plan(self, planned: dict[str, Any]) -> None:
        self.check_option("teacher", not self.teacher, "false, since no target scan is seen: train MeanTeacherTrainer")

    def see(self, case: Case) -> Case | None:
        return case if case.modality in self.block.source and case.annotated else None


class JointTrainer(_SupervisedTrainer):
    """AICL's own baseline row: its conditional norms and its supervised terms, in both modalities where annotated.

    Where the target has no annotation at all, its norms take the source's affine.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"segmentation_loss": "dice_focal"}}

    conditioning = "encoder"
    optimizer_name = "adam"
    initial_lr = 1e-4
    weight_decay = 1e-5


class MeanTeacherTrainer(_SupervisedTrainer):
    """The network learns from labels where there are any and, on the target, from its own moving average.

    l = l_sup + teacher_weight · ramp · (cross-entropy + Dice on the voxels that the teacher is sure of).

    The teacher labels target scans as they are; the student sees them with their intensities augmented. The teacher is
    what predicts (:class:`nnunet_crossmod.training.teacher.Teacher`).
    """

    teacher = True


class TargetSupervisedTrainer(_SupervisedTrainer):
    """The ceiling: nnU-Net on the target modality WITH ITS LABELS, whatever the block says training may see."""

    def see(self, case: Case) -> Case | None:
        if case.pseudo:
            raise CrossmodError(
                f"case {case.name!r} has pseudo-labels, and TargetSupervisedTrainer learns from real ones alone: train "
                "it on the data set that they were made from"
            )
        if case.modality not in self.block.target or not case.labelled:
            return None
        return replace(case, visible=frozenset(self.block.labels.values()))

    def on_train_start(self) -> None:
        self.print_to_log_file(
            "\n"
            + "#" * 88
            + "\nTargetSupervisedTrainer READS THE LABELS OF THE TARGET MODALITY. It is the upper bound "
            "of a comparison;\nits figures are not those of unsupervised adaptation.\n" + "#" * 88,
            add_timestamp=False,
        )
        super().on_train_start()

    def perform_actual_validation(self, *args: Any, **kwargs: Any) -> None:
        self.print_to_log_file("TargetSupervisedTrainer was trained on labels of the target modality.")
        super().perform_actual_validation(*args, **kwargs)
