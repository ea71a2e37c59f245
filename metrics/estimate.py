"""Metric values with bootstrap intervals: each is computed for the generated images, and again for resamples of
them."""

import math

import torch

from .feature_stats import FeatureStats

# Limit for features that are only kept for intervals: 65,536 images of the Inception network
MAX_FEATURE_BYTES = 1 << 29
LEVEL = 0.95


def draw_weights(num_images: int, resamples: int, seed: int, device) -> torch.Tensor:
    """[1 + resamples, num_images] float64: a row of ones, then how often each image occurs in each resample, drawn with
    replacement."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.zeros([1 + resamples, num_images], dtype=torch.float64)
    weights[0] = 1
    for row in weights[1:]:
        row.copy_(torch.randint(num_images, [num_images], generator=generator).bincount(minlength=num_images))
    return weights.to(device)


def fits(num_images: int, num_features: int) -> bool:
    """Whether the features of so many images may be kept only to have intervals."""
    return num_images * num_features * 4 <= MAX_FEATURE_BYTES


def evaluate(compute, real: FeatureStats | None, generated: FeatureStats, resamples: int, seed: int) -> dict:
    """-> {figure: number}, and 'intervals': {figure: [low, high]} with the 'bootstrap' that they come from.

    If a feature of a generated image is infinite or NaN, the value is NaN and nothing else is there.

    Args:
        compute: `compute(real, generated, weights)` -> {figure: tensor [R] or a plain value}. `weights` [R, N] says how
                 often each generated image counts, the first row once each: a tensor holds the figure for each row, and
                 only such figures get an interval.
        resamples, seed: of the bootstrap; it needs the features of the generated images, and is left out where they
                         were not kept.

    The bootstrap (Efron, "Bootstrap methods: another look at the jackknife", 1979) resamples the generated images; the
    real ones are given by the protocol. A resample has only about 63 % of the images, which shifts measures that are
    biased by their number, such as the FID. So the 2.5 and 97.5 % quantiles are taken about the resamples' mean and put
    about the value: an interval of the value at this very N.
    """
    if not all(stats.is_finite() for stats in (real, generated) if stats is not None):
        return dict(value=math.nan)
    weights = draw_weights(generated.num_items, resamples if generated.capture_all else 0, seed, generated.device)
    figures = compute(real, generated, weights)
    rows = {name: figure.to('cpu', torch.float64) for name, figure in figures.items()
            if isinstance(figure, torch.Tensor)}
    result = {**figures, **{name: float(row[0]) for name, row in rows.items()}}
    if len(weights) > 1:
        result.update(intervals={name: _interval(row) for name, row in rows.items()},
                      bootstrap=dict(resamples=resamples, level=LEVEL, resampled='generated images', seed=seed))
    return result


def _interval(row: torch.Tensor) -> list[float]:
    value, resampled = row[0], row[1:]
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    return (value + resampled.quantile(tails) - resampled.mean()).tolist()
