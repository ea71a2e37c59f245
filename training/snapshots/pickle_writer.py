"""Writes pickles that open in the reference implementation (StyleGAN2-ADA PyTorch, StyleGAN3) and in tools built on it.

In such pickles every object carries the source text of its class. The text written here is that of this project's
network classes, which use only the public API of the reference implementation's `torch_utils`.
"""

import ast
import copy
import inspect
import json
import pickle
from collections import OrderedDict

from dnnlib import EasyDict, UnusableFile, UserError, files
from dnnlib.published import without_folders
from torch_utils.ops import scaled_bias_act
from torch_utils.persistence import STORAGES, PickledObject, PickledParameter, PickledTensor

from ..networks import architectures, blocks, stylegan2_discriminator, stylegan2_generator, stylegan2_layers
from ..networks.blocks import Block, NotIncluded
from ..networks.stylegan2 import precision_of
from . import info as snapshot_info
from .arguments import described, laid_out
from .pickle_pytorch import BFLOAT16_RES

PROTOCOL = 4                    # Python 3.4 and later
NAMES = ('G', 'D', 'G_ema')
SOURCES = (blocks, stylegan2_layers, stylegan2_generator, stylegan2_discriminator)
HEADER = '# The networks of KD-DLGAN (Apache License 2.0) as they travel in a pickle.\n\n'
# Only this project has this operator: its composition travels
OWN_OPERATOR = 'from torch_utils.ops.scaled_bias_act import scaled_bias_act'
FOOTER = '\n\n\nFLOAT32_CHANNELS_LAST = False          # as in StyleGAN2-ADA, for tools that use the parts of a block\n'
HOOKS = ('_backward_hooks', '_forward_hooks', '_forward_pre_hooks', '_state_dict_hooks', '_load_state_dict_pre_hooks')


def write(path, tensors, info):
    """Writes `G`, `D`, `G_ema`, in eval mode and without gradients, and `training_set_kwargs`. The same input gives the
    same bytes.

    Args:
        tensors: {'G_ema.synthesis.b4.const': tensor, ...}.
        info:    {'networks': {name: {'class_name': ..., constructor arguments}}, 'training': record of the run}, as in
                 our snapshots. A network that is not there becomes a `NotIncluded`.
    Raises:      UserError if a network is not one of this project's, its tensors are other ones, or the file cannot be
                 written.
    """
    source = module_source()
    left = dict(tensors)
    try:
        info = snapshot_info.check(info)
        training = without_folders(info['training'])
        snapshot = dict(training_set_kwargs=_easy(training.get('options', {}).get('training_set_kwargs')))
        for name in NAMES:
            snapshot[name] = _pickled(_build(name, info['networks'].get(name)), name, left, source)
        if left:
            raise UnusableFile(f'no network has the tensor {min(left)}')
    except UnusableFile as err:
        raise UserError(f'{path}: cannot be written: {err}; use another snapshot') from err
    snapshot.update(augment_pipe=None, kdgan_training=json.dumps(training))
    with files.atomic_path(path) as temp, open(temp, 'wb') as f:
        pickle.dump(snapshot, f, protocol=PROTOCOL)


def module_source():
    """The source text that travels: the files of the networks as one module."""
    imports, bodies = {}, []
    for module in SOURCES:
        text = inspect.getsource(module)
        docstring, *statements = ast.parse(text).body
        last = docstring
        while isinstance(statements[0], (ast.Import, ast.ImportFrom)):
            last = statements.pop(0)
            if not getattr(last, 'level', 0):               # their other imports are in the text
                imports[ast.unparse(last)] = None
        bodies.append('\n'.join(text.splitlines()[last.end_lineno:]).strip('\n'))
    imports.pop(OWN_OPERATOR)
    bodies.append(inspect.getsource(scaled_bias_act.composed).replace('def composed',
                                                                      'def scaled_bias_act').strip('\n'))
    return HEADER + '\n\n\n'.join(['\n'.join(imports), *bodies]) + FOOTER


def _build(name, kwargs):
    """The network without memory for its tensors, with the arguments that the reference implementation knows."""
    if kwargs is None:
        return NotIncluded()
    kwargs = described(kwargs, name)
    row = architectures.of_class(kwargs['class_name'])
    if 'pickle' not in row.abilities:
        raise UnusableFile(f'{name} is a network of {row.title}: {architectures.ABILITIES["pickle"]}; export.py writes '
                           'ONNX and TorchScript of it')
    kwargs, bfloat16_res = _without_bfloat16(kwargs)
    module = laid_out(kwargs, name)
    if bfloat16_res:
        setattr(module, BFLOAT16_RES, bfloat16_res)         # for our reader; a network made of the arguments has none
    return module


def _without_bfloat16(kwargs):
    """-> (arguments that the reference implementation knows, number of resolutions in bfloat16, which it has not)."""
    kwargs = copy.deepcopy(kwargs)
    layers, block = precision_of(kwargs)
    if block.pop('half_dtype', 'float16') == 'float16':
        return kwargs, 0
    count, layers['num_fp16_res'] = layers.get('num_fp16_res', 0), 0
    return kwargs, count


def _pickled(module, prefix, left, source):
    """A module with the tensors of `left`, which loses them -> what pickles as its counterpart."""
    take = lambda key, like, pickled: None if like is None else pickled(_take(f'{prefix}.{key}', like, left))
    state = {key: _easy(value) for key, value in vars(module).items() if not key.startswith('_')
             or key in ('_init_args', '_init_kwargs')}
    if isinstance(module, Block):
        state['channels_last'] = module.use_fp16 and module.channels_last
    state.update({key: OrderedDict() for key in HOOKS}, _non_persistent_buffers_set=set(), training=False)
    state['_parameters'] = OrderedDict((key, take(key, value, PickledParameter))
                                       for key, value in module._parameters.items())
    state['_buffers'] = OrderedDict((key, take(key, value, PickledTensor)) for key, value in module._buffers.items())
    state['_modules'] = OrderedDict((key, _pickled(child, f'{prefix}.{key}', left, source))
                                    for key, child in module._modules.items())
    return PickledObject(source, type(module).__name__, state)


def _take(name, like, left):
    value = left.pop(name, None)
    if value is None or value.shape != like.shape or value.dtype not in STORAGES:
        found = 'nothing' if value is None else f'{value.dtype} of shape {list(value.shape)}'
        raise UnusableFile(f'the tensor {name} must be floating point of shape {list(like.shape)}, the snapshot '
                           f'has {found}')
    return value


def _easy(value):
    """Plain values with every dictionary an EasyDict, whose entries tools read as attributes."""
    if isinstance(value, dict):
        return EasyDict((key, _easy(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(_easy(item) for item in value)
    if value is not None and type(value) not in (bool, int, float, str):
        raise TypeError(f'{value!r} cannot travel: besides tensors and modules, a module may hold plain values only')
    return value
