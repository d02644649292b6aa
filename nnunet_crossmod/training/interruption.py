"""A scheduler's SIGTERM ends a training in one line, and its worker processes with it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from nnunet_crossmod.errors import CrossmodError

__all__ = ["stopping_in_one_line"]


@contextmanager
def stopping_in_one_line(trainer: Any) -> Iterator[None]:
    """As long as this lasts SIGTERM raises :class:`CrossmodError` that says from where to continue.

    A handler that somebody else has set stays.
    """
    mine = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not mine:
        yield
        return
    # checkpoints of an earlier training lie there until the first of this one
    oldest = 0.0 if trainer.current_epoch > 0 else time.time()

    def stop(number: int, frame: FrameType | None) -> None:
        raise CrossmodError(f"told to stop (SIGTERM) in epoch {trainer.current_epoch}; {_remedy(trainer, oldest)}")

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _remedy(trainer: Any, oldest: float) -> str:
    fold = Path(trainer.output_folder)
    for name in ("final", "latest", "best"):  # nnU-Net's order
        kept = fold / f"checkpoint_{name}.pth"
        if kept.is_file() and kept.stat().st_mtime >= oldest:
            return f"{kept} is whole: " + ("validate with --val" if name == "final" else "continue with --c")
    return "there is no checkpoint yet: train again"
