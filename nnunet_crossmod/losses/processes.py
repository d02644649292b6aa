"""Sums and sets over all processes of a distributed training, with gradients.

A loss over such a sum or set is the same in every process, and so is that of one process with the whole batch. Its
gradient comes back to each process as many times as there are processes, which is undone when gradients are averaged.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional

__all__ = ["alone", "gathered", "summed"]


def alone() -> bool:
    """Whether there is one process."""
    return not (dist.is_available() and dist.is_initialized())


def summed(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The sums of tensors over all processes, in each; the tensors themselves where there is one process.

    Args:
        tensors: alike in shape in all processes; they travel together.
    """
    if alone():
        return tensors
    from torch.distributed.nn.functional import all_reduce

    totals: Tensor = all_reduce(torch.cat([tensor.flatten() for tensor in tensors]))  # type: ignore[no-untyped-call]
    parts = torch.split(totals, [tensor.numel() for tensor in tensors])
    return tuple(part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True))


def gathered(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The rows of all processes, one process after the other; the tensors themselves where there is one process.

    Args:
        tensors: (n, …), n may differ from process to process, which costs a wait for the device.
    """
    if alone():
        return tensors
    from torch.distributed.nn.functional import all_gather

    here = torch.tensor([len(tensors[0])], device=tensors[0].device)
    lengths = [torch.zeros_like(here) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, here)
    counts = [int(length) for length in lengths]

    def together(tensor: Tensor) -> Tensor:
        padding = (0, 0) * (tensor.ndim - 1) + (0, max(counts) - len(tensor))
        parts = all_gather(functional.pad(tensor, padding))  # type: ignore[no-untyped-call]
        return torch.cat([rows[:count] for rows, count in zip(parts, counts, strict=True)])

    return tuple(map(together, tensors))
