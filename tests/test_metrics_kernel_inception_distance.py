"""metrics/kernel_inception_distance.py: the formula by brute force, unbiasedness, and its standard error."""

import numpy as np
import pytest
import torch

from dnnlib import UserError
from metrics.estimate import draw_weights
from metrics.kernel_inception_distance import kernel_distance
from torch_utils.remembered import remembered

ONE = torch.ones([1, 1], dtype=torch.float64)


def features(num, size, seed, shift=0.0):
    return torch.from_numpy(np.random.RandomState(seed).randn(num, size) + shift).to(torch.float32)


def brute_force(x, y):
    """Eq. 4 pair by pair."""
    k = lambda a, b: (float(a @ b) / len(a) + 1) ** 3
    own = lambda s: np.mean([k(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j])
    return own(x) + own(y) - 2 * np.mean([k(a, b) for a in x for b in y])


@pytest.mark.parametrize('num_real, num_gen', [(12, 12), (7, 12), (12, 7), (2, 2)])
def test_agrees_with_brute_force(num_real, num_gen):
    """With a subset of all images the draws do not matter; where one set is larger, so many subsets average to its
    brute force."""
    real, gen = features(num_real, 5, 1), features(num_gen, 5, 2, 0.5)
    subsets = 1 if num_real == num_gen else 4000
    got = kernel_distance(real, gen, ONE.expand(1, num_gen), num_subsets=subsets)
    tolerance = dict(rel=1e-12) if subsets == 1 else dict(abs=5 * got['standard_error'])
    assert got['value'][0].item() == pytest.approx(brute_force(real.double().numpy(), gen.double().numpy()),
                                                   **tolerance)


@pytest.mark.parametrize('num_real, num_gen, num_subsets', [(300, 200, 2), (300, 20, 60), (20, 300, 60), (40, 50, 60)])
def test_each_subset_by_brute_force(num_real, num_gen, num_subsets):
    """Whether the subsets have more pairs or fewer than there are; a resample moves the value by the influences."""
    real, gen, size = features(num_real, 4, 1), features(num_gen, 4, 2, 0.5), min(num_real, num_gen, 30)
    weights = draw_weights(num_gen, 3, 0, 'cpu')
    got = kernel_distance(real, gen, weights, num_subsets, max_size=30)
    rng, values = np.random.RandomState(0), []
    influence, seen = np.zeros(num_gen), np.zeros(num_gen)
    for _ in range(num_subsets):
        items = rng.choice(num_gen, size, replace=False)
        x, y = gen[items].double().numpy(), real[rng.choice(num_real, size, replace=False)].double().numpy()
        values.append(brute_force(x, y))
        k = lambda a, b: (a @ b.T / 4 + 1) ** 3
        own = (k(x, x).sum(axis=1) - k(x, x).diagonal()) / (size - 1)
        influence[items] += own - k(x, y).mean(axis=1)
        seen[items] += 1
    share = weights.numpy() * (seen > 0)
    moved = share @ (influence / np.maximum(seen, 1)) / share.sum(axis=1)
    np.testing.assert_allclose(got['value'], np.mean(values) + 2 * (moved - moved[0]), rtol=1e-9)
    assert got['standard_error'] == pytest.approx(np.std(values) / num_subsets ** 0.5, rel=1e-9)


def test_what_follows_from_the_reals_is_worked_out_once():
    calls = []
    count = remembered(lambda real, factor: calls.append(factor) or real.sum() * factor)
    a, b = features(5, 3, 0), features(5, 3, 1)
    assert [count(x, 2).item() for x in (a, a.clone(), b, a)] == [2 * x.sum().item() for x in (a, a, b, a)]
    assert calls == [2, 2] and count(a, 3) == 3 * a.sum() and calls == [2, 2, 3]
    assert count(a.reshape(3, 5), 2) == 2 * a.sum() and len(calls) == 4
    for seed in range(20):
        count(features(5, 3, 10 + seed), 2)
    assert count(a, 2) == 2 * a.sum() and len(calls) == 25              # the oldest are forgotten


def test_is_unbiased():
    """Two samples of one distribution are at distance 0 on average, however small; the biased mean over all pairs,
    itself included, is not."""
    values, biased = [], []
    for seed in range(400):
        real, gen = features(5, 3, 2 * seed), features(5, 3, 2 * seed + 1)
        values.append(kernel_distance(real, gen, ONE.expand(1, 5), num_subsets=1)['value'].item())
        k = lambda x, y: ((x @ y.T).double() / 3 + 1).pow(3).mean().item()
        biased.append(k(real, real) + k(gen, gen) - 2 * k(real, gen))
    error = np.std(values) / 20
    assert abs(np.mean(values)) < 3 * error and np.mean(biased) > 10 * error


def test_the_expectation_of_a_shift():
    """Features of width 1 with k = (xy + 1)^3: E for x ~ N(0, 1) and y ~ N(s, 1) is the sum over powers p of C(3, p) (E
    x^p - E y^p)^2."""
    s, num = 0.5, 150
    want = 3 * s ** 2 + 3 * (s ** 2) ** 2 + (s ** 3 + 3 * s) ** 2
    values = [kernel_distance(features(num, 1, 2 * i), features(num, 1, 2 * i + 1, s), ONE.expand(1, num),
                              num_subsets=1)['value'].item()
              for i in range(60)]
    assert np.mean(values) == pytest.approx(want, abs=4 * np.std(values) / 60 ** 0.5)


def test_subsets_and_their_standard_error():
    """The standard error is that of the draw of subsets: it falls with their number, and the seed decides."""
    real, gen = features(300, 4, 0), features(300, 4, 1, 1.0)
    run = lambda **kwargs: kernel_distance(real, gen, ONE.expand(1, 300), max_size=30, **kwargs)
    many = [run(num_subsets=25, seed=seed)['value'].item() for seed in range(40)]
    assert run(num_subsets=25)['standard_error'] == pytest.approx(np.std(many), rel=0.5)
    assert run(num_subsets=100)['standard_error'] == pytest.approx(run(num_subsets=25)['standard_error'] / 2, rel=0.4)
    assert run(seed=1)['value'] != run(seed=2)['value'] and run(seed=1)['value'] == run(seed=1)['value']


def test_the_spread_of_resamples_is_that_of_new_samples():
    """The standard deviation over resamples of a set, and that over fresh sets of generated images; cubes have heavy
    tails: 60 of each."""
    real, num, weights = features(100, 3, 0), 100, draw_weights(100, 60, 0, 'cpu')
    results = [kernel_distance(real, features(num, 3, seed, 0.7), weights, num_subsets=1)['value']
               for seed in range(1, 61)]
    spread = torch.stack([values[1:].var() for values in results]).mean().sqrt()
    assert spread.item() == pytest.approx(torch.stack([values[0] for values in results]).std().item(), rel=0.25)


def test_one_image_is_too_few():
    with pytest.raises(UserError, match='--metrics=kid.*: 1 real and 5 generated images'):
        kernel_distance(features(1, 3, 0), features(5, 3, 0), ONE.expand(1, 5))
