"""What several tests use."""

from __future__ import annotations

from typing import Any

from nnunet_crossmod.plans import configure

CONFIGURATIONS = ("2d", "3d_fullres")


def plan_and_preprocess(dataset_id: int, configurations: tuple[str, ...] = CONFIGURATIONS) -> None:
    """What ``nnUNetv2_plan_and_preprocess`` does, in this process."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    extract_fingerprints([dataset_id], num_processes=1, verbose=False, show_progress_bar=False)
    plan_experiments([dataset_id])
    preprocess([dataset_id], "nnUNetPlans", configurations, [1], show_progress_bar=False)


def tiny(plans: dict[str, Any], name: str, **settings: Any) -> dict[str, Any]:
    """Plans so small that a training step takes milliseconds."""
    schedule = {"num_epochs": 2, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1, "seed": 0}
    small = configure(plans, name, {**schedule, **settings}, preset="cpu", batch_size=4)
    for planned in small["configurations"].values():
        if "architecture" in planned:
            network = planned["architecture"]["arch_kwargs"]
            network["features_per_stage"] = [4, 6, 8, 8, 8][: network["n_stages"]]
    return small
