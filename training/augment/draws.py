"""The random numbers of one call of the augmentation pipeline."""

import math
from statistics import NormalDist

import torch


class Draws:
    """Values for a batch of images; a transform takes effect with some probability, otherwise its value is 0.

    With a `percentile` nothing is random: every transform takes effect, with the value at that percentile.
    Numbers come from `torch.rand` and `torch.randn`, batch first, on the device of the images; the host reads none of
    them.

    Args:
        images:     [N, ...]; gives the batch size and the device.
        percentile: None, or between 0 and 1.
    """

    def __init__(self, images: torch.Tensor, percentile: float | None = None):
        self.batch_size, self.device, self.percentile = len(images), images.device, percentile

    @property
    def fixed(self) -> bool:
        """Whether the values are those at a percentile."""
        return self.percentile is not None

    def uniform(self, *shape: int) -> torch.Tensor:
        """[N, *shape] in [0, 1)."""
        return (self._full(self.percentile, shape) if self.fixed
                else torch.rand([self.batch_size, *shape], device=self.device))

    def symmetric(self, *shape: int) -> torch.Tensor:
        """[N, *shape] in [-1, 1)."""
        return self.uniform(*shape) * 2 - 1

    def integer(self, count: int) -> torch.Tensor:
        """[N], one of 0, 1, ... count - 1, as float."""
        return (self.uniform() * count).floor()

    def normal(self, *shape: int) -> torch.Tensor:
        """[N, *shape], standard normal."""
        return (self._full(_erfinv(2 * self.percentile - 1), shape) if self.fixed
                else torch.randn([self.batch_size, *shape], device=self.device))

    def half_normal(self, *shape: int) -> torch.Tensor:
        """[N, *shape], absolute value of a standard normal number."""
        return (self._full(_erfinv(self.percentile), shape) if self.fixed
                else torch.randn([self.batch_size, *shape], device=self.device).abs())

    def gate(self, value: torch.Tensor, prob: torch.Tensor, *shape: int) -> torch.Tensor:
        """`value` with probability `prob`, else 0: one decision per image, or [N, *shape] of them."""
        return (value if self.fixed
                else torch.where(torch.rand([self.batch_size, *shape], device=self.device) < prob, value, 0))

    def _full(self, value: float, shape) -> torch.Tensor:
        return torch.full([self.batch_size, *shape], value, device=self.device)


def _erfinv(x: float) -> float:
    """Inverse error function. A "standard normal" value at percentile q is erfinv(2q - 1): as in the reference
    implementation it lacks a factor sqrt(2), so it is the value of a normal distribution with half the variance."""
    return NormalDist().inv_cdf((x + 1) / 2) / math.sqrt(2)
