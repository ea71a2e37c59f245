"""Frechet Inception Distance (FID), with the features of any detector."""

from torch_utils import distributed

from . import metric_utils
from .frechet_distance import frechet_distance


def compute_fid(opts, max_real: int | None, num_gen: int) -> float:
    """Distance between the features of real and generated images, each taken for a Gaussian; the same on all processes.

    Args:
        opts:     `metric_utils.MetricOptions`.
        max_real: use only the first so many real images; None = all.
        num_gen:  number of generated images.
    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", NIPS 2017, eq. 6;
            covariances divided by the number of images, as in StyleGAN2-ADA.
    """
    real = metric_utils.compute_feature_stats_for_dataset(opts, max_items=max_real, capture_mean_cov=True)
    gen = metric_utils.compute_feature_stats_for_generator(opts, max_items=num_gen, capture_mean_cov=True)
    return distributed.agree(lambda: frechet_distance(*real.get_mean_cov(), *gen.get_mean_cov()))
