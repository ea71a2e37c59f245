"""The device of a command line, and facts about its memory and its arithmetic."""

import ctypes
import functools
import re

import torch

from dnnlib import UserError

# Messages that mean out of memory: of torch; of cuBLAS and cuDNN (no algorithm fits); of the allocator on a CPU
OUT_OF_MEMORY = ('out of memory', 'ALLOC_FAILED', 'CUBLAS_STATUS_NOT_INITIALIZED', 'unable to find an engine',
                 "can't allocate memory")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3      # of mallopt(3)


def torch_device(name):
    """'auto' -> 'cuda' where there is one, else 'cpu'; any other name as it is. Raises UserError where torch has no
    such device."""
    if name == 'auto':
        return 'cuda' if torch.cuda.is_available() else 'cpu'
    if name == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device=cuda: torch finds no CUDA device; use --device=cpu, or install a torch build for '
                        'your driver')
    if name == 'mps' and not torch.backends.mps.is_available():
        raise UserError('--device=mps: torch finds no Apple GPU; use --device=cpu')
    return name


def keep_freed_memory():
    """Makes the C library keep freed memory for the next tensor instead of giving it back: on a CPU, fresh pages for
    every tensor above 32 MB cost several times the arithmetic on them (benchmarks/ops_cpu.py). Does nothing without
    glibc."""
    try:
        libc = ctypes.CDLL('libc.so.6')
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    except (OSError, AttributeError):
        pass


@functools.cache
def cpu_has_bfloat16(cpuinfo='/proc/cpuinfo'):
    """Whether the processor is known to multiply in bfloat16 (AVX-512 BF16, AMX). On others torch is 1.7 (AVX-512) to
    10 times (AVX2) slower in it than in float32 (benchmarks/train_step.py). The test in torch.cpu misses it on some
    processors."""
    try:
        with open(cpuinfo) as f:
            flags = re.search(r'^flags\s*:(.*)$', f.read(), re.MULTILINE)
    except OSError:                 # not Linux
        return False
    return flags is not None and not {'avx512_bf16', 'amx_bf16'}.isdisjoint(flags[1].split())


def out_of_memory(err):
    """Whether an exception says that a device has no memory left. The libraries below torch (cuBLAS, cuDNN, NCCL, CUDA
    graphs) have no type for it."""
    return (isinstance(err, torch.OutOfMemoryError)
            or (isinstance(err, RuntimeError) and any(text in str(err) for text in OUT_OF_MEMORY)))
