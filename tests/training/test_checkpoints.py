"""Checkpoints say who wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.training.checkpoints import FORMAT, read_addition, write_checkpoint

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("checkpoint", "says"),
    [
        ({"network_weights": {}}, "was written by a stock trainer"),
        ({"crossmod": {}}, r"another version of nnunet-crossmod \(format 1\)"),
        (
            {"crossmod": {"format": FORMAT + 1}},
            rf"\(format {FORMAT + 1}\), this version reads format {FORMAT}: train again",
        ),
    ],
)
def test_another_writer_is_named(checkpoint: dict[str, Any], says: str, tmp_path: Path) -> None:
    torch.save(checkpoint, tmp_path / "c.pth")
    with pytest.raises(CrossmodError, match=says):
        read_addition(str(tmp_path / "c.pth"), CPU)


def test_a_write_that_fails_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "c.pth"

    def complete(checkpoint: dict[str, Any]) -> None:
        checkpoint["crossmod"] = {"heads": {}}

    write_checkpoint(str(file), lambda buffer: torch.save({}, buffer), complete)
    before = file.read_bytes()
    assert read_addition(str(file), CPU)["format"] == FORMAT

    def full(checkpoint: Any, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="No space left"):
            write_checkpoint(str(file), lambda buffer: buffer.write(before), complete)
    assert file.read_bytes() == before
