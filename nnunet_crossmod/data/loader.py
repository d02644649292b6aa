"""Loaders whose every batch holds every modality: as many of the source as planned, and of the target beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from nnunet_crossmod.data.dataset import CrossModalDataset, RegisteredScans
from nnunet_crossmod.errors import CrossmodError

__all__ = ["BalancedDataLoader", "RegisteredDataLoader", "check_batch_size"]


def check_batch_size(batch_size: int, modalities: Sequence[str]) -> None:
    """Raise :class:`CrossmodError` where a batch cannot hold a sample of every one of the modalities of a role."""
    if batch_size < len(modalities):
        raise CrossmodError(
            f"a batch of {batch_size} cannot hold the modalities {', '.join(modalities)}: set a batch size of at least "
            f'{len(modalities)} (per GPU), as with "crossmod configure -d DATASET -b {len(modalities)} --name NAME"'
        )


class _SeenLocations(nnUNetDataLoader):  # type: ignore[misc]
    """Crops around the labels that may be seen.

    nnU-Net forces foreground into the *last* samples of a batch, which here would always be those of one modality:
    every sample draws instead.
    """

    def __init__(self, data: Any, batch_size: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(data, batch_size, *args, **{**kwargs, "probabilistic_oversampling": True})

    def get_bbox(
        self, data_shape: Any, force_fg: bool, class_locations: Mapping[Any, Any], *args: Any, **kwargs: Any
    ) -> tuple[Any, Any]:
        """Where to crop: nnU-Net's choice, and anywhere in a case of which no label may be seen."""
        if not force_fg and len(class_locations.get(self.annotated_classes_key, ())) == 0:
            force_fg, class_locations = True, {}  # how nnU-Net spells "anywhere" in a data set with an ignore label
        return super().get_bbox(data_shape, force_fg, class_locations, *args, **kwargs)  # type: ignore[no-any-return]


class BalancedDataLoader(_SeenLocations):
    """Draws ``batch_size`` samples of the source and ``target_batch_size`` of the target, in turn.

    Within a role the modalities take turns, and the cases of a modality are drawn uniformly. Where the data set holds
    cases of one role alone, ``batch_size`` samples are drawn of it.

    Args:
        data: the cases.
        batch_size: samples of the source.
        target_batch_size: samples of the target.
        args, kwargs: nnU-Net's own.
    """

    def __init__(
        self, data: CrossModalDataset, batch_size: int, *args: Any, target_batch_size: int, **kwargs: Any
    ) -> None:
        pools: dict[str, list[str]] = {}
        for name, case in sorted(data.cases.items()):
            pools.setdefault(case.modality, []).append(name)
        source, target = ([m for m in role if m in pools] for role in (data.block.source, data.block.target))
        roles = []
        for modalities, samples in ((source, batch_size), (target, target_batch_size if source else batch_size)):
            if modalities:
                check_batch_size(samples, modalities)
            roles.append([pools[modalities[i % len(modalities)]] for i in range(samples)] if modalities else [])
        self.pools = [pool for pair in zip_longest(*roles) for pool in pair if pool]
        super().__init__(data, len(self.pools), *args, **kwargs)

    def get_indices(self) -> list[str]:
        """The cases of one batch, source and target in turn."""
        return [pool[np.random.randint(len(pool))] for pool in self.pools]


class RegisteredDataLoader(_SeenLocations):
    """Draws ``batch_size`` subjects; their scans are neighbouring samples, cropped and augmented in space alike."""

    def __init__(self, data: RegisteredScans, batch_size: int, *args: Any, **kwargs: Any) -> None:
        self.scans_per_subject = len(next(iter(data.groups.values())))
        super().__init__(data, batch_size, *args, **kwargs)

    def generate_train_batch(self) -> dict[str, Any]:
        """A batch of (subjects x modalities) samples, interleaved by modality."""
        loaded = super().generate_train_batch()
        scans = self.scans_per_subject

        def unstack(stacked: Any) -> Any:
            return stacked.reshape(stacked.shape[0] * scans, stacked.shape[1] // scans, *stacked.shape[2:])

        target = loaded["target"]
        return {
            "data": unstack(loaded["data"]),
            "target": [unstack(level) for level in target] if isinstance(target, list) else unstack(target),
            "keys": [name for subject in loaded["keys"] for name in self._data.groups[str(subject)]],
        }
