"""Kernel Inception Distance (KID): an unbiased squared maximum mean discrepancy, with the features of any detector.

Binkowski et al., "Demystifying MMD GANs", ICLR 2018, section 4 and eq. 4, for m images of each kind and k(x, y) = (x.y
/ F + 1)^3: mean of k(x, x') over pairs of different generated images + the same of real ones - 2 mean of k(x, y) over
all mixed pairs. Protocol of StyleGAN2-ADA: the mean over 100 subsets of at most 1000 images, not multiplied by 1000.
"""

import numpy as np
import torch

from dnnlib import UserError
from torch_utils.remembered import remembered

from .feature_stats import FeatureStats
from .registry import FEATURES, register_metric

NUM_SUBSETS, MAX_SUBSET_SIZE = 100, 1000
BLOCK = 4096                # images of a side at a time, in float64: 128 MB of pairs


@register_metric('kid<N>_full', needs='inception', real=FEATURES, generated=FEATURES, figures=('standard_error',))
def kid(real: FeatureStats, generated: FeatureStats, weights: torch.Tensor) -> dict:
    """KID of N generated images against all real ones, with its standard error"""
    return kernel_distance(real.get_all(), generated.get_all(), weights)


@register_metric('featkid<N>_full', needs='teacher', real=FEATURES, generated=FEATURES, figures=('standard_error',))
def featkid(real: FeatureStats, generated: FeatureStats, weights: torch.Tensor) -> dict:
    """the same with the features of a teacher"""
    return kid(real, generated, weights)


def kernel_distance(real: torch.Tensor, gen: torch.Tensor, weights: torch.Tensor, num_subsets: int = NUM_SUBSETS,
                    max_size: int = MAX_SUBSET_SIZE, seed: int = 0) -> dict:
    """KID in float64 of features [M, F] and [N, F]; unbiased, so that it may be negative.

    Returns: value [R] and standard_error, which is that of the mean over subsets: it tells how much the draw of subsets
             matters, and would go to zero with their number. The sampling of the images is in the resamples, to first
             order: the value moves by twice the mean over images of (mean k to generated ones - mean k to real ones),
             taken over the subsets that an image was in.
    """
    size = min(len(real), len(gen), max_size)
    if size < 2:
        raise UserError(f'--metrics=kid...: {len(real)} real and {len(gen)} generated images; two of each are needed')
    subsets = len(real), len(gen), size, num_subsets, seed
    items, real_items = [numbers.to(gen.device) for numbers in _draw(*subsets)]
    to_fakes, to_reals = _to_others(gen, items), _mean_kernels(gen, items, real.to(gen.device), real_items)
    values = to_fakes.mean(dim=1) + _among_reals(real, gen.device, *subsets).to(gen.device) - 2 * to_reals.mean(dim=1)
    seen = torch.zeros_like(weights[0]).index_add_(0, items.flatten(), torch.ones_like(to_fakes).flatten())
    influence = torch.zeros_like(weights[0]).index_add_(0, items.flatten(), (to_fakes - to_reals).flatten())
    share = weights * (seen > 0)
    moved = share @ (influence / seen.clamp(min=1)) / share.sum(dim=1)
    return dict(value=values.mean() + 2 * (moved - moved[0]),
                standard_error=float(values.std(correction=0)) / num_subsets ** 0.5)


def _draw(num_real, num_gen, size, num_subsets, seed):
    """Numbers of the generated and of the real images of each subset, [R, size] each."""
    rng = np.random.RandomState(seed)
    draws = [[rng.choice(num, size, replace=False) for num in (num_gen, num_real)] for _ in range(num_subsets)]
    return [torch.from_numpy(np.stack(items)) for items in zip(*draws, strict=True)]


@remembered
def _among_reals(real, device, *subsets):
    """[R]: mean of k(y, y') over the pairs of different real images of each subset."""
    return _to_others(real.to(device), _draw(*subsets)[1].to(device)).mean(dim=1)


def _to_others(x, items):
    """[R, size]: mean of k(x_i, x_j) over the other j of each subset."""
    squares = torch.cat([rows.to(torch.float64).square().sum(dim=1) for rows in x.split(BLOCK)])
    own, size = (squares / x.shape[1] + 1) ** 3, items.shape[1]
    return (_mean_kernels(x, items, x, items) * size - own[items]) / (size - 1)


def _mean_kernels(x: torch.Tensor, items_x: torch.Tensor, y: torch.Tensor, items_y: torch.Tensor) -> torch.Tensor:
    """[R, size]: mean of k(x_i, y_j) over the j of each subset. x: [N, F]; y: [M, F]; items: [R, size]."""
    if len(x) * len(y) > items_x.numel() * items_y.shape[1]:        # subsets have fewer pairs than there are
        return torch.stack([_kernel(x[i], y[j]).mean(dim=1) for i, j in zip(items_x, items_y, strict=True)])
    shares = y.new_zeros([len(y), len(items_y)], dtype=torch.float64).scatter_(0, items_y.T, 1 / items_y.shape[1])
    blocks = list(zip(y.split(BLOCK), shares.split(BLOCK), strict=True))
    means = torch.cat([sum(_kernel(rows, columns) @ share for columns, share in blocks) for rows in x.split(BLOCK)])
    return means.T.gather(1, items_x)


def _kernel(x, y):
    return (x.to(torch.float64) @ y.to(torch.float64).T / x.shape[1] + 1) ** 3
