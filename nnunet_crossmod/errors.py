"""The one exception a user is meant to read."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from difflib import get_close_matches
from types import TracebackType

__all__ = ["CrossmodError", "UnsupportedError", "did_you_mean", "report_errors_in_one_line"]


PRETRAINED = (
    "these pretrained weights do not fit as they are ({}): crossmod adapt-weights -i FILE.pth -o ADAPTED.pth with the "
    "-d, -c, -tr and -p of this training makes them fit; then -pretrained_weights ADAPTED.pth"
)


class CrossmodError(ValueError):
    """Wrong input, told in one line that names the case, the file and the remedy."""


class UnsupportedError(CrossmodError, NotImplementedError):
    """A mode of nnU-Net that cross-modal training does not have; the line says what to do instead."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: `` (did you mean fpc_weight?)``, or nothing where none is near."""
    lower = {other.lower(): other for other in known}
    close = get_close_matches(name.lower(), lower, n=1)
    return f" (did you mean {lower[close[0]]}?)" if close else ""


def report_errors_in_one_line() -> None:
    """Let a :class:`CrossmodError` that ends the process print its one line instead of a traceback.

    nnU-Net's commands have no place of their own for this: an exception raised inside ``nnUNetv2_train`` would bury
    the remedy under forty lines of frames. So does nnU-Net's refusal of pretrained weights. Every other exception keeps
    its traceback, and the exit code stays 1.
    """
    previous = sys.excepthook
    if getattr(previous, "reports_crossmod_errors", False):
        return

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if issubclass(kind, CrossmodError):
            print(f"Error: {error}", file=sys.stderr)
        elif issubclass(kind, AssertionError) and "retrained model" in str(error):
            print(f"Error: {PRETRAINED.format(str(error).partition('. ')[0])}", file=sys.stderr)
        else:
            previous(kind, error, traceback)

    hook.reports_crossmod_errors = True  # type: ignore[attr-defined]
    sys.excepthook = hook
