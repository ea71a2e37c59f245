"""Frechet Inception Distance (FID), with the features of any detector.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", NIPS 2017, eq. 6:
|m_r - m_g|^2 + tr(C_r + C_g - 2 (C_r C_g)^(1/2)) with the means and covariances of the features of real and generated
images. Covariances are divided by n - 1, as in the programs behind most published values (the first FID code, the
TensorFlow code of DiffAugment, BigGAN's inception_tf, clean-fid, torch-fidelity); StyleGAN2-ADA's divides by n. The
value over n is reported as well.
"""

import torch

from .feature_stats import FeatureStats
from .frechet_distance import factor, frechet_terms
from .registry import MOMENTS, register_metric

FORMULA = dict(covariance='over n-1')           # part of the protocol


@register_metric('fid<N>_full', needs='inception', real=MOMENTS, generated=MOMENTS, figures=('over_n',))
def fid(real: FeatureStats, generated: FeatureStats, weights: torch.Tensor) -> dict:
    """FID of N generated images against all real ones

    Each set of features is taken for a Gaussian. The resamples need the features of the generated images; the value
    needs their moments only. `over_n` is the value with covariances over n.
    """
    terms = frechet_terms(*real.get_mean_cov(), *generated.get_mean_cov())
    factors = unbiased(real.num_items), unbiased(generated.num_items)
    value = torch.tensor([terms.distance(*factors)], dtype=torch.float64)
    extra = dict(over_n=terms.distance(), formula=FORMULA)
    if len(weights) == 1:
        return dict(value=value, **extra)
    mean_r, cov_r = real.get_mean_cov()
    resampled = resampled_distances(mean_r, cov_r * factors[0], generated.get_all(), weights[1:])
    return dict(value=torch.cat([value, resampled.cpu()]), **extra)


def unbiased(num_items: int) -> float:
    """The factor that turns a covariance over n into one over n - 1. The covariance of a single image is zero either
    way."""
    return num_items / max(num_items - 1, 1)


@register_metric('featfid<N>_full', needs='teacher', real=MOMENTS, generated=MOMENTS, figures=('over_n',))
def featfid(real: FeatureStats, generated: FeatureStats, weights: torch.Tensor) -> dict:
    """the same with the features of a teacher"""
    return fid(real, generated, weights)


def resampled_distances(mean_r, cov_r, features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The distance for each row of weights [R, N] -> [R] float64, on the device of the features [N, F].

    Covariances of the features are over N - 1; cov_r is taken as it is.

    Features are first turned to the axes A of cov_r = A A^T: a resample then takes no F x F covariance, but one of the
    rank of cov_r.
    """
    device = features.device
    x = features.to(torch.float64)
    centre = x.mean(dim=0)
    x -= centre
    shift = centre - torch.as_tensor(mean_r, device=device)
    root = factor(torch.as_tensor(cov_r)).to(device)
    turned, squares, trace_r = x @ root, x.square().sum(dim=1), root.square().sum()
    distances, correction = [], unbiased(len(features))
    for share in weights / weights.sum(dim=1, keepdim=True):
        mean, turned_mean = share @ x, share @ turned
        inner = ((turned * share[:, None]).T @ turned - turned_mean.outer(turned_mean)) * correction
        trace_of_root = torch.linalg.eigvalsh(inner).clamp(min=0).sqrt().sum()
        trace_f = (share @ squares - mean.square().sum()) * correction
        distances.append((mean + shift).square().sum() + trace_r + trace_f - 2 * trace_of_root)
    return torch.stack(distances)
