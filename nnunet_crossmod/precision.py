"""Mixed precision where the device gains by it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

__all__ = ["autocast", "processor_has_bf16"]


def processor_has_bf16() -> bool:
    """Whether the processor multiplies in bfloat16 (AVX-512 BF16 or AMX), so that autocast saves time on it."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, check, lambda: False)()) for check in checks)


def autocast(device: torch.device, cpu_bf16: bool) -> AbstractContextManager[Any]:
    """Mixed precision as nnU-Net has it on CUDA, and bfloat16 on the processor where asked for."""
    if device.type == "cuda":
        return torch.autocast("cuda")
    if device.type == "cpu" and cpu_bf16:
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()
