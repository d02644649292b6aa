"""Files as the data sets have them (DICOM series, PNG stacks, TFRecords, NIfTI), and each data set in miniature."""

from __future__ import annotations

import json
import locale
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunet_crossmod.raw.block import CrossmodBlock

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
    folder: Path,
    voxels: Any,
    names: Sequence[str],
    uid: str = "1.2.826.0.1.3680043.2.1125.7",
    positions: Sequence[Sequence[float]] | None = None,
    **tags: str,
) -> list[Path]:
    """Voxels (z, y, x) as one DICOM file per slice, slice z at ``ORIGIN[2] + z * SPACING[2]`` or where it is told."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetImageIO("GDCMImageIO")  # whatever the ending
    files = []
    for z, (plane, name) in enumerate(zip(voxels, names, strict=True)):
        image = sitk.GetImageFromArray(plane[None].astype(np.int16))
        image.SetSpacing(SPACING)
        position = (ORIGIN[0], ORIGIN[1], ORIGIN[2] + z * SPACING[2]) if positions is None else tuple(positions[z])
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
        encoding = locale.setlocale(locale.LC_CTYPE)
        writer.Execute(image)
        locale.setlocale(locale.LC_CTYPE, encoding)  # GDCM leaves "C": Python would read text files as ASCII
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


SHAPE = (4, 10, 12)


def voxels(seed: int, shape: tuple[int, ...] = SHAPE) -> Any:
    return np.random.default_rng(seed).integers(1, 900, shape).astype(np.int16)


def labels(seed: int, ids: Any, shape: tuple[int, ...] = SHAPE) -> Any:
    return np.random.default_rng(1000 + seed).choice(np.array([0, *ids], dtype=np.uint16), shape)


def read(written: Path) -> tuple[dict[str, Any], CrossmodBlock]:
    content = json.loads((written / "dataset.json").read_text())
    return content, CrossmodBlock.from_dataset_json(content)


def names(block: CrossmodBlock, modality: str, **wanted: Any) -> set[str]:
    cases = [case for case in block.cases.values() if case.modality == modality]
    return {case.name for case in cases if all(getattr(case, key) == value for key, value in wanted.items())}


def mmwhs_tree(root: Path) -> Path:
    ids = [500, 600, 420, 550, 205, 820, 850]
    for kind in ("ct", "mr"):
        for number in (1001, 1002, 1003, 1004, 1005, 1007):
            stem = root / f"{kind}_train" / f"{kind}_train_{number}"
            nifti(Path(f"{stem}_image.nii.gz"), voxels(number))
            found = labels(number, [*ids, 421] if kind == "mr" else ids)
            nifti(Path(f"{stem}_label.nii.gz"), found.astype(np.int32))
        nifti(root / f"{kind}_test" / f"{kind}_test_2001_image.nii.gz", voxels(1))
    return root


GREY = {"liver": (56, 63, 70), "right kidney": (111, 126), "left kidney": (176, 189, 200), "spleen": (241, 252)}


def chaos_tree(root: Path) -> Path:
    greys = [grey for some in GREY.values() for grey in some]
    for subject in (1, 2, 3, 10):
        for protocol, series in (("T2SPIR", ""), ("T1DUAL", "InPhase"), ("T1DUAL", "OutPhase")):
            place = root / "CHAOS" / "Train_Sets" / "MR" / str(subject) / protocol
            files = [f"IMG-0004-{2 * z + 1:05d}" for z in range(4)]
            # Descending, as the scanner counted: the first name is the last position.
            dicom(place / "DICOM_anon" / series, voxels(subject), [f"{name}.dcm" for name in files[::-1]])
            pngs(place / "Ground", labels(subject, greys), [f"{name}.png" for name in files[::-1]])
    for subject in (21,):
        place = root / "CHAOS" / "Test_Sets" / "MR" / str(subject) / "T2SPIR"
        dicom(place / "DICOM_anon", voxels(subject), [f"IMG-{z}.dcm" for z in range(4)])
    for number in (1, 2, 21, 61):
        nifti(root / "BTCV" / "img" / f"img{number:04d}.nii.gz", voxels(number) - 500)
        if number != 61:
            nifti(root / "BTCV" / "label" / f"label{number:04d}.nii.gz", labels(number, range(1, 14)).astype(np.uint8))
    return root


def amos_tree(root: Path) -> Path:
    for part, numbers in (("Tr", (1, 4, 7, 500, 507, 510, 599)), ("Va", (8, 600))):
        for number in numbers:
            nifti(root / "amos22" / f"images{part}" / f"amos_{number:04d}.nii.gz", voxels(number))
            nifti(root / "amos22" / f"labels{part}" / f"amos_{number:04d}.nii.gz", labels(number, range(1, 16)))
    nifti(root / "amos22" / "imagesTs" / "amos_0002.nii.gz", voxels(2))
    return root


def tao_tree(root: Path) -> Path:
    for subject in range(1, 7):
        flat = subject % 2
        for sequence, ids in (("T1", (1, 2)), ("T1c", (1,))):
            stem = f"sub{subject}_{sequence}" if flat else f"sub{subject}/{sequence}"
            nifti(root / f"{stem}.nii.gz", voxels(subject))
            nifti(root / f"{stem}_label.nii.gz", labels(subject, ids))
    return root


def sifa_tree(root: Path) -> Path:
    for kind in ("ct", "mr"):
        for part, count in (("train", 4), ("val", 2)):
            for number in range(count):
                image = np.random.default_rng(number).normal(size=(32, 32, 3))
                path = root / f"{kind}_{part}_tfs" / f"{kind}_{part}_slice{number}.tfrecords"
                sifa_slice(path, image, labels(number, range(1, 6), (32, 32, 3)) * (number > 0))
    for name in ("ct_1003", "mr_1007"):
        image = np.random.default_rng(7).normal(size=(32, 32, 5))
        (root / "test").mkdir(exist_ok=True)
        np.savez(root / "test" / f"{name}.npz", image, labels(7, range(1, 6), (32, 32, 5)))
    return root


def cmr_tree(root: Path) -> Path:
    for patient in range(1, 8):
        for sequence in ("C0", "LGE", "T2"):
            nifti(root / f"patient{patient}_{sequence}.nii.gz", voxels(patient))
            if sequence != "LGE" or patient < 6:
                found = labels(patient, (200, 500, 600))
                nifti(root / f"patient{patient}_{sequence}_manual.nii.gz", found)
    return root
