"""A tiny generator and discriminator, and single phases of the loss on them."""

from types import SimpleNamespace

import torch

from training import networks
from training.loss import StyleGAN2Loss

N, RES = 4, 16


def nets(seed=0, c_dim=0):
    torch.manual_seed(seed)
    small = dict(channel_base=128, channel_max=16)
    G = networks.Generator(8, c_dim, 8, RES, 3, mapping_kwargs=dict(num_layers=2), synthesis_kwargs=small)
    D = networks.Discriminator(c_dim, RES, 3, **small)
    return SimpleNamespace(G=G.train().requires_grad_(False), D=D.train().requires_grad_(False))


def make_loss(n, **kwargs):
    return StyleGAN2Loss('cpu', n.G.mapping, n.G.synthesis, n.D, **{'style_mixing_prob': 0, **kwargs})


def batch(seed=1):
    rng = torch.Generator().manual_seed(seed)
    c = torch.zeros(N, 0)
    return dict(real_img=torch.rand(N, 3, RES, RES, generator=rng) * 2 - 1, real_c=c,
                gen_z=torch.randn(N, 8, generator=rng), gen_c=c)


def gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def run(n, loss, phase, gain=1, **kwargs):
    """One phase. -> gradients of the network that it trains; those of the terms are where they came to be."""
    module = n.G if phase[0] == 'G' else n.D
    terms = loss.__dict__.setdefault('trained', [p for p in loss.terms.parameters() if p.requires_grad])
    module.requires_grad_(True)
    for p in [*module.parameters(), *terms]:
        p.grad = None
    for p in terms:
        p.requires_grad_(phase[0] == 'D')               # as the training loop does
    loss.accumulate_gradients(phase=phase, gain=gain, **{**batch(), **kwargs})
    module.requires_grad_(False)
    return gradients(module)
