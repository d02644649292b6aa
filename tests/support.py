"""What several tests use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from nnunet_crossmod.paths import load_trainer
from nnunet_crossmod.plans import NETWORKS, configure

CONFIGURATIONS = ("2d", "3d_fullres")


@contextmanager
def in_this_process() -> Iterator[None]:
    """Let nnU-Net's pools be threads: every process of its own would import PyTorch for seconds."""
    from nnunetv2.experiment_planning import verify_dataset_integrity
    from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor
    from nnunetv2.preprocessing.preprocessors import default_preprocessor

    threads = SimpleNamespace(get_context=lambda _: SimpleNamespace(Pool=ThreadPool))
    with ExitStack() as patches:
        for module in (verify_dataset_integrity, fingerprint_extractor, default_preprocessor):
            patches.enter_context(patch.object(module, "multiprocessing", threads))
        yield


def plan_and_preprocess(dataset_id: int, configurations: tuple[str, ...] = CONFIGURATIONS) -> None:
    """What ``nnUNetv2_plan_and_preprocess`` does, but for a hundred million voxels drawn for intensity statistics."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments, preprocess

    with in_this_process():
        extractor = DatasetFingerprintExtractor(dataset_id, 1)
        extractor.num_foreground_voxels_for_intensitystats = 1e5
        extractor.run(overwrite_existing=True)
        plan_experiments([dataset_id])
        preprocess([dataset_id], "nnUNetPlans", configurations, [1] * len(configurations), show_progress_bar=False)


def check_integrity(folder: Path) -> None:
    """nnU-Net's own check of a raw data set."""
    from nnunetv2.experiment_planning import verify_dataset_integrity

    with in_this_process():
        verify_dataset_integrity.verify_dataset_integrity(str(folder), num_processes=1)


def tiny(plans: dict[str, Any], name: str, **settings: Any) -> dict[str, Any]:
    """Plans so small that a training step takes milliseconds."""
    schedule = {"num_epochs": 2, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1, "seed": 0}
    settings = {"cpu_bf16": "off", **settings}  # the same numbers on every processor
    small = configure(plans, name, {**schedule, **settings}, preset="cpu", batch_size=2)
    for planned in small["configurations"].values():
        if "architecture" in planned:
            network = planned["architecture"]["arch_kwargs"]
            network["features_per_stage"] = [4, 6, 8, 8, 8][: network["n_stages"]]
    return small


SMALL: dict[str, dict[str, Any]] = {
    "CISFATrainer": {"generator_width": 4, "generator_blocks": 2, "discriminator_width": 4},
    "GLUATrainer": {
        "stage_1": 0.5,
        "style_width": 4,
        "style_blocks": 1,
        "image_discriminator_width": 4,
        "local_discriminator_width": 8,
    },
}


def at_full_strength(name: str) -> dict[str, Any]:
    """Every term from the first step on, in networks that take milliseconds."""
    warm = {"warm_up": 0.0} if "warm_up" in load_trainer(name)._hyperparameter_types else {}
    return {**warm, "teacher_start": 0.0, "teacher_ramp": 0.0, **SMALL.get(name, {})}


def phases(trainer: Any) -> Iterator[None]:
    """Begin the first epoch of every phase of a training in turn."""
    seen: set[str] = set()
    for epoch in range(trainer.num_epochs):
        trainer.current_epoch = epoch
        if trainer.phase() not in seen:
            seen.add(trainer.phase())
            trainer.on_train_epoch_start()
            yield


def started(trainer: Any) -> Any:
    """Everything that happens before the first step."""
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    return trainer


def architecture(
    kind: str, axes: int, features: list[int], strides: list[list[int]], blocks: list[int]
) -> dict[str, Any]:
    """The ``architecture`` of a configuration as nnU-Net's planner writes it."""
    stages = len(features)
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": features,
            "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
            "kernel_sizes": [[3] * axes] * stages,
            "strides": strides,
            "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage": blocks,
            "n_conv_per_stage_decoder": [1] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def residual(plans: dict[str, Any]) -> None:
    """Turn plans into those of the residual encoder network."""
    for planned in plans["configurations"].values():
        if "architecture" in planned:
            network = planned["architecture"]
            network["network_class_name"] = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
            network["arch_kwargs"]["n_blocks_per_stage"] = network["arch_kwargs"].pop("n_conv_per_stage")


def swin_unetr(plans: dict[str, Any]) -> None:
    """Turn plans into those of SwinUNETR, as small as it gets."""
    settings, put_in = NETWORKS["swin_unetr"]
    plans["crossmod"] |= settings
    for planned in plans["configurations"].values():
        if "architecture" in planned:
            put_in(planned, None)
            network = planned["architecture"]["arch_kwargs"]
            network |= {"feature_size": 12, "depths": [1] * 4, "num_heads": [1, 2, 3, 4], "window_size": 2}


def scramble_target_labels(patched: Any) -> None:
    """Let nnU-Net load random labels, and random places of them, for every target case.

    Args:
        patched: pytest's ``monkeypatch``, or a context of it.
    """
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    load = nnUNetDatasetBlosc2.load_case

    def scrambled(self: Any, identifier: str) -> Any:
        data, seg, previous, properties = load(self, identifier)
        if "lge" in identifier:
            seg = np.random.default_rng(len(identifier)).integers(0, 4, size=seg.shape).astype(np.int16)
            places = [np.argwhere(seg == value)[:50] for value in (1, 2, 3)]
            keys = properties["class_locations"]
            properties = {**properties, "class_locations": {k: places[i % 3] for i, k in enumerate(keys)}}
        return data, seg, previous, properties

    patched.setattr(nnUNetDatasetBlosc2, "load_case", scrambled)
