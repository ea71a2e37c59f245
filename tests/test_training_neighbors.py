"""Nearest training images against brute force over all of them."""

import numpy as np
import pytest
import torch

from inference import neighbors
from training.dataset import ImageFolderDataset


def test_distances_are_what_they_are_called():
    imgs = torch.from_numpy(np.random.default_rng(0).integers(0, 256, size=[5, 3, 4, 4], dtype=np.uint8))
    a, b = imgs.numpy()[:2].astype(np.float64), imgs.numpy()[2:].astype(np.float64)
    rmse = np.sqrt(np.square(a[:, None] - b[None]).mean(axis=(2, 3, 4)))
    got = neighbors.pixel_distance(neighbors.pixel_features(imgs[:2]), neighbors.pixel_features(imgs[2:]))
    np.testing.assert_allclose(got, rmse, rtol=1e-6)
    flat = imgs.numpy().reshape(5, -1).astype(np.float64)
    cosines = flat @ flat.T / np.outer(*[np.linalg.norm(flat, axis=1)] * 2)
    features = neighbors.unit_features(lambda img: img.flatten(1).float())(imgs)
    np.testing.assert_allclose(neighbors.cosine_distance(features, features), 1 - cosines, atol=1e-6)


@pytest.mark.parametrize('sizes', [[20], [3, 0, 7, 10], [1] * 20])
def test_nearest_is_the_sorted_beginning(sizes):
    distances = torch.from_numpy(np.random.default_rng(1).integers(0, 6, size=[4, 20])).float()         # with ties
    found = neighbors.Nearest(5)
    for part, items in zip(distances.split(sizes, 1), torch.arange(20).expand(4, -1).split(sizes, 1), strict=True):
        found.show(part, items)
    for row in range(4):
        want = sorted(range(20), key=lambda i, row=row: (distances[row, i].item(), i))[:5]
        assert found.items[row].tolist() == want
        assert found.distances[row].tolist() == [distances[row, i].item() for i in want]


@pytest.mark.parametrize('mirror', [False, True])
@pytest.mark.parametrize('batch', [5, 100])
def test_neighbors_of_images_in_a_data_set(mirror, batch, tiny_data):
    dataset = ImageFolderDataset(tiny_data, xflip=mirror)
    real = [dataset[i][0] for i in range(12)]
    rng = np.random.default_rng(2)
    fakes = np.stack([np.clip(real[i].astype(int)[:, :, ::-1 if i % 2 else 1] + rng.integers(-9, 9, size=real[i].shape),
                              0, 255) for i in (3, 8)])
    found = neighbors.find_neighbors(torch.from_numpy(fakes.astype(np.uint8)), dataset, neighbors.pixel_features,
                                     neighbors.pixel_distance, 4, batch, 'cpu')
    for q, fake in enumerate(fakes):
        rmse = lambda img, fake=fake: np.sqrt(np.square(fake - img.astype(float)).mean())
        best = []
        for i in range(12):
            best.append((rmse(real[i]), i))
            if mirror:
                best[-1] = min(best[-1], (rmse(real[i][:, :, ::-1]), i + 12))
        best.sort()
        assert found.items[q].tolist() == [i for _, i in best[:4]]
        np.testing.assert_allclose(found.distances[q], [d for d, _ in best[:4]], rtol=1e-5)
    assert found.items[:, 0].tolist() == [15 if mirror else found.items[0, 0], 8]
    names = neighbors.as_records([1, 2], None, dataset, found)
    assert (names[1]['seed'] == 2
            and names[1]['nearest'][0] == dict(image='red/05.png', mirrored=False,
                                               distance=found.distances[1, 0].item()))
    assert names[0]['nearest'][0]['mirrored'] == mirror


def test_fewer_images_than_asked_for(tiny_data):
    dataset = ImageFolderDataset(tiny_data)
    imgs = torch.from_numpy(np.stack([dataset[i][0] for i in (0, 5)]))
    found = neighbors.find_neighbors(imgs, dataset, neighbors.pixel_features, neighbors.pixel_distance, 50, 16, 'cpu')
    assert (found.items.shape == (2, 12) and found.items[:, 0].tolist() == [0, 5]
            and found.distances[:, 0].tolist() == [0, 0])
    sheet = neighbors.sheet(imgs, ['a', 'b'], dataset, found)
    assert sheet.size[0] == 13 * 96
    assert (np.asarray(sheet)[:96:6, :96:6] == imgs[0].permute(1, 2, 0).numpy()).all()
    assert (np.asarray(sheet)[:96, :96] == np.asarray(sheet)[:96, 96:192]).all()        # its nearest is itself
