"""LeCam regularisation of the discriminator (Tseng et al., "Regularizing Generative Adversarial Networks under Limited
Data", CVPR 2021)."""

import click
import torch

from dnnlib.commands import FiniteRange
from torch_utils import distributed, training_stats

from ..loss_terms import Term
from .method import Method, check_begins, has_one_pass, iterations_in_kimg

BIGGAN_START = 1000             # iterations


class LeCam(Term):
    """weight * (mean relu(D(x) - a_F)^2 + mean relu(a_R - D(G(z)))^2), a_R and a_F the moving averages of D's logits
    for reals and fakes.

    The paper's formula has no relu, its code has. The averages move once per step, by the mean over micro-batches and
    processes, after they were used; they are bias-corrected for their start at zero, and nothing is added before the
    first update.

    With `lead`, as in the source's BigGAN program, they move before they are used, and until `lead` before the start
    they are those of the last batch. It needs fakes and reals in one pass of D and the batch of a process as one
    micro-batch.

    Args:
        weight: of the term.
        decay:  of the averages, per step.
        start:  thousands of images from which on the term takes part.
        lead:   thousands of images of one of BigGAN's iterations; None = the program for StyleGAN2.
    """

    def __init__(self, weight, decay=0.99, start=0.0, lead=None):
        super().__init__()
        self.weight, self.decay, self.start_nimg = weight, decay, start * 1000
        self.lead_nimg = None if lead is None else lead * 1000
        # Of (real logits, fake logits, 1): the last one is the weight of all so far
        self.register_buffer('average', torch.zeros([3]))
        # Of this step; reals: sum, number; fakes: sum, number
        self.register_buffer('sums', torch.zeros([4]), persistent=False)
        self.active, self.keeps = False, decay

    def start_step(self, cur_nimg):
        self.active = cur_nimg >= self.start_nimg
        self.keeps = 0.0 if self.moves_first and cur_nimg < self.start_nimg - self.lead_nimg else self.decay
        self.sums.zero_()

    def recording_key(self, phase):
        """Averages of all processes cannot be had within a recorded phase."""
        if phase[0] != 'D':
            return ()
        return None if self.moves_first and distributed.get_world_size() > 1 else (self.active, self.keeps)

    @property
    def moves_first(self):
        return self.lead_nimg is not None

    def d_fake(self, step):
        if self.moves_first and step.round_idx > 0:
            raise ValueError(f'LeCam, micro-batch {step.round_idx}: with `lead` the averages move before they are '
                             'used, which takes the batch of a process as a whole; make batch_gpu as large')
        self._count(step.logits, 2)
        if self.moves_first:
            step.kept['LeCam'] = step.logits
            return {}
        return self._of_fakes(step.logits)

    def d_real(self, step):
        self._count(step.logits, 0)
        if not self.moves_first:
            return self._of_reals(step.logits)
        self._move()
        self.sums.zero_()
        return {**self._of_fakes(step.kept['LeCam']), **self._of_reals(step.logits)}

    def finish_step(self, batch_idx):
        if not self.moves_first:
            self._move()
        for name, value in zip(('real', 'fake'), self.anchors(), strict=True):
            training_stats.report(f'LeCam/average_{name}', value)

    def anchors(self):
        """-> a_R, a_F, scalars; 0 before the first update."""
        total = self.average[2]
        return (self.average[:2] / torch.where(total > 0, total, 1)).unbind()

    def _count(self, logits, at):
        self.sums[at] += logits.detach().sum()
        self.sums[at + 1] += logits.numel()

    @torch.no_grad()
    def _move(self):
        """One reduction over the processes."""
        real, num_real, fake, num_fake = distributed.all_reduce_sum(self.sums)
        mean = torch.stack([real / num_real, fake / num_fake, torch.ones_like(real)])
        average = self.average.lerp(mean, 1 - self.keeps)
        # A step that is left out must not spoil it
        self.average.copy_(torch.where(mean.isfinite().all(), average, self.average))

    def _of_fakes(self, logits):
        return self._term('LeCam/fake', self.anchors()[0] - logits)

    def _of_reals(self, logits):
        return self._term('LeCam/real', logits - self.anchors()[1])

    def _term(self, name, distance):
        if not self.active:
            return {}
        return {name: distance.relu().square().flatten() * (self.weight * (self.average[2] > 0))}


def _configure(opts, config, _dataset):
    """For BigGAN decay and start are those of the source's program for it."""
    biggan = dict(decay=0.9, start=iterations_in_kimg(config, BIGGAN_START), lead=iterations_in_kimg(config, 1)) \
        if has_one_pass(config) else {}
    start = biggan.get('start', 0) if opts.lecam_start is None else opts.lecam_start
    check_begins('--lecam-start', start, config)
    return dict(weight=opts.lecam, **biggan)


METHOD = Method('lecam', 'training.methods.lecam.LeCam', [
    click.option('--lecam', help='LeCam regularisation with this weight', type=FiniteRange(min=0, min_open=True),
                 metavar='WEIGHT'),
    click.option('--lecam-decay', help="Decay of its averages of D's logits, per step  [default: 0.99; 0.9 for BigGAN]",
                 type=FiniteRange(0, 1, max_open=True)),
    click.option('--lecam-start', help='Thousands of images before it takes part  [default: 0; 1000 iterations for '
                                       'BigGAN]',
                 type=FiniteRange(min=0), metavar='KIMG'),
], configure=_configure)
