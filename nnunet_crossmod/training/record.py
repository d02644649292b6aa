"""The record of a training: ``losses.jsonl`` (one row per epoch) and ``losses.png`` (one panel per term)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["LossRecord", "read_rows"]


class LossRecord:
    """Appends epochs to ``losses.jsonl`` and redraws ``losses.png``.

    Args:
        folder: the fold's results folder.
        first_epoch: rows of this epoch and later are dropped: a training that continues from a checkpoint writes them
            again.
    """

    def __init__(self, folder: Path, first_epoch: int) -> None:
        self.file = folder / "losses.jsonl"
        self.picture = folder / "losses.png"
        rows = read_rows(self.file) if first_epoch > 0 else []
        self.rows = [row for row in rows if row["epoch"] < first_epoch]
        self.file.write_text("".join(json.dumps(row) + "\n" for row in self.rows))

    def add(self, epoch: int, terms: Mapping[str, float], **more: Any) -> None:
        """Write one epoch: its mean terms and whatever else is worth a column (phase, learning rate, …)."""
        row = {"epoch": epoch, **more, **terms}
        self.rows.append(row)
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def draw(self) -> None:
        """Redraw the picture."""
        from nnunet_crossmod.pictures.curves import draw_losses

        draw_losses(self.rows, self.picture)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The epochs of a ``losses.jsonl``; none where there is no file."""
    if not file.exists():
        return []
    rows = []
    for line in file.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:  # the last line of a training that was killed while writing
            break
    return rows
