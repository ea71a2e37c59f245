"""The augmentations of train.py (--aug): rows of a table, each with the options that go with it and the configuration that it makes."""

from typing import Callable, NamedTuple

from dnnlib import UserError

from .augment import augpipe_specs
from .diffaugment import POLICIES, parse_policy


class Augmentation(NamedTuple):
    """A row of the table.

    options:   names of the options that concern it.
    configure: (opts) -> what joins the configuration.
    """
    options: tuple
    configure: Callable


def _pipe(opts):
    return dict(class_name='training.augment.AugmentPipe', **augpipe_specs[opts.augpipe or 'bgc'])


def _ada(opts):
    tuned = dict(ada_kimg=100) if opts.init_from else {}            # a pre-trained D overfits sooner
    return dict(augment_kwargs=_pipe(opts), ada_target=0.6 if opts.target is None else opts.target, **tuned)


def _fixed(opts):
    if opts.p is None:
        raise UserError('--aug=fixed: needs a probability; add --p=0.2 or the like')
    return dict(augment_kwargs=_pipe(opts), augment_p=opts.p) if opts.p > 0 else {}


def _diffaug(opts):
    names = parse_policy(','.join(POLICIES) if opts.diffaug_policy is None else opts.diffaug_policy)
    return dict(augment_kwargs=dict(class_name='training.diffaugment.DiffAugment', policy=','.join(names)))


AUGMENTATIONS = {
    'noaug': Augmentation((), lambda opts: {}),
    'ada': Augmentation(('target', 'augpipe'), _ada),
    'fixed': Augmentation(('p', 'augpipe'), _fixed),
    'diffaug': Augmentation(('diffaug_policy',), _diffaug),
}
DEFAULT = 'ada'


def add_augmentation(config, opts):
    """Raises UserError for options that have no effect with the augmentation chosen."""
    chosen = opts.aug or DEFAULT
    for option in sorted({option for row in AUGMENTATIONS.values() for option in row.options}):
        if opts[option] is not None and option not in AUGMENTATIONS[chosen].options:
            users = ' or '.join(f'--aug={name}' for name, row in AUGMENTATIONS.items() if option in row.options)
            raise UserError(f'--{option.replace("_", "-")}={opts[option]}: has no effect with --aug={chosen}; it goes with {users}')
    config.update(AUGMENTATIONS[chosen].configure(opts))
