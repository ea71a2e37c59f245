"""CHAIN: normalises D's features as far as D overfits (Ni and Koniusz, CVPR 2024)."""

import click
import torch

from dnnlib.commands import FiniteRange
from dnnlib.text import rounded
from torch_utils import distributed, training_stats

from ..loss_terms import Term
from ..networks.architectures import of_class, require
from .method import Method, check_begins, iterations_in_kimg

F = torch.nn.functional
FEW_IMAGES = 1000           # up to here the zero-mean loss acts from the start
START = 5000                # iterations before p moves


class Chain(Term):
    """Lipschitz-continuity-constrained normalisation in D's blocks ("CHAIN: Enhancing Generalization in Data-Efficient
    GANs via lipsCHitz continuity constrAIned Normalization", CVPR 2024), in the form that takes its statistics from the
    batch.

    After every convolution of D's blocks, before bias and activation, with the statistics of a channel over the batch
    and space:

        psi = sqrt(mean x^2 + 1e-5)
        y = x / psi * min over channels of psi (without gradient)
        x <- (1 - M) x + M y

    M is 1 with probability p for each sample and channel. In the D step weight * (p + base) * sum over layers and
    channels of (mean x)^2 is added. p moves by `step` per iteration from `start` on, up where r > target and down where
    r < target, within [0, 1]; r is the average of sign D(reals) with decay 0.9.

    Reals and fakes have statistics of their own where they pass through D separately (of BigGAN they are one pass); so
    has each micro-batch and each process.
    The published code is for another network, where the normalisation follows a convolution without activation; hence
    the place before the activation here.

    Args:
        weight: of the zero-mean loss.
        base:   p_0, so much of the zero-mean loss acts at p = 0.
        target: r to hold.
        step:   by which p moves.
        start:  thousands of images before p moves.
    """

    EPS = 1e-5
    DECAY = 0.9

    def __init__(self, weight=20.0, base=0.0, target=0.5, step=0.001, start=0.0):
        super().__init__()
        self.weight, self.base, self.target, self.step, self.start_nimg = weight, base, target, step, start * 1000
        self.register_buffer('p', torch.zeros([]))
        self.register_buffer('r', torch.zeros([]))
        self.register_buffer('signs', torch.zeros([2]), persistent=False)           # of this step: sum, number
        # [C] of each layer, of the pass at hand
        self.means = []

    def bind(self, loss):
        for layer in loss.D.block_convolutions():
            layer.normalize = lambda x: self.normalize(x)       # a function, which a copy of D shares with D

    def normalize(self, x):
        """x [N, C, H, W] -> the same shape and dtype."""
        wide = x.to(torch.float32)
        if torch.is_grad_enabled():
            self.means.append(wide.mean(dim=[0, 2, 3]))
        psi = (wide.square().mean(dim=[0, 2, 3]) + self.EPS).sqrt()
        chosen = torch.rand([*x.shape[:2], 1, 1], device=x.device) < self.p
        return x * torch.where(chosen, (psi.detach().min() / psi)[:, None, None], 1.0).to(x.dtype)

    def start_step(self, cur_nimg):
        self.moves = cur_nimg >= self.start_nimg
        self.signs.zero_()
        self.means.clear()

    def recording_key(self, phase):
        return ()

    def prepare(self, step):
        self.means.clear()

    def d_fake(self, step):
        return {'CHAIN/fake': self._zero_mean()}

    def d_real(self, step):
        self.signs += torch.stack([step.logits.detach().sign().sum(), torch.full_like(self.p, len(step.logits))])
        return {'CHAIN/real': self._zero_mean()}

    def g_main(self, step):
        self.means.clear()
        return {}

    def finish_step(self, batch_idx):
        total, number = distributed.all_reduce_sum(self.signs)
        self.means.clear()
        mean = total / number.clamp(min=1)
        self.r.lerp_(torch.where(mean.isfinite(), mean, self.r), 1 - self.DECAY)
        if self.moves:
            self.p.add_((self.r - self.target).sign() * self.step).clamp_(0, 1)
        training_stats.report('CHAIN/p', self.p)
        training_stats.report('CHAIN/r', self.r)

    def _zero_mean(self):
        total = sum(mean.square().sum() for mean in self.means)
        self.means.clear()
        return total * (self.weight * (self.p + self.base))


def _configure(opts, config, _dataset):
    """The source waits for 5000 iterations, and adds its zero-mean loss from the start for the smallest sets."""
    require(of_class(config.D_kwargs['class_name']).abilities, 'chain', '--chain', 'leave it out')
    base = 0.1 if config.training_set_kwargs['max_size'] <= FEW_IMAGES else 0.0
    start = iterations_in_kimg(config, START) if opts.chain_start is None else opts.chain_start
    if (base if opts.chain_base is None else opts.chain_base) == 0:                 # else its loss is there before
        check_begins('--chain-start', start, config)
    elif start >= config.total_kimg:
        distributed.print0(f'CHAIN: normalises nothing before {start:g} kimg, where this run has ended; its zero-mean '
                           'loss acts. For both use a smaller --chain-start, such as '
                           f'{rounded(config.total_kimg / 3)}.')
    return dict(start=start, base=base)


METHOD = Method('chain', 'training.methods.chain.Chain', [
    click.option('--chain', help="Normalise D's features as far as it overfits (CHAIN)", is_flag=True),
    click.option('--chain-weight', help='Weight of its zero-mean loss  [default: 20]', type=FiniteRange(min=0)),
    click.option('--chain-base', help=f'Share of that loss at p = 0  [default: 0.1 up to {FEW_IMAGES} images, else 0]',
                 type=FiniteRange(min=0)),
    click.option('--chain-target', help='Mean sign of D for reals above which p grows  [default: 0.5]',
                 type=FiniteRange(-1, 1)),
    click.option('--chain-step', help='By which p moves in an iteration  [default: 0.001]', type=FiniteRange(0, 1)),
    click.option('--chain-start', help='Thousands of images before p moves  [default: 5000 iterations]',
                 type=FiniteRange(min=0), metavar='KIMG'),
], configure=_configure)
