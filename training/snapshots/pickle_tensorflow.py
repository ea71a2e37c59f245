"""Networks from pickles of the TensorFlow releases of StyleGAN2 and StyleGAN2-ADA: (G, D, Gs), each a name, arguments
and variables.

Facts of that format: convolutions are stored [height, width, in, out] and correlate, those that enlarge included, where
ours convolve; dense weights are [in, out]; the bias of a modulation lacks the 1; noise maps are numbered from 4x4 up.
Written from the description of the format: no file of these releases was at hand; the tests compare with the formulas
of the layers in numpy. Of conditional networks only those of StyleGAN2-ADA can be read: StyleGAN2 normalises z and the
label together, which our mapping network does not do.
"""

import math
import re

import numpy as np
import torch

from dnnlib import UnusableFile
from torch_utils.pickles import reader as safe_pickle

from ..networks.stylegan2 import ARGUMENTS, DISCRIMINATOR, GENERATOR
from .arguments import Entry, checked, laid_out, match

NAMES = ('G', 'D', 'G_ema')             # the order in the file; G_ema is called Gs there
MAX_VARIABLES = 1000                    # of a network; a generator for 1024x1024 has about 170
CLASS = 'dnnlib.tflib.network.Network'
SETTINGS = ('func_name', 'randomize_noise', 'truncation_psi', 'truncation_cutoff', 'truncation_psi_val',
            'truncation_cutoff_val', 'style_mixing_prob', 'is_training', 'is_validation', 'is_template_graph',
            'return_dlatents', 'fused_modconv', 'mapping_func', 'synthesis_func', 'components')
# We have no other
FIXED = dict(fmap_min=1, fmap_decay=1.0, normalize_latents=True, use_noise=True, dtype='float32',
             dlatent_broadcast=None)

# TensorFlow's argument -> (ours, default there)
COMMON = dict(resolution=('img_resolution', 1024), num_channels=('img_channels', 3), label_size=('c_dim', 0))
LAYERS = dict(fmap_max=('channel_max', 512), num_fp16_res=('num_fp16_res', 0), conv_clamp=('conv_clamp', None))
BLOCK = dict(nonlinearity=('activation', 'lrelu'), resample_kernel=('resample_filter', [1, 3, 3, 1]))
MAPPING = dict(mapping_fmaps=('layer_features', 512), mapping_nonlinearity=('activation', 'lrelu'))

LAYER = r'(weight|bias|noise_strength|noise_const|affine\.weight|affine\.bias)'
G_RULES = [                             # our name -> its place in TensorFlow's names
    (r'mapping\.(w_avg)', 'dlatent_avg'),
    (r'mapping\.embed\.(weight|bias)', 'mapping/LabelEmbed/{0}'),
    (r'mapping\.fc(\d+)\.(weight|bias)', 'mapping/Dense{0}/{1}'),
    (r'synthesis\.b4\.(const)', 'synthesis/4x4/Const/const'),
    (rf'synthesis\.b4\.conv1\.{LAYER}', 'synthesis/4x4/Conv/{0}'),
    (rf'synthesis\.b(\d+)\.conv0\.{LAYER}', 'synthesis/{0}x{0}/Conv0_up/{1}'),
    (rf'synthesis\.b(\d+)\.conv1\.{LAYER}', 'synthesis/{0}x{0}/Conv1/{1}'),
    (rf'synthesis\.b(\d+)\.torgb\.{LAYER}', 'synthesis/{0}x{0}/ToRGB/{1}'),
    (r'synthesis\.b(\d+)\.skip\.(weight)', 'synthesis/{0}x{0}/Skip/{1}'),
]
D_RULES = [
    (r'mapping\.embed\.(weight|bias)', 'LabelEmbed/{0}'),
    (r'mapping\.fc(\d+)\.(weight|bias)', 'Mapping{0}/{1}'),
    (r'b4\.conv\.(weight|bias)', '4x4/Conv/{0}'),
    (r'b4\.fc\.(weight|bias)', '4x4/Dense0/{0}'),
    (r'b4\.out\.(weight|bias)', 'Output/{0}'),
    (r'b(\d+)\.fromrgb\.(weight|bias)', '{0}x{0}/FromRGB/{1}'),
    (r'b(\d+)\.conv0\.(weight|bias)', '{0}x{0}/Conv0/{1}'),
    (r'b(\d+)\.conv1\.(weight|bias)', '{0}x{0}/Conv1_down/{1}'),
    (r'b(\d+)\.skip\.(weight)', '{0}x{0}/Skip/{1}'),
]


def networks(content, names=None):
    """(G, D, Gs) -> {name: (our constructor arguments, {key: Entry})}. Raises UnusableFile unless they are networks of
    StyleGAN2."""
    if (len(content) != 3
        or not all(isinstance(network, safe_pickle.Instance) and network.class_name == CLASS for network in content)):
        raise UnusableFile('it holds a tuple, but not the three networks G, D, Gs of the TensorFlow releases')
    result = {}
    for name, network in zip(NAMES, content, strict=True):
        if names is None or name in names:
            variables, static = _variables(network, name), _state(network, name, 'static_kwargs', dict)
            kwargs = _discriminator(static) if name == 'D' else _generator(static, variables)
            target = DISCRIMINATOR if name == 'D' else GENERATOR
            kwargs = dict(class_name=target, **checked(kwargs, ARGUMENTS[target], name))
            if kwargs['c_dim'] > 0 and not any('LabelEmbed/' in key for key in variables):
                raise UnusableFile(f'{name} is a conditional network of StyleGAN2 in TensorFlow, whose labels enter '
                                   'otherwise; unconditional ones are read, and conditional ones of StyleGAN2-ADA')
            module = laid_out(kwargs, name)
            result[name] = kwargs, match(_entries(variables, module, name), module, name)
    return result


def _state(network, name, key, kind):
    value = (network.state or {}).get(key)
    if type(value) is not kind or (kind is dict and not all(type(entry) is str for entry in value)):
        raise UnusableFile(f'{name} has no {key}')
    return value


def _variables(network, name):
    """{variable: Array}, those of the parts 'mapping' and 'synthesis' under their names."""
    result = {}
    components = _state(network, name, 'components', dict)
    if not set(components) <= {'mapping', 'synthesis'}:
        raise UnusableFile(f'{name} has other parts than mapping and synthesis')
    parts = {'': network, **{f'{key}/': part for key, part in components.items()}}
    for prefix, part in parts.items():
        if not isinstance(part, safe_pickle.Instance) or part.class_name != CLASS:
            raise UnusableFile(f'{name} has a part that is no network')
        items = _state(part, name, 'variables', list)
        if len(items) > MAX_VARIABLES:
            raise UnusableFile(f'{name} has more than {MAX_VARIABLES} variables')
        for item in items:
            named = type(item) is tuple and len(item) == 2 and type(item[0]) is str and len(item[0]) <= 200
            if not named or not isinstance(item[1], safe_pickle.Array):
                raise UnusableFile(f'{name} has a variable that is not a name and an array')
            result[prefix + item[0].removeprefix('G_')] = item[1]
    return result


def _arguments(static, tables):
    """Moves arguments out of `static` -> ours, with TensorFlow's defaults."""
    return {ours: static.pop(key, default) for table in tables for key, (ours, default) in table.items()}


def _rest(static):
    """The remaining arguments: drops settings that are not part of the network, checks those that must have one
    value."""
    for key, value in FIXED.items():
        if key in static and static[key] == value:
            del static[key]
    return {key: value for key, value in static.items() if key not in SETTINGS}


def _channel_base(static):
    """There a layer at resolution r has fmap_base / (r / 2) channels, here channel_base / r."""
    base = static.pop('fmap_base', 16384)
    return int(base * 2) if type(base) in (int, float) and abs(base) < 2 ** 30 and base * 2 == int(base * 2) else base


def _generator(static, variables):
    static = dict(static)
    kwargs = _arguments(static, [COMMON, dict(latent_size=('z_dim', 512), dlatent_size=('w_dim', 512))])
    mapping = _arguments(static, [MAPPING, dict(mapping_layers=('num_layers', 8), mapping_lrmul=('lr_multiplier', 0.01),
                                                dlatent_avg_beta=('w_avg_beta', 0.995))])
    synthesis = _arguments(static, [LAYERS, BLOCK, dict(architecture=('architecture', 'skip'))])
    synthesis['channel_base'] = _channel_base(static)
    return dict(kwargs, mapping_kwargs=mapping, synthesis_kwargs=synthesis, **_rest(static))


def _discriminator(static):
    static = dict(static)
    kwargs = _arguments(static, [COMMON, LAYERS, dict(architecture=('architecture', 'resnet'))])
    block = _arguments(static, [BLOCK])
    mapping = _arguments(static,
                         [MAPPING, dict(mapping_layers=('num_layers', 0), mapping_lrmul=('lr_multiplier', 0.1))])
    epilogue = _arguments(static, [dict(mbstd_group_size=('mbstd_group_size', 4),
                                        mbstd_num_features=('mbstd_num_channels', 1))])
    epilogue['activation'] = block['activation']
    kwargs.update(channel_base=_channel_base(static), block_kwargs=block, mapping_kwargs=mapping,
                  epilogue_kwargs=epilogue)
    return dict(kwargs, **_rest(static))


def _entries(variables, module, name):
    """{our key: Entry} of the whole network. Raises UnusableFile for a variable that no tensor of ours is made from."""
    found, used = {}, set()
    for key, value in module.state_dict().items():
        if key.endswith('resample_filter'):                 # an argument there
            found[key] = Entry(tuple(value.shape), None, lambda value=value: value)
        elif (variable := _variable_name(key, D_RULES if name == 'D' else G_RULES)) in variables:
            used.add(variable)
            found[key] = _entry(key, variables[variable])
    if unused := [variable for variable in variables if variable not in used]:
        raise UnusableFile(f'{name} has the variable {unused[0][:200]!r}, which no network of StyleGAN2 has')
    return found


def _variable_name(key, rules):
    """Our name -> TensorFlow's."""
    for pattern, name in rules:
        if found := re.fullmatch(pattern, key):
            if found[found.lastindex] == 'noise_const':
                res = 4 if found.lastindex == 1 else int(found[1])
                return f'synthesis/noise{2 * int(math.log2(res)) - (5 if "conv0" in key else 4)}'
            return name.format(*found.groups()).replace('affine.', 'mod_')
    return None


def _axes(key, ndim):
    """(number of leading axes of size 1, the axes after them in our order) of a variable with `ndim` dimensions, None
    if it has others."""
    if key.endswith('.const') and ndim == 4:
        return 1, (0, 1, 2)
    if key.endswith('noise_const') and ndim == 4:
        return 2, (0, 1)
    if key.endswith('weight'):
        return {4: (0, (3, 2, 0, 1)), 2: (0, (1, 0))}.get(ndim)             # of a convolution, of a dense layer
    return 0, tuple(range(ndim))


def _entry(key, array):
    shape = array.shape or ()
    found = _axes(key, len(shape))
    if found is None or any(size != 1 for size in shape[:found[0]]):
        return Entry(None, array.span, array.read)
    inner, axes = shape[found[0]:], found[1]
    flip = re.search(r'synthesis\..*\.(conv0|skip)\.weight$', key) is not None     # the layers that enlarge

    def read():
        value = array.read().reshape(inner).transpose(axes)
        value = value[:, :, ::-1, ::-1] if flip else value + 1 if key.endswith('affine.bias') else value
        return torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))
    return Entry(tuple(inner[axis] for axis in axes), array.span, read)
