"""metrics/precision_recall.py and metrics/distances.py: brute force, sets of known overlap, blocks."""

import numpy as np
import pytest
import torch

from dnnlib import UserError
from metrics import distances
from metrics.estimate import draw_weights
from metrics.precision_recall import precision_and_recall


def cloud(num, seed, scale=1.0, shift=0.0, size=4):
    return torch.from_numpy(np.random.RandomState(seed).randn(num, size) * scale + shift).to(torch.float32)


def ones(num):
    return torch.ones([1, num], dtype=torch.float64)


def scores(real, gen, k=3):
    return tuple(x[0].item() for x in precision_and_recall(real, gen, ones(len(gen)), k))


def brute_force(real, gen, k):
    """Eq. 1 and 2 as they stand, in float64."""
    real, gen = real.double().numpy(), gen.double().numpy()
    radius = lambda s, i: sorted(np.linalg.norm(s[i] - s[j]) for j in range(len(s)) if j != i)[k - 1]
    on = lambda x, s: any(np.linalg.norm(x - s[i]) <= radius(s, i) for i in range(len(s)))
    return np.mean([on(x, real) for x in gen]), np.mean([on(x, gen) for x in real])


@pytest.mark.parametrize('k', [1, 3])
@pytest.mark.parametrize('shift', [0.0, 1.0, 2.0])
@pytest.mark.parametrize('num_real, num_gen', [(20, 30), (30, 9)])
def test_agrees_with_brute_force(k, shift, num_real, num_gen):
    real, gen = cloud(num_real, 1), cloud(num_gen, 2, shift=shift)
    assert scores(real, gen, k) == pytest.approx(brute_force(real, gen, k), abs=1e-12)


def test_a_set_and_itself_and_one_far_away():
    real = cloud(50, 0)
    assert scores(real, real) == (1, 1) and scores(real, real + 100) == (0, 0)


def test_collapsed_and_too_wide():
    """A generator of one mode is precise and covers nothing; one far too wide covers, and most of what it makes is
    wrong."""
    real = cloud(300, 0)
    precision, recall = scores(real, cloud(300, 1, scale=0.05))
    assert precision > 0.99 and recall < 0.02
    precision, recall = scores(real, cloud(300, 2, scale=4.0))
    assert precision < 0.15 and recall > 0.9
    copies = real[:1].expand(50, -1)                                # all alike: their manifold is one point
    assert scores(real, copies)[0] == 1 and scores(real, copies)[1] <= 1 / 300


def test_blocks_and_batches_do_not_matter(monkeypatch):
    real, gen = cloud(40, 1), cloud(33, 2, shift=0.5)
    want = scores(real, gen), distances.nearest(gen, real)[1], distances.nearest_other(real)
    monkeypatch.setattr(distances, 'CHUNK', 90)                     # two rows at a time, and one left over
    got = scores(real, gen), distances.nearest(gen, real)[1], distances.nearest_other(real)
    assert got[0] == want[0] and torch.equal(got[1], want[1]) and torch.equal(got[2], want[2])


def test_distances_agree_with_brute_force():
    x, y = cloud(12, 1), cloud(17, 2)
    full = np.linalg.norm(x[:, None].double().numpy() - y[None].double().numpy(), axis=2)
    got = torch.cat([block for _, block in distances.chunks(x, y)])
    np.testing.assert_allclose(got, full, rtol=1e-5)
    distance, item = distances.nearest(x, y)
    np.testing.assert_array_equal(item, full.argmin(axis=1))
    np.testing.assert_allclose(distance, full.min(axis=1), rtol=1e-12)
    own = np.linalg.norm(y[:, None].double().numpy() - y[None].double().numpy(), axis=2) + np.diag([np.inf] * 17)
    np.testing.assert_allclose(distances.nearest_other(y), own.min(axis=1), rtol=1e-12)
    np.testing.assert_allclose(distances.kth_nearest_other(y, 4), np.sort(own, axis=1)[:, 3], rtol=1e-5)


def test_features_far_from_the_origin():
    """Without centring, the products would lose differences of 1 beside a mean of 1000."""
    real, gen = cloud(60, 1), cloud(60, 2, shift=0.5)
    assert scores(real + 1000, gen + 1000) == pytest.approx(scores(real, gen), abs=0.02)


def test_a_resample_is_what_its_images_give():
    """With the radii of the whole set: drawn twice counts twice for the precision, not drawn covers nothing for the
    recall."""
    real, gen = cloud(25, 1), cloud(30, 2, shift=0.7)
    weights = draw_weights(30, 5, 0, 'cpu')
    precision, recall = precision_and_recall(real, gen, weights)
    near = lambda x, s: (torch.cdist(x.double(), s.double())
                         <= torch.cdist(s.double(), s.double()).kthvalue(4, dim=1).values)
    for r, row in enumerate(weights):
        covered = near(gen, real).any(1).double()
        assert precision[r].item() == pytest.approx(covered.repeat_interleave(row.long()).mean().item())
        assert recall[r].item() == pytest.approx(near(real, gen)[:, row > 0].any(1).double().mean().item())


def test_too_few_images():
    with pytest.raises(UserError, match='3 real and 9 generated images; more than 3 of each are needed'):
        precision_and_recall(cloud(3, 0), cloud(9, 0), ones(9))
