"""LeCam regularisation (Tseng et al., CVPR 2021) as its released BigGAN program has it."""

import torch

from torch_utils import distributed


class Anchors(torch.nn.Module):
    """Moving averages of D's mean logits, and the penalty on logits that leave them.

    They move before they are used; until iteration `start` they are those of the last batch. `lecam.LeCam`, of the
    StyleGAN2 programs, moves them after their use and corrects for their start at zero.

    Args:
        decay: of the averages, per D step.
        start: iteration from which on they are averages; the penalty takes part after it.
    """

    def __init__(self, decay=0.9, start=1000):
        super().__init__()
        self.decay, self.start = decay, start
        self.register_buffer('average', torch.zeros([2]))           # of the logits of reals, of fakes

    def active(self, iteration):
        """Whether the penalty takes part."""
        return iteration > self.start

    @torch.no_grad()
    def move(self, real_logits, fake_logits, iteration):
        """By the mean over all processes, whose batches have one size. A mean that is no number changes nothing."""
        means = distributed.mean(torch.stack([real_logits.mean(), fake_logits.mean()]))
        moved = self.average.lerp(means, 1 - self.decay if iteration >= self.start else 1)
        self.average.copy_(torch.where(means.isfinite().all(), moved, self.average))

    def penalty(self, real_logits, fake_logits):
        """mean relu(D(x) - a_F)^2 + mean relu(a_R - D(G(z)))^2, a scalar; its weight is 0.3 on CIFAR."""
        real, fake = self.average.unbind()
        return (real_logits - fake).relu().square().mean() + (real - fake_logits).relu().square().mean()
