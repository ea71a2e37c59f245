"""metrics/inception_score.py: closed forms and numpy's own loop."""

import numpy as np
import pytest
import torch

from dnnlib import UserError
from metrics.estimate import draw_weights
from metrics.inception_score import split_scores


def probabilities(num, classes, seed):
    return torch.from_numpy(np.random.RandomState(seed).dirichlet([0.3] * classes, num)).to(torch.float32)


def ones(num):
    return torch.ones([1, num], dtype=torch.float64)


def by_loop(p):
    p = p.double().numpy()
    return np.exp(np.mean([sum(q * np.log(q / m) for q, m in zip(row, p.mean(0), strict=True) if q > 0) for row in p]))


def test_closed_forms():
    """Certain and evenly spread over K classes: K. The same for all images, certain or not: 1."""
    spread = torch.eye(5).repeat(20, 1)
    torch.testing.assert_close(split_scores(spread, ones(100)), torch.full([1, 10], 5.0, dtype=torch.float64))
    for row in (torch.full([5], 0.2), torch.eye(5)[2]):
        torch.testing.assert_close(split_scores(row.expand(40, 5), ones(40)), torch.ones([1, 10], dtype=torch.float64))


@pytest.mark.parametrize('num', [10, 57, 100])
def test_the_parts_are_consecutive(num):
    p = probabilities(num, 7, 0)
    want = [by_loop(p[i * num // 10:(i + 1) * num // 10]) for i in range(10)]
    np.testing.assert_allclose(split_scores(p, ones(num))[0], want, rtol=1e-6)        # probabilities are float32


def test_a_resample_repeats_images_within_its_parts():
    p, weights = probabilities(60, 4, 1), draw_weights(60, 3, 0, 'cpu')
    for row, got in zip(weights, split_scores(p, weights, num_splits=2), strict=True):
        want = [by_loop(p[part].repeat_interleave(row[part].long(), dim=0)) for part in (slice(0, 30), slice(30, 60))]
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_too_few_images():
    with pytest.raises(UserError, match='--metrics=is9: .* ask for 10 images or more'):
        split_scores(probabilities(9, 4, 0), ones(9))
