"""Memorization: how many generated images are copies of training images.

With d(x) = the Euclidean distance of the features of x to those of the nearest training image (of another one, where x
is one of them), a generated image counts as a copy if d(x) is below the 5 % quantile of d over the training images. Of
new photos of the same kind, about 5 % would count: a generator that learns the distribution has a share near 0.05, one
that copies has a share near 1. `below_median` is the same with the median, of which new photos have 50 %. Training
images with an exact duplicate are left out of the quantiles. Mirrored copies are not searched for.

The comparison of distances to the training set with those of fresh data is that of Meehan et al., "A Non-Parametric
Test to Detect Data-Copying in Generative Models", AISTATS 2020; here each training image, left out, stands in for the
fresh data, which a few-shot set cannot spare.
"""

import PIL.Image
import torch

from dnnlib import UserError, files

from . import distances
from .feature_stats import FeatureStats
from .registry import FEATURES, register_metric

QUANTILE = 0.05
NUM_PAIRS = 16          # nearest pairs that are recorded and shown


@register_metric('memorization<N>', needs='inception', real=FEATURES, generated=FEATURES, figures=('below_median',),
                 seeks_copies=True)
def memorization(real: FeatureStats, generated: FeatureStats, weights: torch.Tensor) -> dict:
    """share of N generated images that are nearer to a training image than 95 % of those are to each other"""
    return copies(real.get_all(), generated.get_all(), weights)


@register_metric('featmemorization<N>', needs='teacher', real=FEATURES, generated=FEATURES, figures=('below_median',),
                 seeks_copies=True)
def feature_memorization(real: FeatureStats, generated: FeatureStats, weights: torch.Tensor) -> dict:
    """the same with the features of a teacher"""
    return memorization(real, generated, weights)


def copies(real: torch.Tensor, gen: torch.Tensor, weights: torch.Tensor) -> dict:
    """-> value and below_median [R], threshold, and pairs: [[generated image, training image, distance], ...], the
    nearest first."""
    real, gen = distances.centred(real, gen)
    between = distances.nearest_other(real)
    between = between[between > 0]
    if len(between) == 0:
        raise UserError('--metrics=memorization...: there are no two different training images, with which copies '
                        'could be told from others')
    threshold, median = between.quantile(QUANTILE), between.quantile(0.5)
    distance, item = distances.nearest(gen, real)
    share = lambda limit: weights @ (distance < limit).to(weights) / weights.sum(dim=1)
    order = distance.argsort(stable=True)[:NUM_PAIRS].tolist()
    return dict(value=share(threshold), below_median=share(median), threshold=float(threshold),
                pairs=[[i, int(item[i]), float(distance[i])] for i in order])


def save_pairs(path: str, fakes: torch.Tensor, reals: torch.Tensor) -> None:
    """Writes a picture of two rows: generated images above the training images nearest to them; uint8 [N, C, H, W], one
    column each.

    Raises: UserError where it cannot be written.
    """
    rows = [torch.cat(list(images.cpu()), dim=2) for images in (fakes, reals)]
    sheet = torch.cat(rows, dim=1).permute(1, 2, 0).squeeze(2).numpy()
    with files.atomic_path(path) as temp:
        PIL.Image.fromarray(sheet).save(temp, format='PNG')
