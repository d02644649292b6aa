"""Sums and sets over all processes of a distributed training, with gradients.

A loss over such a sum or set is the same in every process, and so is that of one process with the whole batch. Its
gradient comes back to each process as many times as there are processes, which is undone when gradients are averaged.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional

__all__ = ["gathered", "summed"]


def _alone() -> bool:
    return not (dist.is_available() and dist.is_initialized())


def summed(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes, in each; the tensor itself where there is one process.

    Args:
        tensor: alike in shape in all processes.
    """
    if _alone():
        return tensor
    from torch.distributed.nn.functional import all_reduce

    total: Tensor = all_reduce(tensor)  # type: ignore[no-untyped-call]
    return total


def gathered(tensor: Tensor) -> Tensor:
    """The rows of all processes, one process after the other; the tensor itself where there is one process.

    Args:
        tensor: (n, …), n may differ from process to process, which costs a wait for the device.
    """
    if _alone():
        return tensor
    from torch.distributed.nn.functional import all_gather

    here = torch.tensor([len(tensor)], device=tensor.device)
    lengths = [torch.zeros_like(here) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, here)
    counts = [int(length) for length in lengths]
    padding = (0, 0) * (tensor.ndim - 1) + (0, max(counts) - len(tensor))
    together = all_gather(functional.pad(tensor, padding))  # type: ignore[no-untyped-call]
    return torch.cat([rows[:count] for rows, count in zip(together, counts, strict=True)])
