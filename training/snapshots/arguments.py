"""Constructor arguments of networks that a file describes, checked, and the tensors that must go with them.

An argument that our classes do not have is dropped, with a warning, where it is off (None, False, 0, empty), and
refused otherwise: names and shapes of tensors cannot show whether it changes the images.
"""

import math
import warnings
from typing import Callable, NamedTuple

import torch

import dnnlib
from dnnlib import UnusableFile, UserError
from torch_utils import misc
from torch_utils.pickles.machine import Span

from ..networks import architectures

HARMLESS = ('fused_modconv_default', 'channels_last')       # change how a result is computed, not the result
MAX_ARGUMENTS = 60              # of a network or a part of it, counting settings that are dropped
MAX_SHARING = 8                 # tensors that use the same bytes: G, G_ema and D in two precisions at most


class Entry(NamedTuple):
    """A tensor that is still in the file."""
    shape: tuple | None         # None = it has another number of dimensions than its kind has
    span: Span | None           # place in the file; None = made from an argument
    read: Callable[[], torch.Tensor]


def checked(kwargs, allowed, where):
    """The arguments our classes take, as JSON has them.

    allowed: as `Architecture.arguments` has it for a class.
    Raises UnusableFile for one that they do not take, or not with this value.
    """
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
        raise UnusableFile(f'{where} has the argument {key!r} ({_short(value)}), which this project does not know: it '
                           'may change the images')
    warnings.warn(f'{where}: the argument {key!r} ({_short(value)}) is unknown here and left out, as it is off',
                  RuntimeWarning, stacklevel=2)


def _short(value):
    """A value for a message: content of unknown depth is not printed."""
    return repr(value)[:100] if type(value) in (int, float, bool, str, type(None)) else f'a {type(value).__name__}'


def described(kwargs, where):
    """What a file says of a network -> {'class_name': ..., arguments}, checked.

    Raises UnusableFile for an argument that the class does not take; UnknownArchitecture for a class that no row has.
    """
    class_name = kwargs.get('class_name')
    row = architectures.of_class(class_name)
    arguments = {key: value for key, value in kwargs.items() if key != 'class_name'}
    return dict(class_name=class_name, **checked(arguments, row.arguments[class_name], where))


def check_readable(networks):
    """Before a training: raises UserError unless snapshots with these networks could be read afterwards.

    networks: {name: {'class_name': ..., constructor arguments}}.
    """
    for name, kwargs in networks.items():
        try:
            described(kwargs, f'{name}_kwargs')
        except UnusableFile as err:
            raise UserError(f'{name}_kwargs: snapshots could not be read: {err}; '
                            'make its row in training/networks/architectures.py fit') from err


def precision_of(kwargs):
    """-> (table with num_fp16_res, table with half_dtype) among the arguments, as `Architecture.precision_of`.

    None for a network that is always float32.
    """
    of_row = architectures.of_class(kwargs['class_name']).precision_of
    return None if of_row is None else of_row(kwargs)


def laid_out(kwargs, where):
    """A network that takes no memory: filters have their values, all other tensors only a shape."""
    try:
        with misc.ShapesOnly():
            return dnnlib.util.construct_class_by_name(**kwargs)
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as err:
        raise UnusableFile(f'{where} cannot be built with its arguments ({str(err).splitlines()[0][:200]})') from err


def match(entries, module, where):
    """{name: tensor or `Entry`} in the order of a network's state. Raises UnusableFile unless names and shapes are
    exactly the same."""
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    for key, shape in shapes.items():
        if key not in entries:
            raise UnusableFile(f'{where} lacks the tensor {key!r}')
        if entries[key].shape != shape:
            raise UnusableFile(f'{where} has the tensor {key!r} with shape {entries[key].shape}; its arguments ask '
                               f'for {shape}')
    if extra := [key for key in entries if key not in shapes]:
        raise UnusableFile(f'{where} has the tensor {extra[0][:200]!r}, which such a network does not have')
    return {key: entries[key] for key in shapes}


def read_entries(entries):
    """{name: `Entry`} -> {name: float32 tensor}."""
    spans = {(id(entry.span.file), entry.span.start): entry.span.size for entry in entries.values()
             if entry.span is not None}
    wanted = sum(4 * math.prod(entry.shape) for entry in entries.values() if entry.span is not None)
    if wanted > MAX_SHARING * sum(spans.values()):
        raise UnusableFile(f'it uses the same {sum(spans.values()):,} bytes for {len(entries)} tensors')
    return {key: entry.read().to(torch.float32) for key, entry in entries.items()}
