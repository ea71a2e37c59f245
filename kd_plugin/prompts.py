"""The texts of CGKD, which distils their correlations with images: a file, a preset, or the data set's class names."""

import os
import re
from typing import NamedTuple

from dnnlib import UserError

CLASS_TEMPLATES = ('a photo of a {}.', 'a blurry photo of a {}.', 'a small photo of a {}.', 'a good photo of the {}.')
TEXT_DIR = os.path.join(os.path.dirname(__file__), 'texts')


class TextPreset(NamedTuple):
    """A file in kd_plugin/texts, and the template that its lines are put into."""
    file: str
    template: str = '{}'
    data_names: tuple[str, ...] = ()        # a data set whose name has one of these as a word is recognised


PRESETS = {
    'obama': TextPreset('obama', data_names=('obama',)),
    'grumpy_cat': TextPreset('grumpy_cat', data_names=('grumpy_cat', 'grumpycat', 'grumpy-cat')),
    'panda': TextPreset('panda', data_names=('panda',)),
    'cifar100': TextPreset('cifar100', CLASS_TEMPLATES[0], data_names=('cifar100', 'cifar-100')),
    'cifar10': TextPreset('cifar10', CLASS_TEMPLATES[0], data_names=('cifar10', 'cifar-10')),
    'imagenet': TextPreset('imagenet', CLASS_TEMPLATES[0], data_names=('imagenet', 'ilsvrc')),
    'cat': TextPreset('cat', data_names=('cat',)),
    'dog': TextPreset('dog', data_names=('dog',)),
    'demo': TextPreset('demo', data_names=('demo',)),
    'generic': TextPreset('generic', CLASS_TEMPLATES[0]),
    'released': TextPreset('cifar10', 'a {}'),          # what the authors' code uses for all data
}


def resolve_texts(spec, dataset_name, class_names=None):
    """The texts of --kd-texts.

    Args:
        spec:         'auto', a preset, or a file with one text per line ('#' starts a comment line).
        dataset_name: 'auto' recognises well-known data sets by it.
        class_names:  names in label order, or None. Preferred by 'auto' where there are at least two.
    Returns:          (list of texts, one line on where they come from).
    Raises:           UserError if it is neither, or the file has no text.
    """
    if spec == 'auto':
        return _auto_texts(dataset_name, class_names)
    if spec in PRESETS:
        return _preset_texts(spec), f'preset {spec!r}'
    if not os.path.isfile(spec):
        raise UserError(f'--kd-texts={spec}: there is no such file and no such preset; presets: auto, '
                        f'{", ".join(PRESETS)}')
    try:
        texts = _read_lines(spec)
    except (UnicodeDecodeError, OSError) as err:
        raise UserError(f'--kd-texts={spec}: cannot be read ({err}); it must be a text file in UTF-8') from err
    if not texts:
        raise UserError(f'--kd-texts={spec}: the file has no text; write one per line')
    return texts, f'file {os.path.basename(spec)}'


def _auto_texts(dataset_name, class_names):
    if class_names is not None and len(class_names) >= 2:
        return [CLASS_TEMPLATES[0].format(name.replace('_', ' '))
                for name in class_names], 'class names of the data set'
    for name, preset in PRESETS.items():
        if any(re.search(rf'(?<![a-z]){part}s?(?![a-z])', dataset_name.lower()) for part in preset.data_names):
            return _preset_texts(name), f'preset {name!r}, recognised by the name of the data set'
    return _preset_texts('generic'), "preset 'generic': nothing is known of the data; --kd-texts=FILE takes your own"


def class_names_of(name):
    """The names, in label order, that the preset `name` puts into its template."""
    return _read_lines(os.path.join(TEXT_DIR, f'{PRESETS[name].file}.txt'))


def _preset_texts(name):
    preset = PRESETS[name]
    return [preset.template.format(line) for line in class_names_of(name)]


def _read_lines(path):
    with open(path, encoding='utf-8') as f:
        lines = [line.strip() for line in f]
    return [line for line in lines if line and not line.startswith('#')]
