"""metrics/estimate.py and the bootstrap of the FID: what a resample is, the width of intervals, what is left out."""

import math

import numpy as np
import pytest
import torch

from metrics import estimate, frechet_inception_distance
from metrics.feature_stats import FeatureStats
from metrics.frechet_distance import frechet_distance


def stats_of(x, **capture):
    stats = FeatureStats(**(capture or dict(capture_all=True, capture_mean_cov=True)))
    stats.append_torch(torch.as_tensor(x, dtype=torch.float32))
    return stats


def fid_of(real, gen):
    """By numpy's covariances, over n - 1."""
    return frechet_distance(real.mean(0), np.cov(real.T), gen.mean(0), np.cov(gen.T))


def sample(num, seed, size=3):
    x = np.random.RandomState(seed).randn(num, size).astype(np.float32)
    return x @ np.diag(np.arange(1, size + 1)).astype(np.float32) + 0.3


def brightness(real, generated, weights):
    return dict(value=weights @ generated.get_all()[:, 0].double() / weights.sum(1), other=7)


def test_resamples_are_drawn_with_replacement():
    weights = estimate.draw_weights(1000, 50, 3, 'cpu')
    assert (weights.shape == (51, 1000) and (weights[0] == 1).all() and (weights.sum(1) == 1000).all()
            and (weights >= 0).all())
    assert (weights[1:] > 0).double().mean().item() == pytest.approx(1 - math.exp(-1), abs=0.01)
    assert weights[1:].var().item() == pytest.approx(1, abs=0.05)                   # Poisson, nearly
    assert (torch.equal(weights, estimate.draw_weights(1000, 50, 3, 'cpu'))
            and not torch.equal(weights, estimate.draw_weights(1000, 50, 4, 'cpu')))


def test_the_interval_of_a_mean():
    """Is the one in the textbooks: 1.96 standard deviations of the mean to either side."""
    x = np.random.RandomState(0).randn(400, 1)
    result = estimate.evaluate(brightness, None, stats_of(x), 2000, 0)
    low, high = result['intervals']['value']
    half = 1.96 * x.std() / 20
    assert (result['value'] == pytest.approx(x.mean(), abs=1e-6) and result['other'] == 7
            and set(result['intervals']) == {'value'})
    assert (low == pytest.approx(x.mean() - half, abs=0.1 * half)
            and high == pytest.approx(x.mean() + half, abs=0.1 * half))
    assert result['bootstrap'] == dict(resamples=2000, level=0.95, resampled='generated images', seed=0)


def test_intervals_cover():
    """Of 200 samples, the interval has the true mean in about 190; 180 is 3.2 standard deviations less."""
    results = [estimate.evaluate(brightness, None, stats_of(np.random.RandomState(seed).rand(100, 1)), 200, seed)
               for seed in range(200)]
    assert 180 <= sum(r['intervals']['value'][0] <= 0.5 <= r['intervals']['value'][1] for r in results) <= 199


def test_a_resampled_fid_is_the_fid_of_the_resample():
    # A covariance of full rank and one of rank 2
    for num_real in (50, 3):
        real, gen = sample(num_real, 0), sample(40, 1)
        weights = estimate.draw_weights(40, 4, 0, 'cpu')
        got = frechet_inception_distance.fid(stats_of(real), stats_of(gen), weights)['value']
        for row, value in zip(weights, got, strict=True):
            assert value.item() == pytest.approx(fid_of(real, np.repeat(gen, row.int().numpy(), axis=0)), rel=1e-6)


@pytest.mark.parametrize('num_real, num_gen', [(30, 50), (3, 4), (1, 1)])
def test_both_covariances_of_the_fid(num_real, num_gen):
    """The value has those over n - 1, beside it stands the one over n. Those of one image are zero in both."""
    real, gen = sample(num_real, 0), sample(num_gen, 1)
    result = estimate.evaluate(frechet_inception_distance.fid, stats_of(real), stats_of(gen), 0, 0)
    over = lambda x, ddof: np.cov(x.T, ddof=min(ddof, len(x) - 1))
    for name, ddof in (('value', 1), ('over_n', 0)):
        want = frechet_distance(real.mean(0), over(real, ddof), gen.mean(0), over(gen, ddof))
        assert result[name] == pytest.approx(want, rel=1e-6)
    assert (result['value'] != pytest.approx(result['over_n'], rel=1e-3)) == (num_real > 1)
    assert result['formula'] == dict(covariance='over n-1')


def test_the_interval_of_the_fid_is_of_the_value_at_this_number():
    """Its width agrees with the spread over fresh samples, and it lies about the value, although resamples have a
    larger FID throughout."""
    reals, num = sample(2000, 0), 100
    real, fresh = stats_of(reals), [fid_of(reals, sample(num, seed) + 0.5) for seed in range(1, 120)]
    results = [estimate.evaluate(frechet_inception_distance.fid, real, stats_of(sample(num, seed) + 0.5), 80, 0)
               for seed in range(1, 21)]
    widths = [r['intervals']['value'][1] - r['intervals']['value'][0] for r in results]
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(fresh), rel=0.25)
    assert all(r['intervals']['value'][0] < r['value'] < r['intervals']['value'][1] for r in results)
    assert sum(r['intervals']['value'][0] < np.mean(fresh) < r['intervals']['value'][1] for r in results) >= 16


def test_resamples_of_few_images_are_all_worse():
    """As many features as images: nearly every resample has a larger FID than the sample, which yet lies in its
    interval."""
    real, gen = stats_of(sample(2000, 0, size=20)), stats_of(sample(40, 1, size=20))
    weights = estimate.draw_weights(40, 100, 0, 'cpu')
    values = frechet_inception_distance.fid(real, gen, weights)['value']
    result = estimate.evaluate(frechet_inception_distance.fid, real, gen, 100, 0)
    assert values[1:].quantile(0.025) > result['value'] == values[0]
    assert result['intervals']['value'][0] < result['value'] < result['intervals']['value'][1]


def test_without_features_there_is_no_interval():
    """The value alone needs moments, whose size does not depend on the number of images."""
    real, gen = stats_of(sample(50, 0)), stats_of(sample(40, 1), capture_mean_cov=True)
    assert set(estimate.evaluate(frechet_inception_distance.fid, real, gen, 100, 0)) == {'value', 'over_n', 'formula'}
    assert estimate.fits(50_000, 2048) and not estimate.fits(500_000, 2048)


@pytest.mark.parametrize('capture', [dict(capture_all=True), dict(capture_mean_cov=True)])
def test_one_broken_image_makes_the_value_nan(capture):
    x = sample(40, 1)
    x[7, 1] = np.inf
    result = estimate.evaluate(lambda *_: pytest.fail('nothing to compute'), None, stats_of(x, **capture), 10, 0)
    assert math.isnan(result.pop('value')) and result == {}
