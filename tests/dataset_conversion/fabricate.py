"""Files as the data sets have them: DICOM series, PNG stacks, TFRecords, NIfTI."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

SPACING = (1.5, 1.25, 5.0)
# Rows run to the left and front, slices to the feet: nothing that a reader could get right by chance.
ROW, COLUMN = (-0.8, 0.6, 0.0), (-0.6, -0.8, 0.0)
ORIGIN = (40.0, -25.0, 300.0)


def nifti(path: Path, voxels: Any, spacing: Sequence[float] = (1.0, 1.0, 2.0)) -> Path:
    """Voxels (z, y, x) as a NIfTI file with an oblique affine."""
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing)
    image.SetOrigin((-10.0, 20.5, 3.0))
    image.SetDirection((0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def dicom(
    folder: Path, voxels: Any, names: Sequence[str], uid: str = "1.2.826.0.1.3680043.2.1125.7", **tags: str
) -> list[Path]:
    """Voxels (z, y, x) as one DICOM file a slice, slice z at ``ORIGIN[2] + z * SPACING[2]``."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    files = []
    for z, (plane, name) in enumerate(zip(voxels, names, strict=True)):
        image = sitk.GetImageFromArray(plane[None].astype(np.int16))
        image.SetSpacing(SPACING)
        position = (ORIGIN[0], ORIGIN[1], ORIGIN[2] + z * SPACING[2])
        for tag, value in {
            "0008|0060": "MR",
            "0008|0018": f"{uid}.{z + 1}",
            "0020|000d": f"{uid}.0",
            "0020|000e": uid,
            "0020|0013": str(z + 1),
            "0020|0032": "\\".join(map(str, position)),
            "0020|0037": "\\".join(map(str, (*ROW, *COLUMN))),
            **tags,
        }.items():
            image.SetMetaData(tag, value)
        # SimpleITK takes position and orientation from the image, not from the tags.
        image.SetOrigin(position)
        normal = np.cross(ROW, COLUMN)
        image.SetDirection(np.stack([ROW, COLUMN, normal], axis=1).ravel().tolist())
        writer.SetFileName(str(folder / name))
        writer.Execute(image)
        files.append(folder / name)
    return files


def pngs(folder: Path, voxels: Any, names: Sequence[str]) -> list[Path]:
    """Grey values (z, y, x) as one PNG a slice."""
    folder.mkdir(parents=True, exist_ok=True)
    for plane, name in zip(voxels, names, strict=True):
        sitk.WriteImage(sitk.GetImageFromArray(plane.astype(np.uint8)), str(folder / name))
    return [folder / name for name in names]


def slow_crc32c(data: bytes) -> int:
    """The checksum bit by bit, from its definition."""
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = (state >> 1) ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def example(features: Mapping[str, bytes | int | list[float]]) -> bytes:
    """A serialised ``tf.train.Example``."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, bytes):
            feature = _field(1, _field(1, value))
        elif isinstance(value, int):
            feature = _field(3, _field(1, _varint(value)))
        else:
            feature = _field(2, _field(1, struct.pack(f"<{len(value)}f", *value)))
        entries += _field(1, _field(1, name.encode()) + _field(2, feature))
    return _field(1, entries)


def tfrecord(path: Path, *records: bytes) -> Path:
    """Records in the framing of TFRecord files."""

    def masked(data: bytes) -> bytes:
        crc = slow_crc32c(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    path.parent.mkdir(parents=True, exist_ok=True)
    content = b""
    for record in records:
        length = struct.pack("<Q", len(record))
        content += length + masked(length) + record + masked(record)
    path.write_bytes(content)
    return path


def sifa_slice(path: Path, image: Any, label: Any) -> Path:
    """A training file of the SIFA release; image and label (h, w, 3)."""
    sizes = {
        f"{kind}size_dim{axis}": length
        for kind, v in (("d", image), ("l", label))
        for axis, length in enumerate(v.shape)
    }
    content = {"data_vol": image.astype("<f4").tobytes(), "label_vol": label.astype("<f4").tobytes()}
    return tfrecord(path, example({**sizes, **content}))
