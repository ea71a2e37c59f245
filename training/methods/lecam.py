"""LeCam regularisation of the discriminator (Tseng et al., "Regularizing Generative Adversarial Networks under Limited
Data", CVPR 2021)."""

import click
import torch

from dnnlib import UserError
from dnnlib.commands import FiniteRange
from torch_utils import distributed, training_stats

from ..loss_terms import Term
from .method import Method


class LeCam(Term):
    """weight * (mean relu(D(x) - a_F)^2 + mean relu(a_R - D(G(z)))^2), a_R and a_F the moving averages of D's logits
    for reals and fakes.

    The paper's formula has no relu, its code has. The averages move once per step, by the mean over micro-batches and
    processes, after they were used; they are bias-corrected for their start at zero, and nothing is added before the
    first update.

    Args:
        weight: of the term.
        decay:  of the averages, per step.
        start:  thousands of images from which on the term takes part.
    """

    def __init__(self, weight, decay=0.99, start=0.0):
        super().__init__()
        self.weight, self.decay, self.start_nimg = weight, decay, start * 1000
        # Averages of (real logits, fake logits, 1): the last is the total weight so far
        self.register_buffer('average', torch.zeros([3]))
        # Of this step; reals: sum, number; fakes: sum, number
        self.register_buffer('sums', torch.zeros([4]), persistent=False)
        self.active = False

    def start_step(self, cur_nimg):
        self.active = cur_nimg >= self.start_nimg
        self.sums.zero_()

    def recording_key(self, phase):
        return self.active if phase[0] == 'D' else ()

    def d_fake(self, step):
        self._count(step.logits, 2)
        real, _fake = self.anchors()
        return self._term('LeCam/fake', real - step.logits)

    def d_real(self, step):
        self._count(step.logits, 0)
        _real, fake = self.anchors()
        return self._term('LeCam/real', step.logits - fake)

    def finish_step(self, batch_idx):
        """One reduction over the processes."""
        real, num_real, fake, num_fake = distributed.all_reduce_sum(self.sums)
        mean = torch.stack([real / num_real, fake / num_fake, torch.ones_like(real)])
        average = self.average.lerp(mean, 1 - self.decay)
        # A step that is left out must not spoil it
        self.average.copy_(torch.where(mean.isfinite().all(), average, self.average))
        for name, value in zip(('real', 'fake'), self.anchors(), strict=True):
            training_stats.report(f'LeCam/average_{name}', value)

    def anchors(self):
        """-> a_R, a_F, scalars; 0 before the first update."""
        total = self.average[2]
        return (self.average[:2] / torch.where(total > 0, total, 1)).unbind()

    def _count(self, logits, at):
        self.sums[at] += logits.detach().sum()
        self.sums[at + 1] += logits.numel()

    def _term(self, name, distance):
        if not self.active:
            return {}
        return {name: distance.relu().square().flatten() * (self.weight * (self.average[2] > 0))}


def _configure(opts, config, _dataset):
    if opts.lecam_start is not None and opts.lecam_start >= config.total_kimg:
        raise UserError(f'--lecam-start={opts.lecam_start:g}: the run ends after {config.total_kimg:g} kimg, before it '
                        f'takes part; use a smaller one, such as {config.total_kimg / 3:.2g}')
    return dict(weight=opts.lecam)


METHOD = Method('lecam', 'training.methods.lecam.LeCam', [
    click.option('--lecam', help='LeCam regularisation with this weight', type=FiniteRange(min=0, min_open=True),
                 metavar='WEIGHT'),
    click.option('--lecam-decay', help="Decay of its averages of D's logits, per step  [default: 0.99]",
                 type=FiniteRange(0, 1, max_open=True)),
    click.option('--lecam-start', help='Thousands of images before it takes part  [default: 0]',
                 type=FiniteRange(min=0), metavar='KIMG'),
], configure=_configure)
