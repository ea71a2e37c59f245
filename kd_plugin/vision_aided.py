"""Vision-aided training: further discriminators on the features of frozen networks (Kumari et al., "Ensembling
Off-the-shelf Models for GAN Training", CVPR 2022)."""

from typing import Callable, NamedTuple

import click
import torch

from dnnlib import UserError
from dnnlib.commands import FiniteRange
from dnnlib.errors import refuse_idle
from dnnlib.util import split_names
from torch_utils import distributed
from training.augment.diffaugment import DiffAugment, parse_policy
from training.config.build import half_suits
from training.gan_losses import GAN_LOSSES
from training.loss_terms import Term
from training.methods.method import Method, check_begins, has_one_pass, iterations_in_kimg

from .teacher import check_name, load_for_training
from .teachers.feature_levels import FeatureLevels, LastLevel
from .vision_heads import BigGANHead, EqualisedHead, NormalisedHead, widths

F = torch.nn.functional
ALIASES = dict(clip='ViT-B/32', dino='hf:facebook/dinov2-base')
REAL_LABEL = 0.8                # the source's wherever the images of the teachers go through DiffAugment
WARMUP = 100.0                  # kimg
BIGGAN_WARMUP = 2000            # iterations


class Logistic(NamedTuple):
    """Cross-entropy of each logit, 0 for fakes and `real_label` for reals: below 1 it is smoothed, in both steps."""
    real_label: float

    def fake(self, logits):
        """In the D step."""
        return F.softplus(logits)

    def real(self, logits):
        """In the D step: -t log(sigmoid) - (1 - t) log(1 - sigmoid)."""
        return F.softplus(logits) - self.real_label * logits

    def generator(self, logits):
        """In the G step, whose fakes are to have the label of reals."""
        return self.real(logits)


class Hinge:
    """The hinge loss with the methods of `Logistic`; there is no label."""
    fake, real, generator = [staticmethod(part) for part in GAN_LOSSES['hinge']]

    def __init__(self, _real_label):
        pass


def level_heads(head, levels, c_dim):
    """A `head` on each level of a teacher."""
    hidden, stride = widths(levels.sides)
    kinds = [(channels, i < len(levels.sides)) for i, channels in enumerate(levels.channels)]
    return [head(channels, is_map, c_dim, hidden, stride) for channels, is_map in kinds]


class Recipe(NamedTuple):
    """A row of the table.

    levels: teacher -> what makes a list of features of images, one for each head.
    heads:  (those levels, c_dim) -> the heads, modules of a feature and the labels.
    loss:   label of reals -> what has the methods of `Logistic`, which keep the shape of the logits.
    one_pass: whether fakes and reals of a step of D count as one pass of the spectral norms.
    """
    levels: Callable
    heads: Callable
    loss: Callable = Logistic
    one_pass: bool = False


def _all_levels(teacher):
    return FeatureLevels(teacher, teacher.encode_image_by_area)


# The source's programs: its StyleGAN2 and the package vision_aided_loss with multi-level features, its BigGAN.
RECIPES = {
    'stylegan2': Recipe(_all_levels, lambda levels, c_dim: level_heads(EqualisedHead, levels, c_dim)),
    'package': Recipe(_all_levels, lambda levels, c_dim: level_heads(NormalisedHead, levels, c_dim)),
    'biggan': Recipe(LastLevel, lambda level, c_dim: [BigGANHead(level.channels, level.side, c_dim)], Hinge, True),
}
DEFAULT_RECIPE = 'stylegan2'


class VisionAided(Term):
    """A head on every level of every teacher, or on its end alone, and a loss for each, the mean over the positions of
    a map; all summed.

    In the D step it trains the heads, in the G step G.

    The images are those before D's augmentation, under a DiffAugment of this term's own. In the D step the teachers run
    without gradient; in the G step it passes through them to the images.

    Args:
        teachers: names of teachers (`kd_plugin.teacher.load_teacher`).
        recipe:   row of `RECIPES`.
        real_label: of reals in the D step and of fakes in the G step; 1 = no smoothing.
        weight:   of the sum.
        warmup:   thousands of images before the term takes part.
        policy:   of the DiffAugment.
        fp32:     no half precision in the teachers.
    """

    has_teacher = True

    def __init__(self, teachers, recipe=DEFAULT_RECIPE, real_label=REAL_LABEL, weight=1.0, warmup=WARMUP,
                 policy='color,translation,cutout', fp32=True):
        super().__init__()
        self.names, self.weight, self.warmup_nimg, self.fp32 = teachers, weight, warmup * 1000, fp32
        self.recipe, self.loss = RECIPES[recipe], RECIPES[recipe].loss(real_label)
        self.augment = DiffAugment(policy)
        self.active = False

    def bind(self, loss):
        device = loss.pl_mean.device
        teachers = [load(name, device, self.fp32) for name in self.names]       # travel by name: not trained, not saved
        self.teachers = [self.recipe.levels(teacher) for teacher in teachers]
        heads = [torch.nn.ModuleList(self.recipe.heads(levels, loss.D.c_dim)) for levels in self.teachers]
        self.heads = torch.nn.ModuleList(heads).to(device)

    def start_step(self, cur_nimg):
        self.active = cur_nimg >= self.warmup_nimg

    def d_fake(self, step):
        return self._term('fake', step.gen_img, step.gen_c, frozen=True)

    def d_real(self, step):
        return self._term('real', step.real_img, step.real_c, frozen=True)

    def g_main(self, step):
        return self._term('generator', step.gen_img, step.gen_c, frozen=False)

    def _term(self, kind, img, c, frozen):
        """{name: [N]}; kind = method of the loss; `frozen` = no gradient to the images."""
        if not self.active:
            return {}
        loss, total = getattr(self.loss, kind), 0
        if self.recipe.one_pass:
            self.heads.train(kind != 'fake')            # the pass over the reals stores the iteration of both
        for levels, heads in zip(self.teachers, self.heads, strict=True):
            with torch.set_grad_enabled(not frozen):
                feats = levels(self.augment(img))
            total = total + sum(loss(head(x, c)).flatten(1).mean(1) for x, head in zip(feats, heads, strict=True))
        return {f'VisionAided/{kind}': total * self.weight}


def load(name, device='cpu', fp32=True):
    """The teacher called `name`, downloaded by one process at a time. Raises UserError if it cannot be had."""
    with distributed.main_process_first():
        return load_for_training(name, device, fp32, '--vision-aided')


def _configure(opts, config, _dataset):
    names = [ALIASES.get(name, name) for name in split_names(opts.vision_aided)]
    if not names or len(set(names)) < len(names):
        raise UserError(f'--vision-aided={opts.vision_aided}: name different teachers, such as clip or clip,dino')
    biggan = has_one_pass(config)
    usual = iterations_in_kimg(config, BIGGAN_WARMUP) if biggan else WARMUP
    warmup = usual if opts.vision_aided_warmup is None else opts.vision_aided_warmup
    recipe = opts.vision_aided_recipe or ('biggan' if biggan else DEFAULT_RECIPE)
    if recipe == 'biggan':
        refuse_idle('with --vision-aided-recipe=biggan, whose hinge loss knows no label',
                    vision_aided_real_label=opts.vision_aided_real_label)
    check_begins('--vision-aided-warmup', warmup, config)
    if opts.vision_aided_policy is not None:
        parse_policy(opts.vision_aided_policy, '--vision-aided-policy')
    return dict(teachers=names, recipe=recipe, warmup=warmup, fp32=not half_suits(opts, config.device))


def _check_names(kwargs):
    for name in kwargs['teachers']:
        check_name(name, '--vision-aided')


def _check(kwargs, _config):
    for name in kwargs['teachers']:
        load(name)


METHOD = Method('vision_aided', 'kd_plugin.vision_aided.VisionAided', [
    click.option('--vision-aided', help='Further discriminators on these frozen teachers: clip, dino, or names as for '
                                        '--kd-teacher', metavar='LIST'),
    click.option('--vision-aided-recipe', type=click.Choice(list(RECIPES)),
                 help=f'Program of the source that the heads follow  [default: {DEFAULT_RECIPE}, or biggan for '
                      'BigGAN]'),
    click.option('--vision-aided-real-label', type=FiniteRange(0.5, 1, min_open=True),
                 help=f'Label of reals, in the D step and for G; 1 = not smoothed  [default: {REAL_LABEL}]'),
    click.option('--vision-aided-weight', help='Weight of the vision-aided discriminators  [default: 1]',
                 type=FiniteRange(min=0, min_open=True)),
    click.option('--vision-aided-warmup', help='Thousands of images before the vision-aided discriminators take part  '
                                               '[default: 100, or 2000 iterations for BigGAN]',
                 type=FiniteRange(min=0), metavar='KIMG'),
    click.option('--vision-aided-policy', help='DiffAugment of the vision-aided discriminators  [default: '
                                               'color,translation,cutout]', metavar='LIST'),
], configure=_configure, check_names=_check_names, check=_check)
