"""Organ embeddings: what they are of, and how they are laid out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import started

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.report.embeddings import Embeddings, clusters, organ_embeddings

MakeTrainer = Callable[..., Any]


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_embeddings_of_a_model(configuration: str, make_trainer: MakeTrainer, dataset: Path) -> None:
    trainer = started(make_trainer("AICLTrainer", configuration))
    with torch.no_grad():  # as many organs as there are, from an untrained network
        trainer.network.decoder.seg_layers[-1].weight.mul_(50)
    trainer.inference_allowed_mirroring_axes = (0, 1)
    fold = Path(trainer.output_folder)
    trainer.save_checkpoint(str(fold / "checkpoint_final.pth"))
    before = np.random.get_state()[1].tolist()
    one, two = (organ_embeddings(fold, "checkpoint_final.pth", "cpu", batches=6) for _ in range(2))
    assert np.random.get_state()[1].tolist() == before
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert one.patches.shape[1] == trainer.bare_network.encoder.output_channels[-1]
    np.testing.assert_allclose(np.linalg.norm(one.patches, axis=1), 1, rtol=1e-5)
    assert set(one.modality) == {0, 1}
    assert set(one.organs) <= {1, 2, 3}


def test_clusters_are_separated_in_features_and_in_the_plane() -> None:
    generator = np.random.default_rng(0)
    organs, modality = np.repeat([1, 2], 30), np.tile([0, 1], 30)
    centres = np.eye(6)[organs]
    patches = centres + 0.05 * generator.normal(size=(60, 6))
    _, places, silhouettes = clusters(Embeddings(patches, organs, modality))
    assert silhouettes["organ"] > 0.9
    assert abs(silhouettes["modality"]) < 0.1
    within = max(np.ptp(places[organs == organ], axis=0).max() for organ in (1, 2))
    between = np.linalg.norm(places[organs == 1].mean(0) - places[organs == 2].mean(0))
    assert between > within / 2
    assert len(clusters(Embeddings(patches, organs, modality), most=20)[0].patches) == 20
    with pytest.raises(CrossmodError, match="too few"):
        clusters(Embeddings(patches[:5], organs[:5], modality[:5]))
