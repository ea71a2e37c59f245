"""The CUDA kernels as a CPU library (tests/native_ops_host.cpp), and what can be asked of it."""

import ctypes
import os
import pathlib

import pytest
import torch

from torch_utils import custom_ops
from torch_utils.native import build as native_build
from torch_utils.ops import (  # noqa: F401  (they declare the operators)
    _launch,
    _launch_scaled_bias_act,
    bias_act,
    scaled_bias_act,
    upfirdn2d,
)

OPS = pathlib.Path(custom_ops.FOLDER)
NAMES = [name for names in custom_ops.OPERATORS.values() for name in names]
SANITIZE = (['-fsanitize=address,undefined', '-fno-sanitize-recover=all', '-g'] if os.environ.get('KDGAN_TEST_SANITIZE')
            else [])


class HostLibrary:
    """The kernels as loops over blocks and threads: torch.ops.kdgan_host, and the launches that it would have made on a
    GPU."""

    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.library.kdgan_layout.restype = ctypes.POINTER(ctypes.c_int64)
        self.library.kdgan_last_body.restype = ctypes.c_char_p
        self.library.kdgan_last_params.restype = ctypes.c_void_p
        self.library.kdgan_launch_scaled_bias_act.restype = ctypes.c_char_p
        self.operators = torch.ops.kdgan_host

    def operator(self, name):
        return getattr(self.operators, name).default

    def set_multiprocessors(self, count):
        self.library.kdgan_set_multiprocessors(count)

    def layout(self):
        """Sizes and offsets in the order of native_ops_host.cpp."""
        numbers = self.library.kdgan_layout()
        return [numbers[i] for i in range(next(i for i in range(1000) if numbers[i] < 0))]

    def launch_scaled_bias_act(self, launch):
        """Runs a `Launch` that ops/_launch_scaled_bias_act.py has made, its parameters as they are."""
        kind, last, dtype = next((kind, last, dtype) for dtype in _launch.CPP_TYPE for last in (False, True)
                                 for kind in _launch_scaled_bias_act.SUMS
                                 if launch.body == _launch_scaled_bias_act.body_of(dtype, last, kind))
        numbers = [list(names).index(name) for names, name in ((_launch.CPP_TYPE, dtype),
                                                               (_launch_scaled_bias_act.SUMS, kind))]
        error = self.library.kdgan_launch_scaled_bias_act(ctypes.byref(launch.params), numbers[0], last, numbers[1])
        assert error is None, error

    def last_launch(self, params_type):
        """-> (text with the type of the body, bytes of shared memory, params) of the last launch."""
        params = params_type.from_buffer_copy(ctypes.string_at(self.library.kdgan_last_params(),
                                                               ctypes.sizeof(params_type)))
        return self.library.kdgan_last_body().decode(), self.library.kdgan_last_shared_bytes(), params


def open_host_library(cache):
    """Builds it in a cache folder. Yields a HostLibrary while its operators exist."""
    if native_build.find_compiler() is None or native_build.find_ninja() is None:
        pytest.skip('needs a C++ compiler and ninja')
    source = pathlib.Path(__file__).with_name('native_ops_host.cpp')
    headers = sorted(map(str, [*OPS.glob('*.h'), *OPS.glob('*.c*')]))
    flags = ['-O1', '-DKDGAN_HOST', '-Wall', '-Werror', f'-I{OPS}', *SANITIZE]
    recipe = native_build.Recipe('kdgan_host', [str(source)], headers, cflags=flags, ldflags=SANITIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('KDGAN_CACHE_DIR', str(cache))
        patch.delenv('LD_PRELOAD', raising=False)
        path = native_build.build(recipe)
    library = torch.library.Library('kdgan_host', 'DEF')
    for name in NAMES:
        library.define(str(getattr(torch.ops.kdgan, name).default._schema).removeprefix('kdgan::'))
    torch.ops.load_library(path)
    yield HostLibrary(path)
    library._destroy()
