"""nnU-Net's preprocessed cases as training may see them: labels that must stay unseen are blanked on loading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from numpy.typing import NDArray

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.raw.block import Case, CrossmodBlock

__all__ = ["CrossModalDataset", "RegisteredScans", "registered_groups"]


class _View:
    """A lazily cropped array: nnU-Net's loader asks for its shape and for one crop, never for the whole."""

    def __init__(self, array: Any, shape: tuple[int, ...]) -> None:
        self.array = array
        self.shape = shape
        self.ndim = len(shape)
        self.dtype = array.dtype


class ImageChannels(_View):
    """The channels of a preprocessed case without the modality channel."""

    def __init__(self, array: Any) -> None:
        super().__init__(array, (array.shape[0] - 1, *array.shape[1:]))

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[Any]:
        channels = (slice(0, self.shape[0]), *key[1:])
        crop: NDArray[Any] = self.array[channels]
        return crop


class VisibleLabels(_View):
    """A segmentation in which only the visible foreground labels stand; all others read as background.

    Values outside the foreground (-1 for nnU-Net's padding, the ignore label) are kept only where something is visible:
    of a case without any visible label nothing at all is read.
    """

    def __init__(self, array: Any, hidden: Sequence[int]) -> None:
        super().__init__(array, tuple(array.shape))
        self.hidden = list(hidden)

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[Any]:
        crop = np.array(self.array[key])
        crop[np.isin(crop, self.hidden)] = 0
        return crop


class Stacked(_View):
    """Several arrays of one spatial shape, stacked along the channels."""

    def __init__(self, arrays: Sequence[Any]) -> None:
        super().__init__(arrays[0], (sum(a.shape[0] for a in arrays), *arrays[0].shape[1:]))
        self.arrays = arrays

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[Any]:
        return np.concatenate([np.asarray(array[key]) for array in self.arrays])


class CrossModalDataset(nnUNetBaseDataset):  # type: ignore[misc]
    """Wraps nnU-Net's own data set class.

    Args:
        inner: an instance of nnU-Net's data set class.
        cases: what may be seen, by case name; other cases of ``inner`` are left out.
        block: the data set's block.
        keep_modality_channel: validation keeps the modality channel, so that the network reads it as at inference.
    """

    def __init__(
        self, inner: Any, cases: Mapping[str, Case], block: CrossmodBlock, keep_modality_channel: bool = False
    ) -> None:
        super().__init__(inner.source_folder, sorted(cases), None)
        self.inner = inner
        self.cases = dict(cases)
        self.block = block
        self.keep_modality_channel = keep_modality_channel

    def load_case(self, identifier: str) -> tuple[Any, Any, None, dict[str, Any]]:
        """One case as nnU-Net's loader wants it: data, segmentation, no previous stage, properties."""
        data, seg, _, properties = self.inner.load_case(identifier)
        visible = self.cases[str(identifier)].visible
        hidden = [value for value in self.block.labels.values() if value not in visible]
        locations = properties["class_locations"]
        if not visible:
            seg = VisibleLabels(np.broadcast_to(np.int16(0), seg.shape), ())
            locations = {key: [] for key in locations}
        elif hidden:
            seg = VisibleLabels(seg, hidden)
            locations = {key: found if key in visible else [] for key, found in locations.items()}
        if not self.keep_modality_channel:
            data = ImageChannels(data)
        return data, seg, None, {**properties, "class_locations": locations}

    @staticmethod
    def save_case(*args: Any, **kwargs: Any) -> None:
        """Not for writing."""
        raise NotImplementedError("preprocessed cases are written by nnUNetv2_preprocess")

    @staticmethod
    def get_identifiers(folder: str) -> list[str]:
        """Not for listing: the cases are given."""
        raise NotImplementedError("list the cases with nnU-Net's own data set class")


def registered_groups(cases: Mapping[str, Case], modalities: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The subjects that have a scan of every modality: subject → its cases in the order of the modalities."""
    scans: dict[str, dict[str, str]] = {}
    for name, case in sorted(cases.items()):
        scans.setdefault(case.subject, {}).setdefault(case.modality, name)
    return {
        subject: tuple(by_modality[m] for m in modalities)
        for subject, by_modality in sorted(scans.items())
        if set(modalities) <= set(by_modality)
    }


class RegisteredScans(nnUNetBaseDataset):  # type: ignore[misc]
    """Subjects as cases: the registered scans of a subject stacked along the channels.

    What nnU-Net's loader does to a case (crop, rotate, mirror) it then does to all scans of the subject alike.
    """

    def __init__(self, scans: CrossModalDataset) -> None:
        modalities = scans.block.modalities
        self.groups = registered_groups(scans.cases, modalities)
        if not self.groups:
            raise CrossmodError(
                f"no subject has registered scans of {' and '.join(modalities)} in this fold: give them one "
                '"subject" in the "crossmod" block of dataset.json, or set pairing=unpaired'
            )
        super().__init__(scans.source_folder, list(self.groups), None)
        self.scans = scans
        for names in self.groups.values():
            self._load(names)

    def load_case(self, identifier: str) -> tuple[Any, Any, None, dict[str, Any]]:
        """One subject: stacked data, stacked segmentations, no previous stage, properties of the annotated scan."""
        loaded = self._load(self.groups[str(identifier)])

        def classes(case: tuple[Any, Any, None, dict[str, Any]]) -> int:
            return sum(len(places) > 0 for places in case[3]["class_locations"].values())

        informative = max(loaded, key=classes)
        return Stacked([data for data, *_ in loaded]), Stacked([seg for _, seg, *_ in loaded]), None, informative[3]

    def _load(self, names: Sequence[str]) -> list[tuple[Any, Any, None, dict[str, Any]]]:
        loaded = [self.scans.load_case(name) for name in names]
        shapes = {data.shape for data, _, _, _ in loaded}
        if len(shapes) > 1:
            raise CrossmodError(
                f"the scans {', '.join(names)} differ in shape after preprocessing ({sorted(shapes)}): convert them "
                'again with "crossmod convert", or set pairing=unpaired'
            )
        return loaded

    save_case = staticmethod(CrossModalDataset.save_case)
    get_identifiers = staticmethod(CrossModalDataset.get_identifiers)
