"""A scheduler's SIGTERM ends a training in one line, and its worker processes with it."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from nnunet_crossmod.errors import CrossmodError

__all__ = ["stop_in_one_line"]


def stop_in_one_line(trainer: Any) -> None:
    """From now on SIGTERM raises :class:`CrossmodError` that says from where to continue.

    A handler that somebody else has set stays.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        kept = Path(trainer.output_folder) / "checkpoint_latest.pth"
        remedy = f"{kept} is whole: continue with --c" if kept.is_file() else "there is no checkpoint yet: train again"
        raise CrossmodError(f"told to stop (SIGTERM) in epoch {trainer.current_epoch}; {remedy}")

    signal.signal(signal.SIGTERM, stop)
