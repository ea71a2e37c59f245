"""metrics/lpips_diversity.py: pairs by hand, identical images, classes, and what is refused."""

import math

import numpy as np
import pytest
import torch

from dnnlib import UserError
from metrics import draws, metric_utils
from metrics.detectors import Detector
from metrics.lpips_diversity import compute_lpips_diversity, pair_distances
from metrics.metric_utils import MetricOptions
from torch_utils import distributed


class GreyGenerator(torch.nn.Module):
    """One grey level for each image: `contrast` times the first latent, and the class number beside it."""
    z_dim, img_resolution = 5, 2

    def __init__(self, contrast=0.3, c_dim=0):
        super().__init__()
        self.contrast, self.c_dim = contrast, c_dim

    def forward(self, z, c, noise_mode):
        assert noise_mode == 'random'
        img = (z[:, :1] * self.contrast).reshape(-1, 1, 1, 1).repeat(1, 3, 2, 2)
        if self.c_dim > 0:
            img[:, 1] = c[:, 1].reshape(-1, 1, 1)
        return img


class Labels:
    """Three images: two of class 0, one of class 1."""

    def __len__(self):
        return 3

    def get_label(self, item):
        return np.array([[1, 0], [1, 0], [0, 1]][item], dtype=np.float32)


def options(G, network=lambda img: img.to(torch.float32).mean(dim=[2, 3]), **kwargs):
    opts = MetricOptions(G.eval(), {}, Detector('greys', 'greys', None, 'none', network), torch.device('cpu'),
                         progress=False, **kwargs)
    opts.labels = Labels()
    return opts


@pytest.mark.parametrize('batch_size', [1, 2, 5, 64])
def test_pairs_by_hand(batch_size):
    """Images 0 and 1, 2 and 3, ..., in 8 bits, whatever the batches."""
    opts = options(GreyGenerator(), batch_size=batch_size)
    greys = [math.floor(min(max(float(draws.latents(opts, range(i, i + 1))[0, 0]) * np.float32(0.3) * 127.5 + 128, 0),
                            255)) for i in range(22)]
    want = [3 * (a - b) ** 2 for a, b in zip(greys[0::2], greys[1::2], strict=True)]
    assert pair_distances(opts, 22).tolist() == want and len(set(want)) > 5
    result = compute_lpips_diversity(opts, 22)
    assert (result['value'] == pytest.approx(np.mean(want))
            and result['standard_error'] == pytest.approx(np.std(want) / math.sqrt(11)))
    assert result['generated'] == dict(pairs=11, pairs_within='all images')


def test_the_expected_value():
    """Two independent normal greys of deviation s: E 3 (a - b)^2 = 6 s^2 of 8-bit levels, and 3 standard errors around
    it."""
    opts = options(GreyGenerator(contrast=0.1))
    result = compute_lpips_diversity(opts, 6000)
    assert abs(result['value'] - 6 * 12.75 ** 2) < 3 * result['standard_error'] < 0.1 * result['value']


def test_truncation():
    """psi 1/2 halves the contrast, and quarters the squared distances except for rounding to 8 bits."""
    G = GreyGenerator(contrast=0.2)
    plain = pair_distances(options(G), 100).mean()
    G.forward = lambda z, c, noise_mode, truncation_psi: GreyGenerator.forward(G, z * truncation_psi, c, noise_mode)
    assert float(pair_distances(options(G, truncation_psi=0.5), 100).mean() / plain) == pytest.approx(0.25, rel=0.05)


def test_an_image_is_the_same_for_all_metrics():
    """What the diversity compares are the images of the other metrics, by number."""
    opts, seen = options(GreyGenerator(), batch_size=4), []
    opts.detector = opts.detector._replace(num_features=3, network=lambda img: seen.append(img)
                                           or img.float().mean(dim=[2, 3]))
    pair_distances(opts, 8)
    compared = torch.cat(seen)
    metric_utils.compute_feature_stats_for_generator(opts, 8, capture_all=True)
    assert torch.equal(torch.cat(seen)[8:], compared)


def test_identical_images():
    result = compute_lpips_diversity(options(GreyGenerator(contrast=0.0)), 10)
    assert (result['value'], result['standard_error']) == (0, 0)


def test_within_a_class_and_across():
    """Labels alone move the second channel by 1 = 127 levels: never within a pair of one class, in 4 of 9 pairs
    across."""
    opts = options(GreyGenerator(contrast=0.0, c_dim=2), batch_size=8)
    inside, across = [pair_distances(opts, 600, same_class) for same_class in (True, False)]
    assert inside.max() == 0
    assert set(across.tolist()) == {0.0, 127.0 ** 2}
    assert abs(float((across > 0).float().mean()) - 4 / 9) < 3 * math.sqrt(4 / 9 * 5 / 9 / 300)
    assert compute_lpips_diversity(opts, 10, same_class=True)['generated']['pairs_within'] == 'one class'


def test_several_processes_share_the_work(monkeypatch):
    opts = options(GreyGenerator(), batch_size=4)
    whole, parts = pair_distances(opts, 22), []
    monkeypatch.setattr(distributed, 'get_world_size', lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(distributed, 'get_rank', lambda rank=rank: rank)
        parts.append(pair_distances(opts, 22))
    assert all(part.count_nonzero() < 11 for part in parts) and torch.equal(sum(parts), whole)


def test_a_generator_gone_wrong():
    for value in (math.nan, math.inf):
        assert math.isnan(compute_lpips_diversity(options(GreyGenerator(contrast=value)), 4)['value'])


def test_what_cannot_be_measured():
    with pytest.raises(UserError, match='diversity of 7 images.*use an even number'):
        compute_lpips_diversity(options(GreyGenerator()), 7)
    with pytest.raises(UserError, match='the network has no classes; use the diversity across all images'):
        compute_lpips_diversity(options(GreyGenerator()), 8, same_class=True)
