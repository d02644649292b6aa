"""A NIfTI file as its header describes it: what SimpleITK misreads or refuses, and where readers would disagree."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_crossmod.errors import CrossmodError

__all__ = ["NiftiFile", "is_nifti"]

_MILLIMETRES = {"meter": 1000.0, "micron": 0.001}
_KINDS = {
    128: "is a colour picture (RGB)",
    2304: "is a colour picture (RGBA)",
    32: "holds complex numbers",
    1792: "holds complex numbers",
    2048: "holds complex numbers",
}
_REMEDIES = {"is": "export the scan itself, with one grey value per voxel", "holds": "save their magnitude"}
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

Affine = NDArray[np.float64]


def is_nifti(path: Path) -> bool:
    """Whether its name says that it is a NIfTI file of one part."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


@dataclass(frozen=True)
class NiftiFile:
    """A NIfTI file in memory.

    Attributes:
        path: the file.
        content: its bytes, decompressed.
        header: nibabel's.
        compressed: whether it was.
    """

    path: Path
    content: bytes
    header: Any
    compressed: bool

    @classmethod
    def open(cls, path: Path) -> NiftiFile:
        """Read the file and look at its bytes: ITK silently reads missing voxels as zero.

        Raises:
            EOFError: a damaged header, or a file that ends early.
            CrossmodError: colours or complex numbers.
        """
        import nibabel  # here: it loads SciPy, for which --help must not wait

        headers: dict[int, Any] = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
        content = path.read_bytes()
        compressed = content[:2] == b"\x1f\x8b"
        if compressed:
            content = gzip.decompress(content)
        # The first field is the length of the header, which tells its version and the order of the bytes.
        lengths = {int.from_bytes(content[:4], order) for order in ("little", "big")} & set(headers)
        if not lengths:
            raise EOFError("its header is damaged, or it is no NIfTI file")
        try:
            header = headers[lengths.pop()].from_fileobj(BytesIO(content), check=False)
            kind = _KINDS.get(int(header["datatype"]), "")
            file = cls(path, content, header, compressed)
            start, voxels = int(header["vox_offset"]), int(np.prod(header.get_data_shape(), dtype=np.int64))
            needed = start + voxels * header.get_data_dtype().itemsize
        except Exception as error:  # whatever a damaged field brings about
            raise EOFError("its header is damaged") from error
        if not 0 <= start <= len(content) or voxels < 0:
            raise EOFError("its header is damaged")
        if len(content) < needed:
            raise EOFError(f"truncated: {len(content)} of {needed} bytes")
        if kind:
            raise CrossmodError(f"{path} {kind}: {_REMEDIES[kind.partition(' ')[0]]}")
        return file

    @property
    def voxels(self) -> NDArray[Any]:
        """The voxels (x, y, z, …) as they are stored, without slope and intercept."""
        shape, start = self.header.get_data_shape(), int(self.header["vox_offset"])
        stored = np.frombuffer(self.content, self.header.get_data_dtype(), int(np.prod(shape, dtype=np.int64)), start)
        return np.asarray(stored.reshape(shape, order="F"))

    @property
    def version(self) -> int:
        """Of the format, 1 or 2."""
        return 2 if int(self.header["sizeof_hdr"]) == 540 else 1

    @property
    def unit(self) -> str:
        """Of its lengths: ``mm``, ``micron``, ``meter`` or ``unknown``."""
        code = int(self.header["xyzt_units"]) & 7
        return {1: "meter", 2: "mm", 3: "micron"}.get(code, "unknown")

    @property
    def has_lone_intercept(self) -> bool:
        """Whether it has an intercept with the slope 0, which by the standard does not count, but does for ITK."""
        slope, intercept = float(self.header["scl_slope"]), float(self.header["scl_inter"])
        return slope == 0 and np.isfinite(intercept) and intercept != 0

    @property
    def has_negative_lengths(self) -> bool:
        """Whether a voxel size is negative, which ITK takes for a flipped axis."""
        return bool(np.any(self.header["pixdim"][1:4] < 0))

    @property
    def forms(self) -> dict[str, Affine]:
        """Its coded affines, voxel → mm to the left, back and head (LPS)."""
        header = self.header.copy()
        header["pixdim"][1:4] = np.abs(header["pixdim"][1:4])
        forms = {"qform": _qform(header), "sform": header.get_sform() if int(header["sform_code"]) > 0 else None}
        factor = np.diag([*[_MILLIMETRES.get(self.unit, 1.0)] * 3, 1.0])
        return {name: _LPS @ factor @ affine for name, affine in forms.items() if affine is not None}

    @property
    def affine(self) -> Affine:
        """Voxel → mm (LPS): the sform, unless only the qform has the voxel sizes of the header."""
        forms, lengths = self.forms, np.abs(self.header["pixdim"][1:4]) * _MILLIMETRES.get(self.unit, 1.0)
        if "sform" in forms and "qform" in forms:
            spacing = np.linalg.norm(forms["sform"][:3, :3], axis=0)
            return forms["sform" if np.allclose(spacing, lengths, rtol=0.01) else "qform"]
        return forms.get("sform", forms.get("qform", np.diag([*lengths, 1.0])))

    def image(self, affine: Affine) -> sitk.Image:
        """The file as an image, put together without ITK's reader.

        Args:
            affine: voxel → mm (LPS), its axes at right angles.
        """
        shape = [length for place, length in enumerate(self.header.get_data_shape()) if place < 3 or length > 1]
        voxels = self.voxels.reshape(shape, order="F")
        slope, intercept = float(self.header["scl_slope"]), float(self.header["scl_inter"])
        if np.isfinite(slope) and slope != 0 and (slope, intercept) != (1, 0):
            voxels = voxels * slope + (intercept if np.isfinite(intercept) else 0)
        image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T, voxels.dtype.newbyteorder("=")))
        if len(shape) == 3:
            spacing = np.linalg.norm(affine[:3, :3], axis=0)
            image.SetSpacing(spacing.tolist())
            image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
            image.SetOrigin(affine[:3, 3].tolist())
        return image


def _qform(header: Any) -> Affine | None:
    if int(header["qform_code"]) <= 0:
        return None
    try:
        return np.asarray(header.get_qform())
    except Exception:  # quaternions that are no rotation
        return None
