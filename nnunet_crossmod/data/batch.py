"""A batch that knows the modality of its samples and what may be learnt from each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_crossmod.raw.block import Case, CrossmodBlock

__all__ = ["CrossModalBatch", "Rows", "rows"]

Rows = slice | Tensor


@lru_cache(maxsize=1024)
def rows(positions: tuple[int, ...], device: torch.device) -> Rows:
    """An index for the given rows of a batch: a slice, thus a view without copy, where they are evenly spaced (as in an
    interleaved batch), otherwise a tensor, which goes to the device once."""
    if not positions:
        return slice(0, 0)
    step = positions[1] - positions[0] if len(positions) > 1 else 1
    if step > 0 and positions == tuple(range(positions[0], positions[-1] + 1, step)):
        return slice(positions[0], positions[-1] + 1, step)
    return torch.tensor(positions, device=device)


@dataclass(frozen=True)
class CrossModalBatch:
    """Samples of several modalities, as a rule in turn.

    ``images`` (n, c, *s) without the modality channel; ``labels`` (n, *s_i) of every deep-supervision level, full
    resolution first; ``modality`` (n,) indices; ``cases`` the n cases they were cut from. Labels that training may
    not see are 0: use the labels of annotated rows only. ``registered`` says that the b-th samples of all modalities
    show the same place of the same subject. ``pseudo_labels`` and ``trusted`` (t, *s) are a teacher's, of the
    t samples of target modalities, where there is a teacher. ``scanned`` (n, 1, *s) is where images were not padding
    before their intensities were augmented.
    """

    images: Tensor
    labels: tuple[Tensor, ...]
    modality: Tensor
    cases: tuple[Case, ...]
    block: CrossmodBlock
    registered: bool = False
    pseudo_labels: Tensor | None = None
    trusted: Tensor | None = None
    scanned: Tensor | None = None

    @classmethod
    def from_loader(
        cls,
        loaded: Mapping[str, Any],
        block: CrossmodBlock,
        cases: Mapping[str, Case],
        device: torch.device,
        registered: bool = False,
    ) -> CrossModalBatch:
        """Take what nnU-Net's loader returns (``data``, ``target``, ``keys``) to the device."""
        chosen = tuple(cases[str(key)] for key in loaded["keys"])
        target = loaded["target"]
        levels: Iterable[Tensor] = target if isinstance(target, list) else [target]
        modality = torch.tensor([block.modalities.index(case.modality) for case in chosen])
        if device.type == "cuda":
            modality = modality.pin_memory()
        return cls(
            loaded["data"].to(device, non_blocking=True),
            tuple(level[:, 0].to(device, non_blocking=True) for level in levels),
            modality.to(device, non_blocking=True),
            chosen,
            block,
            registered,
        )

    def with_pseudo_labels(self, labels: Tensor, trusted: Tensor) -> CrossModalBatch:
        """The batch with a teacher's labels of its target samples."""
        return replace(self, pseudo_labels=labels, trusted=trusted)

    def rows_where(self, wanted: Callable[[Case], bool]) -> Rows:
        """Index of the samples whose case is wanted."""
        return rows(self._where(wanted), self.images.device)

    def _where(self, wanted: Callable[[Case], bool]) -> tuple[int, ...]:
        return tuple(i for i, case in enumerate(self.cases) if wanted(case))

    def rows_of(self, modality: str) -> Rows:
        """Index of one modality's samples."""
        return self.rows_where(lambda case: case.modality == modality)

    @property
    def source_rows(self) -> Rows:
        """Index of the samples of source modalities."""
        return self.rows_where(lambda case: case.modality in self.block.source)

    @property
    def target_rows(self) -> Rows:
        """Index of the samples of target modalities."""
        return self.rows_where(lambda case: case.modality in self.block.target)

    @property
    def annotated_rows(self) -> Rows:
        """Index of the samples of which training may see some label."""
        return self.rows_where(lambda case: case.annotated)

    def taught(self, modality: str | None = None) -> list[tuple[int, int]]:
        """The samples of the target, or of one modality of it, of which training may see no label: their row in the
        batch, and their place among the pseudo-labels."""
        target = self._where(lambda case: case.modality in self.block.target)
        return [
            (row, place)
            for place, row in enumerate(target)
            if not self.cases[row].annotated and modality in (None, self.cases[row].modality)
        ]

    def taught_rows(self, modality: str | None = None) -> tuple[Rows, Rows]:
        """Index of :meth:`taught` in the batch, and among the pseudo-labels."""
        taught = self.taught(modality)
        in_batch, among_labels = (rows(tuple(pair[i] for pair in taught), self.images.device) for i in (0, 1))
        return in_batch, among_labels

    @property
    def foreground(self) -> Tensor:
        """Where the labels at full resolution (n, *s) are a structure: not background, padding or ignore."""
        return (self.labels[0] > 0) & (self.labels[0] <= max(self.block.labels.values()))

    @property
    def inside(self) -> Tensor:
        """Where a sample is scan and not padding (n, 1, *s): nnU-Net pads with 0 beyond a scan's edge."""
        return (self.images != 0).any(1, keepdim=True) if self.scanned is None else self.scanned

    @cached_property
    def common_frame(self) -> Tensor:
        """Where a sample is scan and a partner of the other side is, too (n, 1, *s).

        Multiplied by it, what is made of the source and of the target ends at the same edges: no discriminator can tell
        them by how much of a patch a scan fills.
        """
        inside = self.inside
        frame = inside.clone()
        for rows, others in ((self.source_rows, self.target_rows), (self.target_rows, self.source_rows)):
            partners = inside[others]
            if len(partners) > 0:
                turns = torch.arange(len(inside[rows]), device=inside.device) % len(partners)
                frame[rows] &= partners[turns]
        return frame

    def framed(self, maps: Tensor) -> Tensor:
        """Maps (n, k, *m) of the samples within :attr:`common_frame`, brought to their resolution; 0 elsewhere."""
        return maps * functional.interpolate(self.common_frame.to(maps.dtype), maps.shape[2:], mode="nearest-exact")

    @property
    def annotations(self) -> list[tuple[tuple[int, ...], Rows]]:
        """The annotated samples, grouped by the classes that are annotated in them."""
        groups = sorted({tuple(sorted(case.visible)) for case in self.cases if case.annotated})
        return [(group, self.rows_where(lambda case, g=group: tuple(sorted(case.visible)) == g)) for group in groups]  # type: ignore[misc]

    def select(self, chosen: Rows | tuple[int, ...]) -> CrossModalBatch:
        """The samples at the given rows as a batch of their own; a tensor of rows on a GPU is waited for."""
        positions: Sequence[int]
        if isinstance(chosen, tuple):
            positions, chosen = chosen, rows(chosen, self.images.device)
        else:
            positions = range(len(self.cases))[chosen] if isinstance(chosen, slice) else chosen.tolist()
        return CrossModalBatch(
            self.images[chosen],
            tuple(level[chosen] for level in self.labels),
            self.modality[chosen],
            tuple(self.cases[i] for i in positions),
            self.block,
            self.registered,
            scanned=None if self.scanned is None else self.scanned[chosen],
        )

    @property
    def source(self) -> CrossModalBatch:
        """The samples of source modalities."""
        return self.select(self._where(lambda case: case.modality in self.block.source))

    @property
    def target(self) -> CrossModalBatch:
        """The samples of target modalities."""
        return self.select(self._where(lambda case: case.modality in self.block.target))

    def of(self, modality: str) -> CrossModalBatch:
        """The samples of one modality."""
        return self.select(self._where(lambda case: case.modality == modality))

    @property
    def annotated(self) -> CrossModalBatch:
        """The samples of which training may see some label."""
        return self.select(self._where(lambda case: case.annotated))
