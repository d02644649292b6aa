"""The scans of the phantom: a heart drawn at random, and how each kind of MR contrast shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

__all__ = ["APPEARANCE", "LABELS", "MODALITIES", "Gap", "scan_subject"]

LABELS = {"background": 0, "Myo": 1, "LV": 2, "RV": 3}
MODALITIES = ("cine", "lge")
TISSUES = ("air", "lung", "fat", "muscle", "liver", "blood", "myocardium")

Gap: TypeAlias = Literal["moderate", "severe"]
Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Appearance:
    """How a modality shows the anatomy.

    Attributes:
        intensity: signal of each of ``TISSUES``.
        spread: standard deviation of the factor by which a tissue's signal differs between scans.
        resolution_mm: standard deviation of the in-plane blur.
        noise: standard deviation of the noise, in units of ``intensity``, per voxel before the blur.
        shading: standard deviation of the logarithm of the bias field.
        texture: standard deviation of the factor by which the signal varies within a tissue.
    """

    intensity: tuple[float, float, float, float, float, float, float]
    spread: float
    resolution_mm: float
    noise: float
    shading: float
    texture: float


#                     air lung  fat muscle liver blood myocardium
_CINE = Appearance((0, 70, 640, 210, 300, 760, 220), 0.06, 0.7, 35.0, 0.12, 0.05)
_LGE = Appearance((0, 90, 520, 230, 360, 420, 190), 0.12, 1.1, 75.0, 0.25, 0.14)
_DARK_BLOOD = Appearance((0, 260, 170, 480, 360, 80, 640), 0.10, 1.1, 70.0, 0.25, 0.12)
APPEARANCE: Mapping[Gap, Mapping[str, Appearance]] = {
    "moderate": {"cine": _CINE, "lge": _LGE},
    "severe": {"cine": _CINE, "lge": _DARK_BLOOD},
}

_IN_PLANE_MM = 1.5
_SLICE_MM = 8.0
_BLOOD, _MYOCARDIUM, _FAT = (TISSUES.index(name) for name in ("blood", "myocardium", "fat"))
# Sub-voxels per voxel along z, y and x: their mean is the partial volume.
_FINER = (2, 2, 2)


def scan_subject(
    seed: int, subject: int, size: int, slices: int, gap: Gap = "moderate", registered: bool = False
) -> Iterator[tuple[str, sitk.Image, sitk.Image]]:
    """Both scans of one subject, as modality, int16 image and uint8 label map."""
    anatomy = Anatomy.draw(np.random.default_rng([seed, subject]))
    for number, modality in enumerate(MODALITIES):
        pose = Pose.draw(np.random.default_rng([seed, subject, 1, 0 if registered else number]), slices)
        random = np.random.default_rng([seed, subject, 2, number])
        signal, label = render(anatomy, pose, size, APPEARANCE[gap][modality], random)
        yield modality, pose.place(acquire(signal, APPEARANCE[gap][modality], random)), pose.place(label)


class SmoothField:
    """A random smooth function of position in mm: a few plane waves of random direction, mean 0, variance 1."""

    def __init__(self, random: np.random.Generator, shortest_mm: float, longest_mm: float, waves: int = 6) -> None:
        direction = random.normal(size=(waves, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        wavelength = random.uniform(shortest_mm, longest_mm, size=(waves, 1))
        self.frequency = 2 * np.pi * direction / wavelength
        self.phase = random.uniform(0, 2 * np.pi, size=waves)

    def __call__(self, x: Array, y: Array, z: Array) -> Array:
        total = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape))
        for (fx, fy, fz), phase in zip(self.frequency, self.phase, strict=True):
            total += np.cos(fx * x + fy * y + fz * z + phase)
        return np.asarray(total * np.sqrt(2 / len(self.phase)))


@dataclass(frozen=True)
class Anatomy:
    """One heart and the chest around it; lengths in mm, angles in radians.

    The frame: x to the subject's left (image right), y to the back (image bottom), z from base (0) to apex.
    """

    length: float
    radius: float
    wall: float
    eccentricity: float
    lobes: tuple[float, float]
    tilt: tuple[float, float]
    rv_width: float
    rv_length: float
    rv_rise: float
    papillaries: tuple[float, float]
    papillary_radius: float
    chest: tuple[float, float]
    rim: float
    wobble: tuple[SmoothField, SmoothField]
    ragged: SmoothField

    @classmethod
    def draw(cls, random: np.random.Generator) -> Anatomy:
        """A random subject."""
        uniform = random.uniform
        return cls(
            length=uniform(62, 74),
            radius=uniform(26, 33),
            wall=uniform(7.5, 11.5),
            eccentricity=uniform(-0.10, 0.10),
            lobes=(uniform(0, 2 * np.pi), uniform(0, 2 * np.pi)),
            tilt=(uniform(-0.12, 0.12), uniform(-0.12, 0.12)),
            rv_width=uniform(15, 25),
            rv_length=uniform(0.80, 0.95),
            rv_rise=uniform(-8, 2),
            papillaries=(uniform(0.4, 1.0), uniform(2.2, 3.0)),
            papillary_radius=uniform(2.5, 4.5),
            chest=(uniform(68, 78), uniform(58, 66)),
            rim=uniform(4, 11),
            wobble=(SmoothField(random, 45, 90), SmoothField(random, 45, 90)),
            ragged=SmoothField(random, 8, 20, waves=10),
        )

    def tissues(self, x: Array, y: Array, z: Array) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
        """Tissue (an index into ``TISSUES``) and label value at each point."""
        x, y = x + 1.8 * self.wobble[0](x, y, z), y + 1.8 * self.wobble[1](x, y, z)
        ragged = self.ragged(x, y, z)
        tissue = self._chest(x, y, z, ragged)
        label = np.zeros(tissue.shape, dtype=np.int8)

        depth = np.clip(z / self.length, 0, None)
        u, v = x - self.tilt[0] * z, y - self.tilt[1] * z
        angle = np.arctan2(v, u)
        lobes = 0.03 * np.cos(2 * angle + self.lobes[0]) + 0.02 * np.cos(3 * angle + self.lobes[1])
        distance = np.hypot(u * (1 + self.eccentricity), v * (1 - self.eccentricity)) / (1 + lobes)
        outside = self.radius * _taper(depth, 2.6)
        inside = (self.radius - self.wall) * _taper(depth / 0.88, 2.4)

        bulge = self.rv_width * _taper(depth / self.rv_length, 2.0)
        reach, half_height = outside * 0.55, outside * 0.98
        across, along = u + reach, v - self.rv_rise * (1 - np.minimum(depth, 1))
        open_rv = bulge > 0.5

        def right_heart(margin: float | Array) -> NDArray[np.bool_]:
            """Inside the ellipse of the right ventricle, grown by a margin in mm."""
            wide, high = outside - reach + bulge + margin, half_height + margin
            return open_rv & ((across / np.maximum(wide, 1e-6)) ** 2 + (along / np.maximum(high, 1e-6)) ** 2 < 1)

        heart = (outside > 0) & (distance < outside)
        tissue[(right_heart(6.0) | ((outside > 0) & (distance < outside + 3.5))) & (ragged > -0.4)] = _FAT
        tissue[right_heart(2.5)] = _MYOCARDIUM
        right = right_heart(0.8 * (ragged - 1)) & ~heart
        tissue[right], label[right] = _BLOOD, LABELS["RV"]
        tissue[heart], label[heart] = _MYOCARDIUM, LABELS["Myo"]
        left = (inside > 0) & (distance < inside)
        tissue[left], label[left] = _BLOOD, LABELS["LV"]
        tissue[left & self._papillary(u, v, depth, inside)] = _MYOCARDIUM
        return tissue, label

    def _papillary(self, u: Array, v: Array, depth: Array, inside: Array) -> NDArray[np.bool_]:
        papillary = np.zeros(u.shape, dtype=bool)
        for angle in self.papillaries:
            away = np.hypot(u - 0.68 * inside * np.cos(angle), v - 0.68 * inside * np.sin(angle))
            papillary |= away < self.papillary_radius * (1 - ((depth - 0.45) / 0.27) ** 2)
        return papillary

    def _chest(self, x: Array, y: Array, z: Array, ragged: Array) -> NDArray[np.int8]:
        def ellipse(cx: float, cy: float, rx: float, ry: float) -> Array:
            return np.hypot((x - cx) / rx, (y - cy) / ry)

        wide, deep = self.chest
        centre = (-6.0, deep - 52.0)
        tissue = np.zeros(np.broadcast_shapes(x.shape, z.shape), dtype=np.int8)

        def paint(name: str, where: NDArray[np.bool_]) -> None:
            tissue[where] = TISSUES.index(name)

        paint("fat", ellipse(*centre, wide, deep) < 1)
        paint("muscle", ellipse(*centre, wide - self.rim, deep - self.rim) < 1)
        cavity = ellipse(*centre, wide - self.rim - 6, deep - self.rim - 5) < 1
        paint("fat", cavity & (ragged > 0.9))
        paint("lung", cavity & (x > 12 + 0.15 * y) & (y < 42))
        paint("lung", cavity & (x < -30 + 0.35 * y) & (y < 18))
        paint("liver", cavity & (ellipse(-38, 62 - 0.25 * self.length, 36, 30 + 0.12 * self.length) < 0.85 + 0.004 * z))
        paint("blood", ellipse(16, 47, 9, 9) < 1)
        return tissue


@dataclass(frozen=True)
class Pose:
    """Where one scan looks: a rigid motion in the plane (mm, radians) and a stack of slices."""

    shift: tuple[float, float]
    turn: float
    first_slice: float
    spacing: tuple[float, float, float]
    slices: int
    origin: tuple[float, float, float]
    unscanned: tuple[int, int, int, int]

    @classmethod
    def draw(cls, random: np.random.Generator, slices: int) -> Pose:
        """A random pose; the number of slices varies by one."""
        uniform = random.uniform
        in_plane = round(_IN_PLANE_MM * uniform(0.95, 1.05), 3)
        return cls(
            shift=(uniform(-8, 4), uniform(-6, 6)),
            turn=uniform(-0.35, 0.35),
            first_slice=uniform(1, 7),
            spacing=(in_plane, in_plane, round(_SLICE_MM * uniform(0.95, 1.05), 3)),
            slices=slices + int(random.integers(-1, 2)),
            origin=(round(uniform(-90, -40), 2), round(uniform(-90, -40), 2), round(uniform(-60, 60), 2)),
            unscanned=tuple(int(edge) for edge in random.integers(0, 4, size=4)),  # type: ignore[arg-type]
        )

    def points(self, size: int, number: int, finer: tuple[int, int, int]) -> tuple[Array, Array, Array]:
        """Anatomical coordinates in mm of one slice's voxels, each divided along (z, y, x); they broadcast."""
        z, y, x = (
            (np.arange(length * parts) + 0.5) / parts - length / 2
            for length, parts in zip((1, size, size), finer, strict=True)
        )
        z = self.first_slice + (number + z) * self.spacing[2]
        y, x = y[:, None] * self.spacing[1] - self.shift[1], x[None, :] * self.spacing[0] - self.shift[0]
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        return (cos * x + sin * y)[None], (cos * y - sin * x)[None], z[:, None, None]

    def place(self, voxels: NDArray[np.generic]) -> sitk.Image:
        """The voxels (z, y, x) as an image with this geometry; an image has a border that was not scanned."""
        if voxels.dtype == np.int16:
            top, bottom, left, right = self.unscanned
            kept = np.zeros_like(voxels)
            inner = (slice(None), slice(top, voxels.shape[1] - bottom), slice(left, voxels.shape[2] - right))
            kept[inner] = voxels[inner]
            voxels = kept
        image = sitk.GetImageFromArray(voxels)
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        return image


def render(
    anatomy: Anatomy, pose: Pose, size: int, appearance: Appearance, random: np.random.Generator
) -> tuple[Array, NDArray[np.uint8]]:
    """Noise-free signal and label map (z, y, x) of a scan, with partial volume in all three directions."""
    intensity = np.array(appearance.intensity) * np.exp(appearance.spread * random.normal(size=len(TISSUES)))
    grain = SmoothField(random, 5, 14, waves=12)
    signal = np.empty((pose.slices, size, size))
    label = np.empty((pose.slices, size, size), dtype=np.uint8)
    for number in range(pose.slices):
        tissue, finer_label = anatomy.tissues(*pose.points(size, number, _FINER))
        texture = 1 + appearance.texture * grain(*pose.points(size, number, (1, 1, 1)))[0]
        signal[number] = _mean(intensity[tissue], size) * texture
        shares = [_mean((finer_label == value).astype(np.float64), size) for value in LABELS.values()]
        label[number] = np.argmax(shares, axis=0)
    return signal, label


def acquire(signal: Array, appearance: Appearance, random: np.random.Generator) -> NDArray[np.int16]:
    """The magnitude image of a signal (z, y, x): shading, limited resolution and Rician noise."""
    z, y, x = (
        np.arange(length, dtype=np.float64) * step for length, step in zip(signal.shape, (8, 1.5, 1.5), strict=True)
    )
    shading = SmoothField(random, 90, 220)(x[None, None, :], y[None, :, None], z[:, None, None])
    shaded = signal * np.exp(appearance.shading * shading)
    noise = random.normal(size=(2, *signal.shape)) * appearance.noise
    fy, fx = (np.fft.fftfreq(length, _IN_PLANE_MM) for length in signal.shape[1:])
    window = np.exp(-2 * (np.pi * appearance.resolution_mm) ** 2 * (fy[:, None] ** 2 + fx[None, :] ** 2))
    image = np.abs(np.fft.ifft2(np.fft.fft2(shaded + noise[0] + 1j * noise[1]) * window))
    return np.round(image * random.uniform(0.7, 1.4)).astype(np.int16)


def _taper(depth: Array, power: float) -> Array:
    """1 at the base (depth 0), rounding off to 0 at the tip (depth 1) and beyond."""
    return np.sqrt(np.clip(1 - np.clip(depth, 0, None) ** power, 0, None))


def _mean(values: Array, size: int) -> Array:
    """Mean over the sub-voxels of each voxel of one slice → (y, x)."""
    fine_z, fine_y, fine_x = _FINER
    return np.asarray(values.reshape(fine_z, size, fine_y, size, fine_x).mean(axis=(0, 2, 4)))
