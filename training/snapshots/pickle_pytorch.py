"""Networks from pickles of the reference implementation: StyleGAN2-ADA PyTorch, StyleGAN3's files of the same networks,
forks that keep them.

Such a file carries the source text of its classes, which is ignored. The networks are built from our classes with the
stored constructor arguments, and names and shapes of all tensors must be exactly those of our networks. Changes that a
fork made only in the source text are not noticed.
"""

import inspect
import json

from dnnlib import UnusableFile
from dnnlib.published import without_folders
from dnnlib.util import get_obj_by_name
from torch_utils.pickles import reader as safe_pickle

from ..networks.stylegan2 import ARGUMENTS, DISCRIMINATOR, GENERATOR, precision_of
from . import pickle_tensorflow as legacy_tensorflow
from .arguments import Entry, checked, described, laid_out, match, read_entries

CLASSES = {'G_ema': GENERATOR, 'G': GENERATOR, 'D': DISCRIMINATOR}
PARTS = ('MappingNetwork', 'SynthesisNetwork', 'SynthesisBlock', 'SynthesisLayer', 'ToRGBLayer', 'FullyConnectedLayer',
         'Conv2dLayer', 'DiscriminatorBlock', 'DiscriminatorEpilogue', 'MinibatchStdLayer')
BFLOAT16_RES = 'bfloat16_res'   # attribute that our writer adds: how many resolutions are bfloat16 here, float32 there
# Of a network: modules, length of a tensor's name; a generator for 1024x1024 has about 80 modules
MAX_PARTS, MAX_NAME = 1000, 200
NOT_THERE = 'NotIncluded'       # the class that our writer uses in place of a missing network
DATA_ARGUMENTS = ('path', 'use_labels', 'max_size', 'xflip', 'resolution')


def read(source, names=None):
    """Reads a pickle of networks, PyTorch's or TensorFlow's; nothing in it is run.

    Args:
        source: path, or an open binary file that can seek.
        names:  which of 'G_ema', 'G' and 'D' to read; None = all there are.
    Returns:    ({'G_ema.synthesis.b4.const': float32 tensor, ...}, info), as `checkpoint.load` gives for a snapshot of
                ours: info['networks'] has the constructor arguments, info['training'] what is known of the training.
    Raises:     UserError if it cannot be read, is damaged, or holds anything but such networks.
    """
    with safe_pickle.opened(source) as content:
        if isinstance(content, tuple):
            networks, training = legacy_tensorflow.networks(content, names), dict(source='TensorFlow')
        else:
            networks, training = _networks(content, names), _training(content)
        entries = {f'{name}.{key}': entry for name, (_, found) in networks.items() for key, entry in found.items()}
        info = dict(networks={name: kwargs for name, (kwargs, _) in networks.items()}, training=training)
        return read_entries(entries), info


def _networks(content, names):
    """-> {name: (constructor arguments, {key: Entry})}."""
    modules = {name: content.get(name) for name in CLASSES} if isinstance(content, dict) else {}
    modules = {name: module for name, module in modules.items() if module is not None
               and getattr(module, 'class_name', None) != NOT_THERE}
    if not modules:
        raise UnusableFile(f'it holds a {type(content).__name__}, not the networks G_ema, G and D that a snapshot has')
    result = {}
    for name, module in modules.items():
        if names is None or name in names:
            kwargs = _arguments(name, module)
            result[name] = kwargs, match(_entries(module, name), laid_out(kwargs, name), name)
    return result


def _arguments(name, module):
    """The arguments our class takes, with the defaults that differ between versions of the reference implementation
    filled in."""
    target = CLASSES[name]
    if not isinstance(module, safe_pickle.Instance) or module.class_name != target.rpartition('.')[2]:
        what = (f'an object of the class {module.class_name[:200]!r}' if isinstance(module, safe_pickle.Instance)
                else f'a {type(module).__name__}')
        raise UnusableFile(f'{name} is {what}, not a {target.rpartition(".")[2]} of StyleGAN2')
    if _part(module, 'synthesis', 'input') is not None:
        raise UnusableFile(f'{name} is the alias-free generator of StyleGAN3 (training.networks_stylegan3, its '
                           '--cfg=stylegan3-t and -r), which this project does not have; networks of StyleGAN2 are '
                           'read, also those of its --cfg=stylegan2')
    args, kwargs = module.state.get('_init_args', ()), module.state.get('_init_kwargs')
    order = list(inspect.signature(get_obj_by_name(target)).parameters)
    if type(args) is not tuple or type(kwargs) is not dict or len(args) > len(order):
        raise UnusableFile(f'{name} does not say what it was made with')
    kwargs = dict(zip(order, args, strict=False)) | kwargs
    kwargs = checked(_nested(kwargs) if target == GENERATOR else kwargs, ARGUMENTS[target], name)
    if not {'c_dim', 'img_resolution', 'img_channels'} <= set(kwargs):
        raise UnusableFile(f'{name} does not say for which images it was made')
    kwargs = _with_defaults(name, module, kwargs)
    kwargs = dict(class_name=target, **kwargs)
    if BFLOAT16_RES in module.state:
        layers, block = precision_of(kwargs)
        layers['num_fp16_res'], block['half_dtype'] = module.state[BFLOAT16_RES], 'bfloat16'
    return described(kwargs, name)


def _nested(kwargs):
    """In the StyleGAN3 code and its forks, the arguments of the synthesis network are among the others."""
    allowed = ARGUMENTS[GENERATOR]['synthesis_kwargs']
    flat = {key: value for key, value in kwargs.items() if key in allowed}
    if not flat or kwargs.get('synthesis_kwargs') is not None:
        return kwargs
    return {key: value for key, value in kwargs.items() if key not in flat} | dict(synthesis_kwargs=flat)


def _with_defaults(name, module, kwargs):
    """StyleGAN2-ADA and StyleGAN3 have other defaults for half precision, the clamp and the average of w: missing
    values are read from the parts."""
    path = f'b{kwargs["img_resolution"]}', 'conv1', 'conv_clamp'
    if name == 'D':
        _fill(kwargs, ARGUMENTS[DISCRIMINATOR], name, num_fp16_res=_half_blocks(module),
              conv_clamp=_attribute(module, *path))
        return kwargs
    synthesis, mapping = _part(module, 'synthesis'), kwargs.setdefault('mapping_kwargs', {})
    allowed = ARGUMENTS[GENERATOR]
    _fill(mapping, allowed['mapping_kwargs'], name, w_avg_beta=_attribute(module, 'mapping', 'w_avg_beta'))
    _fill(kwargs.setdefault('synthesis_kwargs', {}), allowed['synthesis_kwargs'], name,
          num_fp16_res=_half_blocks(synthesis),
          conv_clamp=_attribute(synthesis, *path))
    return kwargs


def _fill(kwargs, allowed, name, **found):
    kwargs.update(checked({key: value for key, value in found.items() if value is not None and key not in kwargs},
                          allowed, name))


def _part(module, *path):
    """A module inside a module, None if it is not there."""
    for key in path:
        parts = module.state.get('_modules') if isinstance(module, safe_pickle.Instance) else None
        module = parts.get(key) if isinstance(parts, dict) else None
    return module


def _attribute(module, *path):
    part = _part(module, *path[:-1])
    return part.state.get(path[-1]) if isinstance(part, safe_pickle.Instance) else None


def _half_blocks(module):
    """How many blocks of a network work in half precision."""
    parts = module.state.get('_modules') if isinstance(module, safe_pickle.Instance) else None
    return sum(_attribute(module, key, 'use_fp16') is True for key in parts) if isinstance(parts, dict) else None


def _entries(module, where):
    """Parameters and buffers of a network and its parts -> {key: Entry}. Raises UnusableFile for a part that our
    networks do not have."""
    found, pending, visited = {}, [('', module)], 0
    while pending:
        prefix, part = pending.pop()
        visited += 1
        if not isinstance(part, safe_pickle.Instance) or (visited > 1 and part.class_name not in PARTS):
            what = (f'an object of the class {part.class_name[:200]!r}' if isinstance(part, safe_pickle.Instance)
                    else f'a {type(part).__name__}')
            raise UnusableFile(f'{where}.{prefix[:-1]} is {what}, which the networks of StyleGAN2 do not have')
        # A part may be inside itself, or there many times
        if visited > MAX_PARTS or len(prefix) > MAX_NAME:
            raise UnusableFile(f'{where} has more than {MAX_PARTS} parts, or parts inside parts without end')
        for key, value in [*_items(part, '_parameters', where), *_items(part, '_buffers', where)]:
            if not isinstance(value, safe_pickle.Tensor):
                raise UnusableFile(f'{where}.{prefix}{key} is a {type(value).__name__}, not a tensor')
            found[prefix + key] = Entry(value.shape, value.storage.span, value.read)
        pending += [(f'{prefix}{key}.', value) for key, value in _items(part, '_modules', where)]
    return found


def _items(module, kind, where):
    """The entries of one dictionary of a module that are not None."""
    items = module.state.get(kind, {})
    if type(items) is not dict or len(items) > 100 or any(type(key) is not str or len(key) > 100 for key in items):
        raise UnusableFile(f'{where} has {kind} that no network has')
    return [(key, value) for key, value in items.items() if value is not None]


def _training(content):
    """What the file says about the training: our own record, or else how the data were read."""
    record = content.get('kdgan_training')
    if isinstance(record, str):
        try:
            record = json.loads(record)
        except (ValueError, RecursionError) as err:
            raise UnusableFile('its record of the training is damaged') from err
        if isinstance(record, dict):
            return without_folders(record)
    data = content.get('training_set_kwargs')
    data = {key: data[key] for key in DATA_ARGUMENTS
            if type(data.get(key)) in (str, int, bool)} if isinstance(data, dict) else {}
    return dict(source='StyleGAN2-ADA PyTorch', options=dict(training_set_kwargs=without_folders(data)))
