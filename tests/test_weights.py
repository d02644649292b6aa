"""A checkpoint is weights and numbers; what is more is not run."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.weights import read_checkpoint, what_could_run


class Runs:
    """Leaves a file where it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


def test_what_nnunet_writes_is_read(tmp_path: Path) -> None:
    written = {"network_weights": {"a": torch.ones(2)}, "logging": {"dice": [np.float32(0.5), np.float64(0.25)]}}
    torch.save(written, tmp_path / "a.pth")
    read = read_checkpoint(tmp_path / "a.pth")
    assert torch.equal(read["network_weights"]["a"], torch.ones(2))
    assert read["logging"] == written["logging"]
    assert what_could_run(tmp_path / "a.pth") == []


def test_numbers_of_an_older_numpy_are_read(tmp_path: Path) -> None:
    torch.save({"logging": np.float64(0.25)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as new, zipfile.ZipFile(tmp_path / "b.pth", "w") as old:
        for item in new.infolist():
            old.writestr(item, new.read(item).replace(b"numpy._core", b"numpy.core"))
    assert read_checkpoint(tmp_path / "b.pth") == {"logging": 0.25}


def test_what_is_more_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"network_weights": {}, "more": Runs(tmp_path / "ran")}, tmp_path / "a.pth")
    with pytest.raises(CrossmodError, match=r"a\.pth .*could run code.*weights_only=False"):
        read_checkpoint(tmp_path / "a.pth")
    assert what_could_run(tmp_path / "a.pth") == ["posix.mkdir"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"weights", b".", b"version https://git-lfs", io.BytesIO])
def test_what_is_no_checkpoint_is_told(content: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    if content is io.BytesIO:
        torch.save([1], file)
    else:
        file.write_bytes(content)
    with pytest.raises(CrossmodError, match="no checkpoint"):
        read_checkpoint(file)
    if content is not io.BytesIO:
        with pytest.raises(CrossmodError, match="no checkpoint"):
            what_could_run(file)
