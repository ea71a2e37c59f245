"""Kernel Inception Distance (KID): an unbiased squared maximum mean discrepancy, with the features of any detector.

Binkowski et al., "Demystifying MMD GANs", ICLR 2018, section 4 and eq. 4, for m images of each kind and k(x, y) = (x.y
/ F + 1)^3: mean of k(x, x') over pairs of different generated images + the same of real ones - 2 mean of k(x, y) over
all mixed pairs. Protocol of StyleGAN2-ADA: the mean over 100 subsets of at most 1000 images, not multiplied by 1000.
"""

import numpy as np
import torch

from dnnlib import UserError

from .feature_stats import FeatureStats
from .registry import FEATURES, register_metric

NUM_SUBSETS, MAX_SUBSET_SIZE = 100, 1000


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
    real, rng = real.to(gen.device), np.random.RandomState(seed)
    draw = lambda num: torch.from_numpy(rng.choice(num, size, replace=False)).to(gen.device)
    subsets, influence, seen = [], torch.zeros_like(weights[0]), torch.zeros_like(weights[0])
    for _ in range(num_subsets):
        fake_items = draw(len(gen))
        fakes, reals = gen[fake_items].to(torch.float64), real[draw(len(real))].to(torch.float64)
        to_fakes, to_reals = _mean_kernel(fakes, fakes, others=True), _mean_kernel(fakes, reals)
        subsets.append(to_fakes.mean() + _mean_kernel(reals, reals, others=True).mean() - 2 * to_reals.mean())
        influence.index_add_(0, fake_items, to_fakes - to_reals)
        seen.index_add_(0, fake_items, torch.ones_like(to_fakes))
    subsets, influence = torch.stack(subsets), influence / seen.clamp(min=1)
    share = weights * (seen > 0)
    moved = share @ influence / share.sum(dim=1)
    return dict(value=subsets.mean() + 2 * (moved - moved[0]),
                standard_error=float(subsets.std(correction=0)) / num_subsets ** 0.5)


def _mean_kernel(x: torch.Tensor, y: torch.Tensor, others: bool = False) -> torch.Tensor:
    """[N]: mean of k(x_i, y_j) over j; others: over j other than i."""
    kernel = (x @ y.T / x.shape[1] + 1) ** 3
    return (kernel.sum(dim=1) - kernel.diagonal()) / (len(y) - 1) if others else kernel.mean(dim=1)
