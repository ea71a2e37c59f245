"""metrics/memorization.py: a copier, an honest generator, brute force, duplicates, the picture."""

import numpy as np
import PIL.Image
import pytest
import torch

from dnnlib import UserError
from metrics.memorization import copies, save_pairs


def cloud(num, seed, size=6):
    return torch.from_numpy(np.random.RandomState(seed).randn(num, size)).to(torch.float32)


def ones(num):
    return torch.ones([1, num], dtype=torch.float64)


def test_copies_and_new_images():
    """New images of the same distribution count as often as the quantiles say, copies always, images from elsewhere
    never."""
    real = cloud(400, 0)
    new = copies(real, cloud(4000, 1), ones(4000))
    assert (new['value'].item() == pytest.approx(0.05, abs=0.02)
            and new['below_median'].item() == pytest.approx(0.5, abs=0.06))
    copied = real[:50] + 1e-3 * cloud(50, 2)
    assert copies(real, copied, ones(50))['value'].item() == 1
    assert copies(real, cloud(50, 3) + 9, ones(50))['below_median'].item() == 0
    assert copies(real, torch.cat([copied, cloud(50, 3) + 9]), ones(100))['value'].item() == 0.5


def test_agrees_with_brute_force():
    real, gen = cloud(23, 1), cloud(40, 2)
    x, y = real.double().numpy(), gen.double().numpy()
    between = [min(np.linalg.norm(a - b) for j, b in enumerate(x) if j != i) for i, a in enumerate(x)]
    to_real = np.array([[np.linalg.norm(a - b) for b in x] for a in y])
    got = copies(real, gen, ones(40))
    assert got['threshold'] == pytest.approx(np.quantile(between, 0.05), rel=1e-5)
    assert got['value'].item() == np.mean(to_real.min(1) < np.quantile(between, 0.05))
    assert got['below_median'].item() == np.mean(to_real.min(1) < np.quantile(between, 0.5))
    order = to_real.min(1).argsort()[:16]
    assert [pair[:2] for pair in got['pairs']] == [[i, to_real[i].argmin()] for i in order]
    np.testing.assert_allclose([pair[2] for pair in got['pairs']], to_real.min(1)[order], rtol=1e-5)


def test_duplicates_in_the_training_set():
    """They would make the quantile zero, under which nothing lies."""
    real = cloud(50, 0)
    doubled = torch.cat([real, real[:5]])
    got = copies(doubled, real[10:20], ones(10))
    assert got['threshold'] > 0 and got['value'].item() == 1 and got['pairs'][0][2] == 0
    with pytest.raises(UserError, match='no two different training images'):
        copies(real[:1].repeat(4, 1), real, ones(50))


@pytest.mark.parametrize('channels', [1, 3])
def test_the_picture(tmp_path, channels):
    imgs = torch.randint(0, 256, [2, 3, channels, 4, 5], dtype=torch.uint8)
    save_pairs(str(tmp_path / 'x.png'), imgs[0], imgs[1])
    sheet = np.array(PIL.Image.open(tmp_path / 'x.png')).reshape(8, 15, channels)
    for row in range(2):
        for column in range(3):
            np.testing.assert_array_equal(sheet[row * 4:][:4, column * 5:][:, :5], imgs[row, column].permute(1, 2, 0))
