"""Exponential moving average of the generator's weights."""

import torch


class WeightAverage:
    """Keeps `average` as the moving average of `module`: parameters are averaged, buffers are copied.

    Args:
        half_life_kimg: thousands of images after which an old weight counts half.
        rampup:         the half-life is at most this fraction of the images seen so far; None = no ramp.
        start_kimg:     until then the average is a copy.
    """

    def __init__(self, module, average, half_life_kimg, rampup=None, start_kimg=0):
        self.pairs = [(p.detach(), q.detach()) for p, q in zip(module.parameters(), average.parameters(), strict=True)]
        self.buffers = list(zip(module.buffers(), average.buffers(), strict=True))
        self.half_life_nimg = half_life_kimg * 1000
        self.rampup = rampup
        self.start_nimg = start_kimg * 1000

    @torch.no_grad()
    def update(self, cur_nimg, batch_size):
        """After an iteration of `batch_size` images that began at `cur_nimg`."""
        half_life = self.half_life_nimg if self.rampup is None else min(self.half_life_nimg, cur_nimg * self.rampup)
        beta = 0.5 ** (batch_size / max(half_life, 1e-8)) if cur_nimg >= self.start_nimg else 0
        sources, targets = zip(*self.pairs, strict=True)
        torch._foreach_lerp_(list(targets), list(sources), 1 - beta)
        if self.buffers:
            sources, targets = zip(*self.buffers, strict=True)
            torch._foreach_copy_(list(targets), list(sources))
