"""Objects in the form of the reference implementation's pickles: the source text of a class, its name, and the state of
the object. There, reading such an object runs the text. Here nothing does: this project reads the files as data
(legacy.py).
"""

import copy
import functools
import io
import pickle
import struct
from collections import OrderedDict

import torch

from dnnlib import EasyDict

VERSION = 6                                             # of the format: StyleGAN2-ADA and StyleGAN3
TORCH_MAGIC, TORCH_PROTOCOL = 0x1950a86a20f9469cfc6c, 1001      # of `torch.save` before it wrote zip files
STORAGES = {torch.float32: torch.FloatStorage, torch.float16: torch.HalfStorage, torch.float64: torch.DoubleStorage}


def persistent_class(cls):
    """Class decorator: objects remember the arguments they were made with; `init_args` and `init_kwargs` give copies.

    The reference implementation's decorator of this name also makes them fit for pickling; text that uses it works with
    both.
    """
    init = cls.__init__

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):
        init(self, *args, **kwargs)
        if type(self) is cls:
            self._init_args, self._init_kwargs = copy.deepcopy(args), copy.deepcopy(kwargs)

    cls.__init__ = __init__
    cls.init_args = property(lambda self: copy.deepcopy(self._init_args))
    cls.init_kwargs = property(lambda self: _easy(copy.deepcopy(self._init_kwargs)))
    cls.__jit_unused_properties__ = ['init_args', 'init_kwargs']        # torch.jit would try to compile them
    return cls


def _easy(value):
    """With every dictionary an EasyDict."""
    return EasyDict((key, _easy(item)) for key, item in value.items()) if isinstance(value, dict) else value


class PickledObject:
    """Pickles as an object of the class `class_name`, which running `module_src` defines, with `state` as its
    __dict__."""

    def __init__(self, module_src, class_name, state):
        self.meta = dict(type='class', version=VERSION, module_src=module_src, class_name=class_name, state=state)

    def __reduce__(self):
        return _reconstruct_persistent_obj, (self.meta,)


def _reconstruct_persistent_obj(meta):
    """The name that the files call. Here it only raises: `pickle.load` must not run code from a file."""
    raise pickle.UnpicklingError(f'the pickle holds an object of the class {meta["class_name"]!r} together with source '
                                 'text to run, which this project never does; convert the file with legacy.py')


# ---------------------------------------------------------------------------
# Tensors as torch pickles them, but with the same bytes every time: torch writes memory addresses into them.

class PickledParameter:
    """Pickles as a parameter without gradient. tensor: one of the types of STORAGES."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        return torch._utils._rebuild_parameter, (PickledTensor(self.tensor), False, OrderedDict())


class PickledTensor:
    """Pickles as a contiguous tensor in CPU memory. tensor: one of the types of STORAGES."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        x = self.tensor.detach().cpu().contiguous()
        return torch._utils._rebuild_tensor_v2, (_PickledStorage(x), 0, tuple(x.shape), x.stride(), False,
                                                 OrderedDict())


class _PickledStorage:
    """Pickles as the elements of a contiguous tensor."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        f = io.BytesIO()
        sizes = dict(short=2, int=4, long=4)
        for part in (TORCH_MAGIC, TORCH_PROTOCOL, dict(protocol_version=TORCH_PROTOCOL, little_endian=True,
                                                       type_sizes=sizes)):
            pickle.dump(part, f, protocol=2)
        _StoragePickler(f, protocol=2).dump(self.tensor)
        pickle.dump(['0'], f, protocol=2)
        values = self.tensor.numpy()
        f.write(struct.pack('<q', values.size))
        f.write(values.astype(values.dtype.newbyteorder('<'), copy=False).data)
        return torch.storage._load_from_bytes, (f.getvalue(),)


class _StoragePickler(pickle.Pickler):
    """The entries of a storage in the pickle: kind, type, key, device, number of elements, view of another storage."""

    def persistent_id(self, obj):
        return (('storage', STORAGES[obj.dtype], '0', 'cpu', obj.numel(), None) if isinstance(obj, torch.Tensor)
                else None)
