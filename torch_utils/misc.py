"""Number formats of the networks, and small helpers for modules."""

import ctypes
import math
import signal
from typing import NamedTuple

import torch
import torch.overrides

HALF_DTYPES = dict(float16=torch.float16, bfloat16=torch.bfloat16)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3      # of mallopt(3)


class ComputeFormat(NamedTuple):
    """The dtype and memory format in which a block of a network works."""
    dtype: torch.dtype
    layout: torch.memory_format

    @classmethod
    def of(cls, half, half_dtype, channels_last):
        """half: whether in half precision; half_dtype: 'float16' or 'bfloat16'."""
        if half_dtype not in HALF_DTYPES:
            raise ValueError(f'half_dtype is {half_dtype!r}, it must be one of {", ".join(HALF_DTYPES)}')
        return cls(HALF_DTYPES[half_dtype] if half else torch.float32, torch.channels_last if channels_last else torch.contiguous_format)

    def cast(self, x, force_fp32=False):
        """[N, C, H, W] -> the same values in this format."""
        return x.to(dtype=torch.float32 if force_fp32 else self.dtype, memory_format=self.layout)


def block_resolutions(img_resolution):
    """[4, 8, ..., img_resolution]. Raises ValueError unless it is a power of two of at least 4."""
    log2 = int(math.log2(max(img_resolution, 1)))
    if img_resolution < 4 or 2 ** log2 != img_resolution:
        raise ValueError(f'the resolution is {img_resolution}, it must be a power of two of at least 4')
    return [2 ** i for i in range(2, log2 + 1)]


def half_resolutions(img_resolution, num_fp16_res):
    """The set of the `num_fp16_res` highest block resolutions, never with 4: small maps need the precision and gain no speed."""
    return {res for res in block_resolutions(img_resolution)[1:] if res * 2 ** num_fp16_res > img_resolution}


class ShapesOnly(torch.overrides.TorchFunctionMode):
    """Within it, new weights have a shape and no memory: modules can be built to see what they would be.

    `torch.device('meta')` does that for everything, but its arithmetic imports a second's worth of modules first.
    """

    FACTORIES = (torch.randn, torch.zeros, torch.ones, torch.full, torch.empty)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in self.FACTORIES:
            return torch.empty(args[0], device='meta', **{k: v for k, v in kwargs.items() if k == 'dtype'})
        if func in (torch.Tensor.div, torch.Tensor.__truediv__) and args[0].is_meta:
            return args[0]
        return func(*args, **kwargs)


def to_uint8(img):
    """Images in [-1, 1] -> uint8, rounded and clipped: how they are saved, and how every metric sees them."""
    return (img.to(torch.float32) * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def keep_freed_memory():
    """Makes the C library keep freed memory for the next tensor instead of giving it back: on a CPU, fresh pages for every
    tensor above 32 MB cost several times the arithmetic on them (benchmarks/ops_cpu.py). Does nothing where there is no glibc."""
    try:
        libc = ctypes.CDLL('libc.so.6')
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    except (OSError, AttributeError):
        pass


def loader_signals(_worker_id):
    """For `DataLoader(worker_init_fn=...)`: Ctrl-C is the main process's business, and a request to end ends the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
