"""The augmentations of train.py (--aug): rows of a table, each with its options and the configuration that it makes."""

from typing import Callable, NamedTuple

import click

from dnnlib import EasyDict, UserError
from dnnlib.commands import FiniteRange
from dnnlib.errors import refuse_idle

from ..augment.ada import INTERVAL, KIMG, PRETRAINED_KIMG
from ..augment.diffaugment import POLICIES, parse_policy
from ..augment.pipe import augpipe_specs
from ..methods.method import flag
from .build import as_number


class Augmentation(NamedTuple):
    """A row of the table.

    options:   {name: arguments of `click.option`} of the options that concern it; rows may share one.
    configure: (opts) -> entries of the configuration. Raises UserError for values that make no sense.
    """
    options: dict
    configure: Callable


def _pipe(opts):
    return dict(class_name='training.augment.AugmentPipe', **augpipe_specs[opts.augpipe or 'bgc'])


def _ada(opts):
    kimg = dict(ada_kimg=PRETRAINED_KIMG) if opts.init_from else {}
    return dict(augment_kwargs=_pipe(opts), ada_target=0.6 if opts.target is None else opts.target, **kimg)


def _fixed(opts):
    if opts.p is None:
        raise UserError('--aug=fixed: needs a probability; add --p=0.2 or the like')
    return dict(augment_kwargs=_pipe(opts), augment_p=opts.p) if opts.p > 0 else {}


def _linear(opts):
    if opts.p is None or opts.p_kimg is None:
        raise UserError('--aug=linear: needs a probability and when it is reached; add --p=0.6 --p-kimg=300 '
                        'or the like')
    return dict(_fixed(opts), augment_ramp_kimg=as_number(opts.p_kimg)) if opts.p > 0 else {}


def _diffaug(opts):
    names = parse_policy(opts.diffaug_policy)
    return dict(augment_kwargs=dict(class_name='training.augment.diffaugment.DiffAugment', policy=','.join(names)))


_AUGPIPE = dict(augpipe=dict(help='Kinds of augmentation  [default: bgc]', type=click.Choice(list(augpipe_specs))))
_TARGET = dict(target=dict(help='Target of ADA  [default: 0.6]', type=FiniteRange(0, 1)))
_P = dict(p=dict(help='Probability for --aug=fixed, and the last one for --aug=linear', type=FiniteRange(0, 1)))
_P_KIMG = dict(p_kimg=dict(help='Thousands of images until --aug=linear reaches --p', metavar='KIMG',
                           type=FiniteRange(min=0, min_open=True)))
_POLICY = dict(diffaug_policy=dict(help=f'Transforms of --aug=diffaug, of {",".join(POLICIES)}  [default: by --cfg, '
                                        'all as a rule]', metavar='LIST'))
AUGMENTATIONS = {
    'noaug': Augmentation({}, lambda opts: {}),
    'ada': Augmentation({**_TARGET, **_AUGPIPE}, _ada),
    'fixed': Augmentation({**_P, **_AUGPIPE}, _fixed),
    'linear': Augmentation({**_P, **_P_KIMG, **_AUGPIPE}, _linear),
    'diffaug': Augmentation(_POLICY, _diffaug),
}
# What the configuration holds where the augmentation does not say otherwise; the last two are of ADA's rule.
ENTRIES = dict(augment_kwargs=None, augment_p=None, augment_ramp_kimg=None, ada_target=None, ada_interval=INTERVAL,
               ada_kimg=KIMG)


def augmentation_options(command):
    """Decorator: adds --aug and the options of all augmentations to a click command."""
    options = {name: arguments for row in AUGMENTATIONS.values() for name, arguments in row.options.items()}
    for name, arguments in reversed(options.items()):
        command = click.option(flag(name), **arguments)(command)
    return click.option('--aug', help='Augmentation  [default: by --cfg, as a rule ada]',
                        metavar='|'.join(AUGMENTATIONS), type=click.Choice(list(AUGMENTATIONS)))(command)


def add_augmentation(config, opts, preset):
    """Raises UserError for options that have no effect with the augmentation chosen."""
    chosen = opts.aug or preset.aug
    for option in sorted({option for row in AUGMENTATIONS.values() for option in row.options}):
        if option not in AUGMENTATIONS[chosen].options:
            users = ' or '.join(f'--aug={name}' for name, row in AUGMENTATIONS.items() if option in row.options)
            refuse_idle(f'with --aug={chosen}', f'it goes with {users}', **{option: opts[option]})
    policy = preset.diffaug_policy if opts.diffaug_policy is None else opts.diffaug_policy
    complete = EasyDict(opts, diffaug_policy=policy)
    config.update({**ENTRIES, **AUGMENTATIONS[chosen].configure(complete)})
    config.ada_interval *= preset.D_steps               # of the signs of all steps of D
