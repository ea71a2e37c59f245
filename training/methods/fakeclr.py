"""FakeCLR: D tells every fake from all other fakes, not from itself under noise (Li et al., ECCV 2022)."""

import click
import torch

from dnnlib import UserError
from dnnlib.commands import FiniteRange

from .insgen import WEIGHT, InsGen, common_options, share_of_images
from .method import Method

WIDEST = 3.0                # a component of z counts as at most this far from 0


class FakeCLR(InsGen):
    """Instance discrimination of fakes alone, with noise that grows with the latent ("Exploring Contrastive Learning
    for Solving Latent Discontinuity in Data-Efficient GANs", ECCV 2022).

    - fakes:     query D(A(G(z))), key slow_D(A'(G(z + d))), d = noise * min(|z|, 3) * N(0, 1) by component; the queue
      takes the keys of A(G(z));
    - generator: as in `InsGen`.

    The published code also weights old keys of the queue less. There the weight is normalised over an axis of length
    one, hence constant: it has no effect, and is left out here.

    Args:
        queue: number of keys, 5 % of the images in the source.
        weight, weight_generator: in the D step and in the G step.
        temperature, momentum: as in `InsGen`.
        noise: its standard deviation relative to |z|.
    """

    title = 'FakeCLR'
    kinds = ('fake',)

    def __init__(self, queue, weight=1.0, weight_generator=0.1, temperature=0.2, momentum=0.999, noise=0.1):
        super().__init__(queue, weight_fake=weight, weight_generator=weight_generator, temperature=temperature,
                         momentum=momentum, noise=noise)

    def similar(self, z):
        return z + torch.randn_like(z) * self.noise * z.abs().clamp(max=WIDEST)


def _configure(opts, config, _dataset):
    if opts.fakeclr_weight == 0 and opts.fakeclr_weight_generator == 0:
        raise UserError('--fakeclr: with both weights 0 nothing of it is left; leave --fakeclr out')
    return dict(queue=max(share_of_images(config, '--fakeclr', 'the key of a fake is nearly the query'), 1))


METHOD = Method('fakeclr', 'training.methods.fakeclr.FakeCLR', [
    click.option('--fakeclr', help='Instance discrimination of fakes (FakeCLR)', is_flag=True),
    click.option('--fakeclr-queue', help='Keys in its queue  [default: 5% of the images]', type=click.IntRange(min=1),
                 metavar='INT'),
    click.option('--fakeclr-weight', help='Weight in the D step  [default: 1]', type=WEIGHT),
    *common_options('--fakeclr'),
    click.option('--fakeclr-noise', help='Noise on the z of similar fakes, relative to |z|  [default: 0.1]',
                 type=FiniteRange(min=0)),
], configure=_configure)
