"""metrics/frechet_distance.py: closed forms, scipy's matrix square root, singular covariances, and refusals."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from metrics.frechet_distance import frechet_distance


def rotation(size, seed):
    return np.linalg.qr(np.random.RandomState(seed).randn(size, size))[0]


def features(num, size, seed):
    """[num, size] with correlated columns and a mean."""
    rng = np.random.RandomState(seed)
    return rng.randn(num, size) @ rng.randn(size, size) + rng.randn(size)


def moments(x):
    return x.mean(axis=0), np.cov(x, rowvar=False, bias=True)


@pytest.mark.parametrize('size', [1, 2, 7])
@pytest.mark.parametrize('rotated', [False, True])
def test_covariances_with_common_axes(size, rotated):
    """Then the distance is |mean difference|^2 + the sum of (difference of standard deviations)^2 along the axes."""
    rng = np.random.RandomState(size)
    mean_r, mean_f, std_r, std_f = rng.randn(size), rng.randn(size), rng.rand(size) + 0.1, rng.rand(size) + 0.1
    axes = rotation(size, seed=size) if rotated else np.eye(size)
    got = frechet_distance(mean_r, axes @ np.diag(std_r ** 2) @ axes.T, mean_f, axes @ np.diag(std_f ** 2) @ axes.T)
    assert got == pytest.approx(((mean_r - mean_f) ** 2).sum() + ((std_r - std_f) ** 2).sum(), rel=1e-12)


@pytest.mark.parametrize('seed', range(5))
def test_agrees_with_scipy(seed):
    """On well-conditioned covariances sqrtm is good to 1e-10 or so."""
    (mean_r, cov_r), (mean_f, cov_f) = moments(features(200, 24, seed)), moments(features(300, 24, seed + 100))
    want = ((mean_r - mean_f) ** 2).sum() + np.trace(cov_r + cov_f - 2 * scipy.linalg.sqrtm(cov_r @ cov_f).real)
    assert frechet_distance(mean_r, cov_r, mean_f, cov_f) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize('num_real, num_gen', [(10, 12), (10, 200), (200, 10), (2, 3)])
def test_fewer_images_than_features(num_real, num_gen):
    """With centred features X and Y, the trace of the root is the sum of singular values of X Y^T / sqrt(num_real
    num_gen): small and exact, where sqrtm of the singular product is not. Tolerance: a vanishing eigenvalue is known to
    about 1e-16 of the largest, its root to 1e-8."""
    x, y = features(num_real, 40, seed=1), features(num_gen, 40, seed=2)
    singular_values = np.linalg.svd((x - x.mean(0)) @ (y - y.mean(0)).T,
                                    compute_uv=False) / math.sqrt(num_real * num_gen)
    want = ((x.mean(0) - y.mean(0)) ** 2).sum() + x.var(0).sum() + y.var(0).sum() - 2 * singular_values.sum()
    got = frechet_distance(*moments(x), *moments(y))
    assert got == pytest.approx(want, rel=1e-7)
    assert frechet_distance(*moments(y), *moments(x)) == pytest.approx(got, rel=1e-7)


@pytest.mark.parametrize('num', [10, 500])
def test_a_set_with_itself(num):
    mean, cov = moments(features(num, 40, seed=3))
    assert abs(frechet_distance(mean, cov, mean, cov)) < 1e-7 * np.trace(cov)
    assert frechet_distance(mean, cov, mean + 2, cov) == pytest.approx(4 * 40, rel=1e-7)


def test_a_single_image():
    """No spread at all: what remains are the mean and the other's spread."""
    mean, cov = moments(features(50, 6, seed=4))
    want = (mean ** 2).sum() + np.trace(cov)
    assert frechet_distance(np.zeros(6), np.zeros([6, 6]), mean, cov) == pytest.approx(want, rel=1e-12)
    assert frechet_distance(mean, cov, np.zeros(6), np.zeros([6, 6])) == pytest.approx(want, rel=1e-12)


def test_what_is_not_finite_gives_nan():
    good = np.zeros(3), np.eye(3)
    assert math.isnan(frechet_distance(*good, np.array([0, math.nan, 0]), np.eye(3)))
    assert math.isnan(frechet_distance(np.zeros(3), np.diag([1, math.inf, 1]), *good))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r'means \[3\] and \[2\]'):
        frechet_distance(torch.zeros(3), torch.eye(3), torch.zeros(2), torch.eye(2))
