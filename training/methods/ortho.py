"""Orthogonal regularisation of both networks (Brock et al., ICLR 2017; BigGAN, ICLR 2019, section 3.1)."""

import click

from dnnlib.commands import FiniteRange

from ..loss_terms import Term
from ..networks.interface import module_of
from .method import Method


class Orthogonal(Term):
    """strength / 2 * the sum of |M|^2 over the weights W [out, rest], M = W W^T without its diagonal: BigGAN's form, in
    which rows may have any length.

    In the D step for the weights of D, in the G step for those of G; vectors and the class embedding that the norms of
    BigGAN share are left out. The public programs add its gradient, 2 strength M W, to that of the loss.

    Args:
        weight: strength; 1e-4 in the paper, 0 in the published settings for CIFAR and ImageNet 64.
    """

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def bind(self, loss):
        modules = dict.fromkeys(module_of(part) for part in (loss.G_mapping, loss.G_synthesis))
        self.of_G = [weight for module in modules for weight in matrices(module)]
        self.of_D = matrices(loss.D)

    def recording_key(self, phase):
        return ()

    def d_real(self, step):
        return {'Ortho/D': self._penalty(self.of_D)}

    def g_main(self, step):
        return {'Ortho/G': self._penalty(self.of_G)}

    def _penalty(self, weights):
        return sum(off_diagonal(weight).square().sum() for weight in weights) * (self.weight / 2)


def matrices(network):
    """The weights of two or more dimensions, except for the class embedding `shared`."""
    return [param for name, param in network.named_parameters() if param.ndim >= 2 and name != 'shared.weight']


def off_diagonal(weight):
    """[out, ...] -> W W^T, [out, out], with zeros on the diagonal."""
    matrix = weight.flatten(1)
    gram = matrix @ matrix.t()
    return gram - gram.diag().diag()


METHOD = Method('ortho', 'training.methods.ortho.Orthogonal', [
    click.option('--ortho', help='Orthogonal regularisation of G and D with this strength',
                 type=FiniteRange(min=0, min_open=True), metavar='STRENGTH'),
], configure=lambda opts, config, dataset: dict(weight=opts.ortho))
