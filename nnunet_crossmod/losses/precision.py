"""Losses run in single precision whatever the networks run in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

__all__ = ["full_precision"]

P = ParamSpec("P")
R = TypeVar("R")
HALF = (torch.float16, torch.bfloat16)


def full_precision(loss: Callable[P, R]) -> Callable[P, R]:
    """Run ``loss`` outside autocast on single-precision copies of its half-precision arguments.

    An ``exp(1 / 0.07)`` overflows half precision, and a 1e-30 is zero in it.
    """

    def widen(value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) and value.dtype in HALF else value

    @wraps(loss)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next((v.device.type for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), "cpu")
        with torch.autocast(device, enabled=False) if device in ("cuda", "cpu") else nullcontext():
            return loss(*map(widen, args), **{name: widen(value) for name, value in kwargs.items()})

    return wrapped
