"""What the tests of distillation share: a toy teacher, small networks with `Distillation` in their loss, one phase of a
step."""

import torch

from kd_plugin.distillers.settings import PRESETS
from kd_plugin.loss import Distillation
from kd_plugin.teacher import Preprocess, Teacher
from torch_utils import training_stats
from training import networks
from training.loss import StyleGAN2Loss

N, RES, DIM = 4, 16, 12


class ToyEncoder(torch.nn.Module):
    """A fixed non-linear map of the image, and one vector per text."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3 * 8 * 8, DIM)
        self.seen = []

    def image_features(self, x):
        self.seen.append(x.detach().clone())
        return torch.tanh(self.linear(x.flatten(1)))

    def text_features(self, texts):
        return torch.stack([torch.randn(DIM, generator=torch.Generator().manual_seed(len(text))) for text in texts])


def toy_teacher():
    torch.manual_seed(7)
    return Teacher(ToyEncoder(), Preprocess(8, (0.5,) * 3, (0.5,) * 3), DIM, 'toy')


TEXTS = ['a', 'bb', 'ccc', 'dddd', 'eeeee']


def setup(teacher, methods=('agkd', 'cgkd'), cache=None, augment=None, targets=None, batch_size=None, c_dim=0,
          **settings):
    torch.manual_seed(0)
    small = dict(channel_base=128, channel_max=16)
    G = networks.Generator(8, c_dim, 8, RES, 3, mapping_kwargs=dict(num_layers=2), synthesis_kwargs=small)
    G.requires_grad_(False)
    D = networks.Discriminator(c_dim, RES, 3, **small).requires_grad_(False)
    preset = settings.pop('preset', 'paper')
    kd = Distillation(teacher, D.feature_dim, methods, TEXTS, PRESETS[preset]._replace(**settings), cache,
                      targets=targets, batch_size=batch_size)
    loss = StyleGAN2Loss('cpu', G.mapping, G.synthesis, D, augment, style_mixing_prob=0, terms=dict(kd=kd))
    return G, D, kd, loss


def step(loss, phase, G, D, kd, cur_nimg=0, **kwargs):
    module = G if phase[0] == 'G' else D
    module.requires_grad_(True)
    kd.requires_grad_(phase[0] == 'D')
    for p in [*G.parameters(), *D.parameters(), *kd.parameters()]:
        p.grad = None
    rng = torch.Generator().manual_seed(5)
    c = torch.zeros(N, 0)
    args = dict(real_img=torch.rand(N, 3, RES, RES, generator=rng) * 2 - 1, real_c=c,
                gen_z=torch.randn(N, 8, generator=rng), gen_c=c, gain=1)
    torch.manual_seed(11)
    loss.start_step(cur_nimg)
    loss.accumulate_gradients(phase, **{**args, **kwargs})
    module.requires_grad_(False)


def size(module):
    """Sum of absolute gradients."""
    return sum(p.grad.abs().sum().item() for p in module.parameters() if p.grad is not None)


def without_kd(G, D):
    return StyleGAN2Loss('cpu', G.mapping, G.synthesis, D, style_mixing_prob=0)


def reported_losses(run):
    """Names, without Loss/, of what the terms report while `run()` does."""
    names = []
    original = training_stats.report
    training_stats.report = lambda name, value: names.append(name) or value
    try:
        run()
    finally:
        training_stats.report = original
    return {name.removeprefix('Loss/') for name in names if name.startswith('Loss/KD/')}
