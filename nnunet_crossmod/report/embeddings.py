"""Organ-patch embeddings of a trained model: what AICL's figure of clusters is drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from nnunet_crossmod.data import BalancedDataLoader, CrossModalDataset, CrossmodBlock
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.inference.trained_model import open_model
from nnunet_crossmod.paths import dataset_folder, read_json
from nnunet_crossmod.pseudo_labels import labels_at, organ_patches
from nnunet_crossmod.training.selection import same_numbers

__all__ = ["Embeddings", "clusters", "organ_embeddings"]


class Embeddings(NamedTuple):
    """``patches`` (p, d), unit length; ``organs`` (p,) label values; ``modality`` (p,) indices."""

    patches: np.ndarray
    organs: np.ndarray
    modality: np.ndarray


def organ_embeddings(
    results: Path, checkpoint: str, device: str, *, batches: int = 12, patch_size: int = 2, seed: int = 0
) -> Embeddings:
    """Embed the organs of a fold's validation scans (training scans of a modality that has none).

    Crops from anywhere in the scans; organs as the model itself predicts them; around each a cube of bottleneck
    features, averaged, as PGPS does. No label is read.

    Args:
        results: the fold's folder.
        checkpoint: file name of the model.
        device: ``cpu``, ``cuda`` or ``mps``.
        batches: how many, of the planned batch size.
        patch_size: width of the cube in bottleneck voxels.
        seed: of the crops.

    Raises:
        CrossmodError: the network does not return features.
    """
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    model = open_model(results.parent, [results.name.removeprefix("fold_")], checkpoint)
    predictor = model.load(device=torch.device(device), perform_everything_on_device=False, allow_tqdm=False)
    network: Any = getattr(predictor.network, "_orig_mod", predictor.network)
    network.load_state_dict(predictor.list_of_parameters[0])
    network.to(device).eval()
    block = CrossmodBlock.from_dataset_json(predictor.dataset_json)
    planned = predictor.configuration_manager
    folder = dataset_folder("nnUNet_preprocessed", predictor.plans_manager.dataset_name)
    cases = {name: replace(block.cases[name], visible=frozenset()) for name in _scans(folder, results, block)}
    stored = folder / planned.data_identifier
    scans = CrossModalDataset(infer_dataset_class(str(stored))(str(stored), sorted(cases)), cases, block)
    size = max(planned.batch_size // 2, len(block.source), len(block.target))
    patch = planned.patch_size
    loader = BalancedDataLoader(scans, size, patch, patch, predictor.label_manager, target_batch_size=size)
    with same_numbers(seed):
        batches_embedded = [_embed(network, next(loader), block, device, patch_size) for _ in range(batches)]
    return Embeddings(*(np.concatenate(parts) for parts in zip(*batches_embedded, strict=True)))


def _scans(folder: Path, results: Path, block: CrossmodBlock) -> list[str]:
    fold = results.name.removeprefix("fold_")
    validation = list(block.cases)
    if fold != "all":
        validation = read_json(folder / "splits_final.json", "copy it from the raw data set")[int(fold)]["val"]
    chosen = []
    for modality in block.modalities:
        names = [name for name, case in block.cases.items() if case.modality == modality]
        chosen += [name for name in names if name in validation] or names
    return chosen


@torch.no_grad()
def _embed(
    network: nn.Module, loaded: dict[str, Any], block: CrossmodBlock, device: str, patch_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    modality = torch.tensor([block.modality_index(str(key)) for key in loaded["keys"]], device=device)
    try:
        maps = network(loaded["data"].to(device), modality, features=True)
        features, logits = maps.encoder[-1], maps.logits[0]
    except (TypeError, AttributeError) as error:
        raise CrossmodError(f"{type(network).__name__} returns no features") from error
    labels = labels_at(logits.argmax(1), features.shape[2:])
    patches, organs, sample = organ_patches(features, labels, [patch_size] * (features.ndim - 2))
    unit = nn.functional.normalize(patches.float(), dim=1)
    return unit.cpu().numpy(), organs.cpu().numpy(), modality[sample].cpu().numpy()


def clusters(embeddings: Embeddings, most: int = 600) -> tuple[Embeddings, np.ndarray, dict[str, float]]:
    """Lay the embeddings out in a plane, and say how well organs and modalities are told apart.

    Args:
        embeddings: at least ten.
        most: how many to show at most; more are thinned evenly.

    Returns:
        those that are shown; their places (p, 2) by t-SNE on cosine distances; the mean silhouettes (−1 … 1, cosine) of
        the organs and of the modalities, where there are two or more of them.

    Raises:
        CrossmodError: fewer than ten.
    """
    from sklearn.manifold import TSNE
    from sklearn.metrics import silhouette_score

    if len(embeddings.patches) < 10:
        raise CrossmodError(f"{len(embeddings.patches)} organs are too few to draw (at least 10)")
    step = -(-len(embeddings.patches) // most)
    shown = Embeddings(*(part[::step] for part in embeddings))
    perplexity = min(30.0, (len(shown.patches) - 1) / 3)
    places: np.ndarray = TSNE(2, perplexity=perplexity, metric="cosine", init="random", random_state=0).fit_transform(
        shown.patches
    )
    groups: Sequence[tuple[str, np.ndarray]] = (("organ", shown.organs), ("modality", shown.modality))
    silhouettes = {
        name: float(silhouette_score(shown.patches, group, metric="cosine"))
        for name, group in groups
        if 1 < len(np.unique(group)) < len(group)
    }
    return shown, places, silhouettes
