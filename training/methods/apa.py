"""Adaptive pseudo augmentation (APA; Jiang et al., "Deceive D: Adaptive Pseudo Augmentation for GAN Training with
Limited Data", NeurIPS 2021)."""

import click
import torch

from dnnlib import UserError
from dnnlib.commands import FiniteRange
from torch_utils import training_stats

from ..augment.ada import INTERVAL, KIMG, PRETRAINED_KIMG, AdaptiveProbability
from ..loss_terms import Term
from .method import Method, has_one_pass


class AdaptivePseudoAugmentation(Term):
    """Shows D a generated image in the place of each real one with probability `p`, as a real image with the label it
    was generated for.

    The generated images are those of the G phase of the same iteration, micro-batch by micro-batch; D sees them in its
    main step and in its regularisation. Where the fakes of the D step are there already (`StyleGAN2Loss` with
    `one_pass`), they are those, and the labels of the reals stay, as StudioGAN has it. `p` follows the rule of ADA,
    from 0 on, within [0, 1].

    Args:
        target:     the mean sign of D's logits for images shown as real, which `p` is adjusted to hold.
        kimg:       thousands of images in which `p` can move from 0 to 1.
        interval:   iterations between two updates of `p`.
        batch_size: images per iteration, over all processes.
    """

    def __init__(self, batch_size, target=0.6, kimg=KIMG, interval=INTERVAL):
        super().__init__()
        self.register_buffer('p', torch.zeros([]))
        self.rule = dict(target=target, kimg=kimg, interval=interval, batch_size=batch_size)
        self.bank = {}          # micro-batch -> (images, labels) of this iteration's G phase, which comes first

    def bind(self, loss):
        self.controller = AdaptiveProbability(self.p, **self.rule)

    def g_main(self, step):
        self.bank[step.round_idx] = step.gen_img.detach(), step.gen_c
        return {}

    def replace_reals(self, step):
        in_this_step = step.gen_img is not None
        pseudo_img, pseudo_c = (step.gen_img, step.real_c) if in_this_step else self.bank[step.round_idx]
        step.pseudo = torch.rand([len(pseudo_img)], device=self.p.device) < self.p
        step.real_img = torch.where(step.pseudo[:, None, None, None], pseudo_img, step.real_img)
        step.real_c = torch.where(step.pseudo[:, None], pseudo_c, step.real_c)
        training_stats.report('APA/replaced', step.pseudo)

    def finish_step(self, batch_idx):
        self.controller.update(batch_idx)
        training_stats.report('Progress/apa_p', self.p)

    # The signs since the last update of p; all processes must call it.

    def get_extra_state(self):
        return self.controller.state_dict()

    def set_extra_state(self, state):
        self.controller.load_state_dict(state)


def _configure(opts, config, _dataset):
    """The length of ADA's rule, so that with equal targets both probabilities are one."""
    if (config.D_steps != 1 or config.D_first) and not has_one_pass(config):
        when = f'one in {config.D_steps} iterations' if config.D_steps != 1 else 'it after those of D'
        raise UserError('--apa: shows D the fakes of the G step that comes first in an iteration, and '
                        f'--cfg={opts.cfg} takes {when}; leave it out')
    return dict(batch_size=config.batch_size, **(dict(interval=config.ada_interval) if config.D_steps != 1 else {}),
                **(dict(kimg=PRETRAINED_KIMG) if opts.init_from else {}))


METHOD = Method('apa', 'training.methods.apa.AdaptivePseudoAugmentation', [
    click.option('--apa', help='Adaptive pseudo augmentation: generated images among the real ones', is_flag=True),
    click.option('--apa-target', help='Target of APA  [default: 0.6]', type=FiniteRange(0, 1)),
    click.option('--apa-kimg', help='Thousands of images in which its probability can move from 0 to 1  [default: 500, '
                                    'or 100 with --init-from]',
                 type=FiniteRange(min=0, min_open=True), metavar='KIMG'),
], configure=_configure)
