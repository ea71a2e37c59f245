"""Vision-aided training: further discriminators on the features of frozen networks (Kumari et al., "Ensembling Off-the-shelf Models for GAN
Training", CVPR 2022)."""

import click
import torch

from dnnlib import UserError
from dnnlib.util import split_names
from torch_utils import distributed
from training.commands import FiniteRange
from training.config import half_suits
from training.diffaugment import DiffAugment, parse_policy
from training.loss_terms import Term
from training.methods import Method

from .feature_levels import FeatureLevels
from .teacher import load_for_training

F = torch.nn.functional
ALIASES = dict(clip='ViT-B/32', dino='hf:facebook/dinov2-base')
REAL_LABEL = 0.8                # one-sided label smoothing
WARMUP = 100.0                  # kimg


class LevelHead(torch.nn.Module):
    """A small discriminator of one level, spectrally normalised: map [N, C, h, w] or vector [N, C] -> logits [N, 1].

    Convolution 3x3 with stride 2 (a linear layer for a vector) to 256 channels, leaky ReLU, mean over the map, linear; with labels also
    their projection. Weights start as N(0, 0.02).
    """

    def __init__(self, channels, is_map, c_dim=0, hidden=256):
        super().__init__()
        first = torch.nn.Conv2d(channels, hidden, 3, stride=2, padding=1) if is_map else torch.nn.Linear(channels, hidden)
        self.first, self.out = _normalised(first), _normalised(torch.nn.Linear(hidden, 1))
        self.label = _normalised(torch.nn.Linear(c_dim, hidden, bias=False)) if c_dim > 0 else None

    def forward(self, x, c):
        x = F.leaky_relu(self.first(x), 0.2)
        x = x.flatten(2).mean(dim=2) if x.ndim == 4 else x
        return self.out(x) if self.label is None else self.out(x) + (self.label(c) * x).sum(dim=1, keepdim=True)


def _normalised(layer):
    torch.nn.init.normal_(layer.weight, std=0.02)
    return torch.nn.utils.parametrizations.spectral_norm(layer, eps=1e-8)


class VisionAided(Term):
    """A head on every level of every teacher, a logistic loss each, all summed: in the D step for the heads, in the G step for G.

    The images are those before D's augmentation, under a DiffAugment of this term's own. In the D step the teachers run without gradient;
    in the G step it passes through them to the images.

    Args:
        teachers: names of teachers (`kd_plugin.teacher.load_teacher`).
        weight:   of the sum.
        warmup:   thousands of images before the term takes part.
        policy:   of the DiffAugment.
        fp32:     no half precision in the teachers.
    """

    def __init__(self, teachers, weight=1.0, warmup=WARMUP, policy='color,translation,cutout', fp32=True):
        super().__init__()
        self.names, self.weight, self.warmup_nimg, self.fp32 = teachers, weight, warmup * 1000, fp32
        self.augment = DiffAugment(policy)
        self.active = False

    def bind(self, loss):
        device = loss.pl_mean.device
        self.teachers = [FeatureLevels(load(name, device, self.fp32)) for name in self.names]       # travel by name: neither trained nor saved
        self.heads = torch.nn.ModuleList()
        for levels in self.teachers:
            kinds = [(channels, i < len(levels.blocks)) for i, channels in enumerate(levels.channels)]
            self.heads.append(torch.nn.ModuleList([LevelHead(channels, is_map, loss.D.c_dim) for channels, is_map in kinds]).to(device))

    def start_step(self, cur_nimg):
        self.active = cur_nimg >= self.warmup_nimg

    def d_fake(self, step):
        return self._term('fake', fake_loss, step.gen_img, step.gen_c, frozen=True)

    def d_real(self, step):
        return self._term('real', real_loss, step.real_img, step.real_c, frozen=True)

    def g_main(self, step):
        return self._term('generator', generator_loss, step.gen_img, step.gen_c, frozen=False)

    def _term(self, kind, loss, img, c, frozen):
        """{name: [N]}; `frozen` = no gradient to the images."""
        if not self.active:
            return {}
        total = 0
        for levels, heads in zip(self.teachers, self.heads, strict=True):
            with torch.set_grad_enabled(not frozen):
                feats = levels(self.augment(img))
            total = total + sum(loss(head(x, c)) for x, head in zip(feats, heads, strict=True))
        return {f'VisionAided/{kind}': total.flatten() * self.weight}


def fake_loss(logits):
    """-log(1 - sigmoid)."""
    return F.softplus(logits)


def real_loss(logits):
    """Cross-entropy with the label `REAL_LABEL`."""
    return REAL_LABEL * F.softplus(-logits) + (1 - REAL_LABEL) * F.softplus(logits)


def generator_loss(logits):
    """-log sigmoid."""
    return F.softplus(-logits)


def load(name, device='cpu', fp32=True):
    """The teacher called `name`, downloaded by one process at a time. Raises UserError if it cannot be had."""
    with distributed.main_process_first():
        return load_for_training(name, device, fp32, '--vision-aided')


def _configure(opts, config):
    names = [ALIASES.get(name, name) for name in split_names(opts.vision_aided)]
    if not names or len(set(names)) < len(names):
        raise UserError(f'--vision-aided={opts.vision_aided}: name different teachers, such as clip or clip,dino')
    warmup = WARMUP if opts.vision_aided_warmup is None else opts.vision_aided_warmup
    if warmup >= config.total_kimg:
        raise UserError(f'--vision-aided-warmup={warmup:g}: the run ends after {config.total_kimg:g} kimg, before the warm-up does; '
                        f'use a shorter one, such as {config.total_kimg / 3:.2g}')
    if opts.vision_aided_policy is not None:
        parse_policy(opts.vision_aided_policy, '--vision-aided-policy')
    return dict(teachers=names, warmup=warmup, fp32=not half_suits(opts, config.device))


def _check(kwargs):
    for name in kwargs['teachers']:
        load(name)


METHOD = Method('vision_aided', 'kd_plugin.vision_aided.VisionAided', [
    click.option('--vision-aided', help='Further discriminators on these frozen teachers: clip, dino, or names as for --kd-teacher', metavar='LIST'),
    click.option('--vision-aided-weight', help='Weight of the vision-aided discriminators  [default: 1]', type=FiniteRange(min=0, min_open=True)),
    click.option('--vision-aided-warmup', help='Thousands of images before the vision-aided discriminators take part  [default: 100]',
                 type=FiniteRange(min=0), metavar='KIMG'),
    click.option('--vision-aided-policy', help='DiffAugment of the vision-aided discriminators  [default: color,translation,cutout]', metavar='LIST'),
], configure=_configure, check=_check)
