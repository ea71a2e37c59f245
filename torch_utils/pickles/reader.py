"""Pickles of networks as data: containers, numbers and strings as they are; tensors, arrays and objects as descriptions
of themselves.

The table at the end names every global that a file may mention, and our replacement. None is imported or called.
"""

import contextlib
import io
import math
import os
from typing import NamedTuple

import numpy as np
import torch

from dnnlib import UnusableFile, UserError

from .machine import Budget, Global, Machine, Span

PERSISTENT_VERSION = 6                      # of the format in which StyleGAN2-ADA and StyleGAN3 write objects
STORAGE_HEADER = (0x1950a86a20f9469cfc6c, 1001)     # torch.save before version 1.6: magic number, version
MAX_STORAGE_HEADER = 4096                   # bytes; real ones have about 400
STORAGE_COST = 50                           # instructions that cost as much as to start on a storage
ENTRIES = dict(FloatStorage=torch.float32, HalfStorage=torch.float16, DoubleStorage=torch.float64,
               BFloat16Storage=torch.bfloat16, LongStorage=torch.int64, IntStorage=torch.int32,
               ShortStorage=torch.int16, CharStorage=torch.int8, ByteStorage=torch.uint8, BoolStorage=torch.bool)
ARRAY_DTYPES = ('f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'b1')


@contextlib.contextmanager
def opened(source):
    """Reads a pickle; what it holds may be used, and its tensors and arrays read, inside the `with`.

    Args:
        source: path, or an open binary file that can seek, at the start of the pickle.
    Yields:     the content: dict, list, tuple, set, str, numbers, `Span` for bytes, `Tensor`, `Array`, `Instance`.
    Raises:     UserError if it cannot be read, is damaged, or names anything that is not part of networks; also for a
                `UnusableFile` that is raised inside the `with`.
    """
    path = source if isinstance(source, (str, os.PathLike)) else getattr(source, 'name', 'the pickle')
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(source, 'rb')) if path is source else source
            start = file.tell()
            end = file.seek(0, io.SEEK_END)
            file.seek(start)
            yield Machine(file, end, GLOBALS, Budget()).run()
        except UnusableFile as err:
            raise UserError(f'{path}: {err}') from err
        except OSError as err:
            raise UserError(f'{path}: cannot be read ({err.strerror or err})') from err


class Instance:
    """An object of a class that is known by name only."""
    __slots__ = ('class_name', 'state')

    def __init__(self, class_name, state=None):
        self.class_name = class_name
        self.state = state              # its attributes

    def set_state(self, state):
        if self.state is not None or type(state) is not dict:
            raise TypeError
        self.state = state


class Storage(NamedTuple):
    """The numbers behind tensors."""
    span: Span
    start: int                          # of the numbers, in bytes
    dtype: torch.dtype
    count: int                          # of numbers


class Tensor(NamedTuple):
    """A view of a storage: inside it, without gaps and without a number used twice."""
    storage: Storage
    offset: int                         # like size and stride in numbers
    shape: tuple
    stride: tuple

    def read(self):
        """-> torch.Tensor, contiguous, with memory of its own."""
        storage = self.storage
        data = torch.empty(math.prod(self.shape), dtype=storage.dtype)
        if data.numel() > 0:
            storage.span.readinto(memoryview(data.view(torch.uint8).numpy()),
                                  storage.start + self.offset * data.element_size())
        return data.as_strided(self.shape, self.stride).contiguous()


class DType:
    """What numpy.dtype(...) gives: one of `ARRAY_DTYPES` and a byte order."""
    __slots__ = ('code', 'order')

    def __init__(self, code):
        self.code = code
        self.order = '='

    def set_state(self, state):
        if (type(state) is not tuple or len(state) < 2 or type(state[1]) is not str
            or state[1] not in ('<', '>', '=', '|')):
            raise TypeError
        self.order = state[1]

    @property
    def dtype(self):
        return np.dtype(self.order + self.code)


class Array:
    """A numpy array."""
    __slots__ = ('dtype', 'shape', 'order', 'span')

    def __init__(self):
        self.shape = None

    def set_state(self, state):
        _version, shape, dtype, fortran, span = state
        if (self.shape is not None or not _are_sizes(shape) or not isinstance(dtype, DType)
            or not isinstance(span, Span)):
            raise UnusableFile('it has a numpy array that is not described by sizes, a number type and bytes')
        if math.prod(shape) * dtype.dtype.itemsize != span.size:
            raise UnusableFile(f'it has a numpy array of shape {list(shape)} that has {span.size:,} bytes')
        self.dtype, self.shape, self.order, self.span = dtype.dtype, shape, 'F' if fortran is True else 'C', span

    def read(self):
        """-> numpy.ndarray with memory of its own."""
        if self.shape is None:
            raise UnusableFile('it has a numpy array without content')
        data = np.empty(math.prod(self.shape), self.dtype)
        if data.size > 0:
            self.span.readinto(memoryview(data.view(np.uint8)))
        return data.reshape(self.shape, order=self.order)


# ---------------------------------------------------------------------------
# What the calls of a file give. The first argument is the machine.

def _are_sizes(value):
    return type(value) is tuple and len(value) <= 8 and all(type(n) is int and 0 <= n < 2 ** 40 for n in value)


def _extent(shape, stride):
    """How many numbers of the storage a tensor reaches over."""
    return 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) if math.prod(shape) > 0 else 0


def _tensor(_machine, storage, offset, shape, stride, *_requires_grad_and_hooks):
    sizes = _are_sizes(shape) and _are_sizes(stride) and len(shape) == len(stride) and _are_sizes((offset,))
    if not isinstance(storage, Storage) or not sizes:
        raise UnusableFile('it has a tensor that is not described by a storage, an offset, sizes and strides')
    extent = _extent(shape, stride)
    if offset + extent > storage.count or math.prod(shape) != extent:
        raise UnusableFile(f'it has a tensor of shape {list(shape)}, strides {list(stride)} and offset {offset} '
                          f'in a storage of {storage.count:,} numbers')
    return Tensor(storage, offset, shape, stride)


def _parameter(_machine, data, *_requires_grad_and_hooks):
    if not isinstance(data, Tensor):
        raise UnusableFile('it has a parameter that is no tensor')
    return data


def _storage(machine, span):
    """The bytes are what torch.save made of one storage: five small pickles, then the count and the numbers."""
    if not isinstance(span, Span):
        raise TypeError
    machine.budget.work(STORAGE_COST)
    header = span.read(MAX_STORAGE_HEADER)
    file = io.BytesIO(header)
    found = []

    def persistent(key):
        kind, storage, _key, _location, count, *_view = key
        if kind != 'storage' or not isinstance(storage, Global) or found or not _are_sizes((count,)):
            raise TypeError
        found.append((storage.name, count))

    run = lambda: Machine(file, len(header), STORAGE_GLOBALS, machine.budget, persistent).run()
    magic, version, _system, _storage, _keys = [run() for _ in range(5)]
    if (magic, version) != STORAGE_HEADER or len(found) != 1:
        raise UnusableFile('it has a tensor whose numbers are not as torch.save writes them')
    (name, count), start = found[0], file.tell() + 8
    dtype = ENTRIES[name.removeprefix('torch.')]
    if file.read(8) != count.to_bytes(8, 'little') or span.size != start + count * dtype.itemsize:
        raise UnusableFile(f'it has a {name} of {count:,} numbers in {span.size:,} bytes')
    return Storage(span, start, dtype, count)


def _dtype(_machine, code, *_align_and_copy):
    if type(code) is not str or len(code) > 3 or code.lstrip('<>=|') not in ARRAY_DTYPES:
        raise UnusableFile(f'it has a numpy array of the type '
                           f'{str(code)[:20] if type(code) is str else type(code).__name__!r}; only numbers are read')
    return DType(code.lstrip('<>=|'))


def _array(_machine, kind, _shape, _typecode):
    if not isinstance(kind, Global) or kind.name != 'numpy.ndarray':
        raise TypeError
    return Array()


def _scalar(_machine, dtype, span):
    if not isinstance(dtype, DType) or not isinstance(span, Span) or span.size != dtype.dtype.itemsize:
        raise UnusableFile('it has a numpy number that is not described by a number type and bytes')
    return np.frombuffer(span.read(span.size), dtype.dtype)[0].item()


def _encode(machine, text, encoding):
    if type(text) is not str or encoding != 'latin1':
        raise TypeError
    machine.budget.text(len(text))
    data = text.encode('latin1')
    return Span(io.BytesIO(data), 0, len(data))


def _no_bytes(_machine):
    return Span(io.BytesIO(), 0, 0)


def _set(machine, items=None):
    machine.push(set())
    if items is not None:
        machine.budget.work(len(items))         # the same list can be named again and again
        machine.add(items)
    return machine.pop()


def _persistent_object(_machine, meta):
    """Objects of StyleGAN2-ADA and StyleGAN3: a dictionary that also holds the source text of the class, not used."""
    if (type(meta) is not dict or meta.get('type') != 'class' or type(meta.get('class_name')) is not str
        or type(meta.get('state')) is not dict):
        raise UnusableFile('it has a persistent object without class name or state')
    if meta.get('version') != PERSISTENT_VERSION:
        raise UnusableFile(f'it has an object of the class {meta["class_name"][:256]!r} in another version than '
                           f'{PERSISTENT_VERSION} of the format')
    return Instance(meta['class_name'], meta['state'])


def _named(*names, call=None, new=None):
    return {name: Global(name, call, new) for name in names}


def _dict(_machine):
    return {}


def _own_network(_machine, *_args):
    raise UnusableFile('it holds a network of this project as pickle.dump writes it, which cannot be read without '
                       'running what the file says; write it with training.model_files.save_generator '
                       '(docs/library.md)')


def _network_of_tensorflow(_machine):
    return Instance('dnnlib.tflib.network.Network')


def _size(_machine, sizes):
    if not _are_sizes(sizes):
        raise TypeError
    return sizes


def _device(_machine, kind, _index=None):
    if type(kind) is not str:
        raise TypeError
    return kind


STORAGE_GLOBALS = _named(*[f'torch.{name}' for name in ENTRIES])
NUMPY_CORES = ('numpy.core.multiarray', 'numpy._core.multiarray')
GLOBALS = {
    **_named('torch._utils._rebuild_tensor_v2', 'torch._utils._rebuild_tensor', call=_tensor),
    **_named('torch._utils._rebuild_parameter', 'torch._utils._rebuild_parameter_with_state', call=_parameter),
    **_named('torch.storage._load_from_bytes', call=_storage),
    **_named('torch.Size', call=_size),
    **_named('torch.device', call=_device),
    **_named(*[f'torch.{str(dtype).removeprefix("torch.")}' for dtype in ENTRIES.values()], 'torch.contiguous_format',
             'torch.channels_last'),
    **_named('numpy.ndarray'),
    **_named('numpy.dtype', call=_dtype),
    **_named(*[f'{core}._reconstruct' for core in NUMPY_CORES], call=_array),
    **_named(*[f'{core}.scalar' for core in NUMPY_CORES], call=_scalar),
    **_named('_codecs.encode', call=_encode),
    **_named('collections.OrderedDict', call=_dict, new=_dict),
    **_named('builtins.bytes', '__builtin__.bytes', call=_no_bytes),        # protocol 2 calls it for the empty one
    **_named('builtins.set', '__builtin__.set', call=_set),
    **_named('dnnlib.util.EasyDict', 'dnnlib.EasyDict', call=_dict, new=_dict),
    **_named('torch_utils.persistence._reconstruct_persistent_obj', call=_persistent_object),
    **_named('dnnlib.tflib.network.Network', new=_network_of_tensorflow),
    **_named('training.networks.stylegan2_generator.Generator', new=_own_network),
    **_named('training.networks.stylegan2_discriminator.Discriminator', new=_own_network),
}
