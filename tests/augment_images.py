"""Images whose transforms are known in closed form."""

import scipy.ndimage
import scipy.special
import torch

QUANTILES = [0.2, 0.6, 0.9]


def std_value(q, std):
    """What a normally distributed parameter is at percentile q, by the reference implementation's convention."""
    return scipy.special.erfinv(2 * q - 1) * std


def noise_images(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.5
