"""Shared parts of launching kernels compiled by NVRTC: kernel.h, dtype.h and device.h in Python."""

import ctypes
from typing import NamedTuple

import torch

THREADS = 256                           # of a block
MOST_BLOCKS = 2 ** 31 - 1               # of a grid
CPP_TYPE = {torch.float16: 'kdgan::half_t', torch.bfloat16: 'kdgan::bfloat16_t', torch.float32: 'float',
            torch.float64: 'double'}


class Launch(NamedTuple):
    """One launch of the kernel of a body, as kernel.h has it."""
    body: str                           # the C++ type, e.g. 'kdgan::Upfirdn2d<float, 2, 1, 4, false>'
    params: ctypes.Structure            # has a member `blocks`
    shared_bytes: int = 0


def pack_size(dtype):
    """Elements in 16 bytes."""
    return 16 // dtype.itemsize


def real_bytes(dtype):
    """Bytes of a number that the kernel computes with."""
    return 8 if dtype == torch.float64 else 4


def is_aligned(*pointers):
    return all(pointer % 16 == 0 for pointer in pointers)


def is_channels_last(x):
    """Of a 4D tensor; one that is dense in both ways counts as contiguous."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def has_dtype(op, x):
    """Raises RuntimeError unless there are kernels for the dtype of `x`."""
    if x.dtype not in CPP_TYPE:
        raise RuntimeError(f'{op}: x is {kind_of(x)}, it must be float16, bfloat16, float32 or float64')


def kind_of(x):
    """'Float', 'Half', ...: what C++ calls the dtype of a tensor."""
    return x.type().rpartition('.')[2].removesuffix('Tensor')


def described(x):
    """'Float[2, 3] on cuda:0'."""
    return f'{kind_of(x)}{list(x.shape)} on {x.device}'
