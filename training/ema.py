"""Exponential moving average of the generator's weights."""

import math

import torch

BUFFERS = ('copy', 'average')


class WeightAverage:
    """Keeps `average` as the moving average of `module`.

    Args:
        half_life_kimg: thousands of images after which an old weight counts half.
        rampup:         the half-life is at most this fraction of the images seen so far; None = no ramp.
        start_kimg:     after iterations that began earlier the average is a copy.
        buffers:        'copy'; 'average' = like parameters, as BigGAN has the values of its batch and spectral norms.
                        Buffers of whole numbers are copied. The layers keep theirs finite.
    """

    def __init__(self, module, average, half_life_kimg, rampup=None, start_kimg=0, buffers='copy'):
        if buffers not in BUFFERS:
            raise ValueError(f'buffers is {buffers!r}, it must be one of {", ".join(BUFFERS)}')
        self.pairs = [(p.detach(), q.detach()) for p, q in zip(module.parameters(), average.parameters(), strict=True)]
        self.buffers = []
        for pair in zip(module.buffers(), average.buffers(), strict=True):
            averaged = buffers == 'average' and pair[0].is_floating_point()
            (self.pairs if averaged else self.buffers).append(pair)
        self.half_life_nimg = half_life_kimg * 1000
        self.rampup = rampup
        self.start_nimg = round(start_kimg * 1000)

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


def start_kimg(number, batch_size):
    """The `start_kimg` of an average that is a copy before iteration number `number`, counted from 1, of `batch_size`
    images each; 0 = from the start."""
    return max(number - 1, 0) * batch_size / 1000


def half_life_kimg(decay, batch_size):
    """The `half_life_kimg` of an average that keeps `decay` of itself in each iteration of `batch_size` images."""
    return batch_size / 1000 * math.log(0.5) / math.log(decay)
