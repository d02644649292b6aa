"""PGPS against a loop over organs."""

import itertools

import numpy as np
import pytest
import torch

from nnunet_crossmod.pseudo_labels import dense_organ_patches, labels_at, organ_patches, self_paced, valid_shares


def by_loop(features: np.ndarray, labels: np.ndarray, patch_size: list[int], embedding: str) -> tuple[list, list, list]:
    patches, organs, samples = [], [], []
    for sample, organ in itertools.product(range(len(labels)), range(1, labels.max() + 1)):
        where = np.argwhere(labels[sample] == organ)
        if len(where) == 0:
            continue
        cube, mask = features[sample], labels[sample] == organ
        for axis, wanted in enumerate(patch_size):
            length = labels.shape[1 + axis]
            size = min(wanted, length)
            first = int(np.round(where[:, axis].mean() - (size - 1) / 2))
            first = min(max(first, 0), length - size)
            cube = cube.take(range(first, first + size), axis=1 + axis)
            mask = mask.take(range(first, first + size), axis=axis)
        if embedding == "organ" and mask.any():
            patches.append(cube[:, mask].mean(1))
        else:
            patches.append(cube.reshape(-1) if embedding == "flatten" else cube.reshape(len(cube), -1).mean(1))
        organs.append(organ)
        samples.append(sample)
    return patches, organs, samples


@pytest.mark.parametrize(
    ("size", "patch_size"),
    [((7, 9), [2, 3]), ((7, 9), [1, 20]), ((3, 6, 5), [1, 2, 2]), ((1, 4, 4), [4, 3, 3]), ((8, 8), [4, 4])],
)
@pytest.mark.parametrize("embedding", ["mean", "flatten", "organ"])
def test_patches_equal_the_loop(size: tuple[int, ...], patch_size: list[int], embedding: str) -> None:
    generator = np.random.default_rng(1)
    features = generator.normal(size=(3, 4, *size))
    labels = generator.integers(0, 4, size=(3, *size))
    labels[1][labels[1] == 2] = 0
    patches, organs, samples = by_loop(features, labels, patch_size, embedding)
    found = organ_patches(torch.from_numpy(features), torch.from_numpy(labels), patch_size, embedding)
    assert found.organs.tolist() == organs
    assert found.sample.tolist() == samples
    np.testing.assert_allclose(found.patches.numpy(), np.stack(patches))


def test_corner_organs_are_shifted_inside_and_padding_is_no_organ() -> None:
    labels = torch.zeros(1, 6, 6, dtype=torch.long)
    labels[0, 0, 0], labels[0, 5, 5], labels[0, 3, 0] = 1, 2, -1
    features = torch.arange(36.0).view(1, 1, 6, 6)
    found = organ_patches(features, labels, [2, 2], "flatten")
    assert found.organs.tolist() == [1, 2]
    assert found.patches.tolist() == [[0, 1, 6, 7], [28, 29, 34, 35]]


def test_no_organ_gives_no_patch() -> None:
    found = organ_patches(torch.randn(2, 3, 4, 4), torch.zeros(2, 4, 4).long(), [2, 2])
    assert found.patches.shape == (0, 3)


def test_features_carry_a_gradient() -> None:
    features = torch.randn(1, 2, 5, 5, requires_grad=True)
    labels = torch.zeros(1, 5, 5, dtype=torch.long)
    labels[0, 2, 2] = 1
    organ_patches(features, labels, [3, 3]).patches.sum().backward()
    touched = features.grad[0, 0] != 0
    assert touched[1:4, 1:4].all()
    assert touched.sum() == 9


def test_absent_organs_are_said_to_be_absent() -> None:
    labels = torch.zeros(2, 4, 4, dtype=torch.long)
    labels[1, 1, 1] = 3
    _, present = dense_organ_patches(torch.randn(2, 3, 4, 4), labels, [2, 2], 3)
    assert present.tolist() == [[False] * 3, [False, False, True]]


def test_labels_are_brought_to_a_map_by_nearest_neighbour() -> None:
    labels = torch.arange(4).repeat_interleave(4).repeat(16, 1)[None]
    assert labels_at(labels, (4, 4))[0, 0].tolist() == [0, 1, 2, 3]


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="patch size"):
        organ_patches(torch.randn(1, 2, 4, 4), torch.zeros(1, 5, 4).long(), [2, 2])
    with pytest.raises(ValueError, match="embedding"):
        organ_patches(torch.randn(1, 2, 4, 4), torch.ones(1, 4, 4).long(), [2, 2], "median")


@pytest.mark.parametrize("size", [(3, 4), (2, 3, 2)])
def test_self_paced_labels_equal_the_loop(size: tuple[int, ...]) -> None:
    features, prototypes = torch.randn(2, 5, *size, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    labels, valid = self_paced(features.requires_grad_(), prototypes, 0.25)
    assert not labels.requires_grad
    for where in itertools.product(*map(range, labels.shape)):
        pixel = features[(where[0], slice(None), *where[1:])]
        cosines = [float(torch.dot(pixel, c) / (pixel.norm() * c.norm())) for c in prototypes]
        first, second = sorted(cosines, reverse=True)[:2]
        assert int(labels[where]) == int(np.argmax(cosines))
        assert bool(valid[where]) == (first - second > 0.25)
    assert valid.any()
    assert not valid.all()


def test_a_difference_of_exactly_the_threshold_is_not_valid() -> None:
    prototypes = torch.tensor([[1.0, 0], [0, 1]])
    features = torch.tensor([[1.0], [0]])[None]
    assert not self_paced(features, prototypes, 1.0)[1].any()
    assert self_paced(features, prototypes, 0.999)[1].all()


def test_background_competes_and_a_class_without_prototype_is_never_chosen() -> None:
    prototypes = torch.tensor([[1.0, 0], [0, 1], [0, 0]])
    features = torch.tensor([[1.0, 0, -1], [0.0, 1, -1]])[None]
    labels, _ = self_paced(features, prototypes)
    assert labels[0, :2].tolist() == [0, 1]
    assert labels[0, 2] != 2


def test_shares_are_of_the_pixels_of_a_class() -> None:
    labels, valid = torch.tensor([[0, 1, 1, 2]]), torch.tensor([[True, True, False, False]])
    assert [share.item() for share in valid_shares(labels, valid, 4)] == [1, 0.5, 0, 0]


def test_one_prototype_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="two prototypes"):
        self_paced(torch.randn(1, 3, 4), torch.randn(1, 3))


def test_a_single_voxel_makes_no_patch_where_two_are_asked_for() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[0, 1, 1], labels[0, 5, 5:7] = 1, 2
    _, present = dense_organ_patches(torch.rand(1, 3, 8, 8), labels, [2, 2], 2, "organ", least_voxels=2)
    assert present.tolist() == [[False, True]]
