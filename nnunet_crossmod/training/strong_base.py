"""The augmentation that every trainer stands on, and nnU-Net's own as the alternative: one word chooses."""

from __future__ import annotations

from typing import Any, Literal

__all__ = ["Augmentation", "resolve_augmentation"]

Augmentation = Literal["strong", "nnunet"]

STRONG: dict[str, Any] = {
    "curve_probability": 0.5,
    "gin": "all",
    "rotation_degrees": 30.0,
    "mirror": False,
    "spatial_probability": 0.2,
}
NNUNET: dict[str, Any] = {"curve_probability": 0.0, "gin": "off", "mirror": True, "spatial_probability": 0.2}


def resolve_augmentation(options: dict[str, Any]) -> dict[str, Any]:
    """The options, in which every part of the augmentation that was left open is as ``augmentation`` says.

    ``strong``: class-local curves for half of the annotated samples, GIN for all samples, ±30° in plane and no
    mirroring. ``nnunet``: none of it; ``rotation_degrees`` stays ``None``, nnU-Net's own range.
    """
    parts = STRONG if options["augmentation"] == "strong" else NNUNET
    return options | {name: value for name, value in parts.items() if options[name] is None}
