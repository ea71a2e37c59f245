"""Constructor arguments of networks that a file describes, checked, and the tensors that must go with them.

An argument that our classes do not have is dropped, with a warning, where it is off (None, False, 0, empty), and refused otherwise: names and
shapes of tensors cannot show whether it changes the images.
"""

import math
import warnings
from typing import Callable, NamedTuple

import torch

import dnnlib
from dnnlib import UnusableFile
from torch_utils import misc
from torch_utils.ops.bias_act import activation_funcs
from torch_utils.pickles.machine import Span

CLASSES = GENERATOR, DISCRIMINATOR = 'training.networks.Generator', 'training.networks.Discriminator'
HARMLESS = ('fused_modconv_default', 'channels_last')       # how a result is computed, not what it is
MAX_ARGUMENTS = 60              # of a network or a part of it, settings that are dropped included
MAX_SHARING = 8                 # tensors that use the same bytes: G, G_ema and D in two precisions at most


class Entry(NamedTuple):
    """A tensor that is still in the file."""
    shape: tuple | None         # None = it has another number of dimensions than its kind has
    span: Span | None           # where the file has it; None = made from an argument
    read: Callable[[], torch.Tensor]


def whole(low, high):
    return lambda value: type(value) is int and low <= value <= high


def number(low, high):
    return lambda value: type(value) in (int, float) and low <= value <= high         # NaN is in no range


def one_of(*values):
    return lambda value: type(value) in (str, int) and value in values


def optional(check):
    return lambda value: value is None or check(value)


def flag(value):
    return type(value) is bool


def taps(value):
    return type(value) is list and 1 <= len(value) <= 64 and all(number(-1e6, 1e6)(tap) for tap in value) and sum(value) != 0


width, architecture, activation = whole(0, 1 << 14), one_of('orig', 'skip', 'resnet'), one_of(*activation_funcs)
IMAGE = dict(c_dim=width, img_resolution=one_of(*[2 ** i for i in range(2, 13)]), img_channels=whole(1, 64))
LAYERS = dict(channel_base=whole(1, 1 << 24), channel_max=whole(1, 1 << 14), num_fp16_res=whole(0, 16), conv_clamp=optional(number(0, 1e9)),
              architecture=architecture)
BLOCK = dict(resample_filter=optional(taps), activation=activation, half_dtype=one_of('float16', 'bfloat16'), fp16_channels_last=flag)
MAPPING = dict(num_layers=whole(0, 64), embed_features=optional(width), layer_features=optional(width), activation=activation,
               lr_multiplier=number(1e-9, 1e9))
ARGUMENTS = {                   # what each may be; a dictionary = the arguments of a part
    GENERATOR: dict(IMAGE, z_dim=width, w_dim=whole(1, 1 << 14), mapping_kwargs=dict(MAPPING, w_avg_beta=optional(number(0, 1))),
                    synthesis_kwargs=dict(LAYERS, **BLOCK, kernel_size=one_of(1, 3, 5, 7), use_noise=flag)),
    DISCRIMINATOR: dict(IMAGE, **LAYERS, cmap_dim=optional(width), mapping_kwargs=MAPPING, block_kwargs=dict(BLOCK, freeze_layers=whole(0, 1000)),
                        epilogue_kwargs=dict(mbstd_group_size=optional(whole(1, 1 << 16)), mbstd_num_channels=whole(0, 64), activation=activation)),
}


def checked(kwargs, allowed, where):
    """The arguments our classes take, as JSON has them. Raises UnusableFile for one that they do not take, or not with this value."""
    if len(kwargs) > MAX_ARGUMENTS:
        raise UnusableFile(f'{where} has {len(kwargs):,} arguments, far more than a network takes')
    result = {}
    for key, value in kwargs.items():
        value = list(value) if type(value) is tuple else value
        rule = allowed.get(key)
        if isinstance(rule, dict) and (value is None or isinstance(value, dict)):
            result[key] = checked(value or {}, rule, f'{where}.{key}')
        elif callable(rule) and rule(value):
            result[key] = value
        elif rule is not None:
            raise UnusableFile(f'{where} has the argument {key}={_short(value)}, which no such network can have')
        elif key not in HARMLESS:
            _drop(str(key)[:100], value, where)
    return result


def _drop(key, value, where):
    if value:
        raise UnusableFile(f'{where} has the argument {key!r} ({_short(value)}), which this project does not know: it may change the images')
    warnings.warn(f'{where}: the argument {key!r} ({_short(value)}) is unknown here and left out, as it is off', RuntimeWarning, stacklevel=2)


def _short(value):
    """A value for a message: content of unknown depth is not printed."""
    return repr(value)[:100] if type(value) in (int, float, bool, str, type(None)) else f'a {type(value).__name__}'


def described(kwargs, where):
    """What a file says of a network -> {'class_name': ..., arguments}, checked. Raises UnusableFile for anything but a network of ours."""
    class_name = kwargs.get('class_name')
    if class_name not in CLASSES:
        raise UnusableFile(f'it asks for the class {class_name!r}; only {" and ".join(CLASSES)} are built from a file')
    arguments = {key: value for key, value in kwargs.items() if key != 'class_name'}
    return dict(class_name=class_name, **checked(arguments, ARGUMENTS[class_name], where))


def precision_of(kwargs):
    """-> the tables among the arguments that have num_fp16_res, and half_dtype; made where they are missing."""
    if kwargs['class_name'] == GENERATOR:
        table = kwargs.setdefault('synthesis_kwargs', {})
        return table, table
    return kwargs, kwargs.setdefault('block_kwargs', {})


def laid_out(kwargs, where):
    """A network of ours without memory: filters have their values, all other tensors a shape only."""
    try:
        with misc.ShapesOnly():
            return dnnlib.util.construct_class_by_name(**kwargs)
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as err:
        raise UnusableFile(f'{where} cannot be built with its arguments ({str(err).splitlines()[0][:200]})') from err


def match(entries, module, where):
    """Orders {name: tensor or `Entry`} as the state of a network. Raises UnusableFile unless names and shapes are exactly the same."""
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    for key, shape in shapes.items():
        if key not in entries:
            raise UnusableFile(f'{where} lacks the tensor {key!r}')
        if entries[key].shape != shape:
            raise UnusableFile(f'{where} has the tensor {key!r} with shape {entries[key].shape}; its arguments ask for {shape}')
    if extra := [key for key in entries if key not in shapes]:
        raise UnusableFile(f'{where} has the tensor {extra[0][:200]!r}, which such a network does not have')
    return {key: entries[key] for key in shapes}


def read_entries(entries):
    """{name: `Entry`} -> {name: float32 tensor}."""
    spans = {(id(entry.span.file), entry.span.start): entry.span.size for entry in entries.values() if entry.span is not None}
    wanted = sum(4 * math.prod(entry.shape) for entry in entries.values() if entry.span is not None)
    if wanted > MAX_SHARING * sum(spans.values()):
        raise UnusableFile(f'it uses the same {sum(spans.values()):,} bytes for {len(entries)} tensors')
    return {key: entry.read().to(torch.float32) for key, entry in entries.items()}
