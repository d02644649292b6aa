"""What a model was trained on, kept beside it: a model that was trained on other annotations is not compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.paths import read_json

__all__ = ["RECORD", "check", "fingerprint", "write"]

RECORD = "trained_on.json"
TITLES = {
    "block": 'another "crossmod" block (modalities, annotations)',
    "splits": "other splits",
    "labels": "other labels",
    "plans": "other plans",
    "versions": "other versions of nnU-Net or of this package",
}


def fingerprint(preprocessed: Path, plans: str) -> dict[str, Any]:
    """Digests of what a training reads, and the versions that it runs.

    Args:
        preprocessed: folder of the data set in ``$nnUNet_preprocessed``.
        plans: name of the plans.

    Returns:
        ``block``, ``splits``, ``labels`` (case → digest of the label file), ``plans``, ``versions``; ``splits`` and
        ``plans`` are ``None`` where there is no such file.
    """
    remedy = "plan again with nnUNetv2_plan_and_preprocess"
    splits, planned = preprocessed / "splits_final.json", preprocessed / f"{plans}.json"
    return {
        "block": _digest(read_json(preprocessed / "dataset.json", remedy).get("crossmod")),
        "splits": _digest(read_json(splits, remedy)) if splits.is_file() else None,
        "labels": {
            path.name: hashlib.sha1(path.read_bytes()).hexdigest()
            for path in sorted((preprocessed / "gt_segmentations").glob("*"))
        },
        "plans": _digest(read_json(planned, remedy)) if planned.is_file() else None,
        "versions": {package: version(package) for package in ("nnunetv2", "nnunet-crossmod")},
    }


def write(fold: Path, content: Mapping[str, Any]) -> None:
    """Keep a :func:`fingerprint` in the folder of a fold."""
    (fold / RECORD).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check(fold: Path, current: Mapping[str, Any], names: Collection[str] = tuple(TITLES)) -> None:
    """Compare a trained or half-trained model with what it would be trained on now.

    A model without a record, of an earlier version, is compared by the ``dataset.json`` beside it alone.

    Args:
        fold: folder of the model's fold.
        current: :func:`fingerprint` of now.
        names: what of it must not differ.

    Raises:
        CrossmodError: something differs; the message says what.
    """
    record = fold / RECORD
    remedy = f"remove {fold} to train it again"
    if record.is_file():
        recorded = {name: value for name, value in read_json(record, remedy).items() if value is not None}
    elif (fold.parent / "dataset.json").is_file():
        recorded = {"block": _digest(read_json(fold.parent / "dataset.json", remedy).get("crossmod"))}
    else:
        return
    for name, value in recorded.items():
        if name in names and value != current[name]:
            raise CrossmodError(f"{fold} was trained on {TITLES[name]}{_first(value, current[name])}: {remedy}")


def _first(recorded: Any, current: Any) -> str:
    if not isinstance(recorded, dict):
        return ""
    names = [name for name in {**recorded, **current} if recorded.get(name) != current.get(name)]
    return f" ({names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''})"


def _digest(content: Any) -> str:
    return hashlib.sha1(json.dumps(content, sort_keys=True).encode()).hexdigest()
