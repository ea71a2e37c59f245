"""Small helpers: images for saving, memory, worker processes, tensors of modules."""

import contextlib
import ctypes
import functools
import re
import signal
import threading
import warnings

import torch
import torch.overrides

# In torch's own words; of cuBLAS and cuDNN, the last of which find nothing that works in what is left; of the allocator
# on a CPU
OUT_OF_MEMORY = ('out of memory', 'ALLOC_FAILED', 'CUBLAS_STATUS_NOT_INITIALIZED', 'unable to find an engine',
                 "can't allocate memory")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3      # of mallopt(3)


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


def keep_freed_memory():
    """Makes the C library keep freed memory for the next tensor instead of giving it back: on a CPU, fresh pages for
    every tensor above 32 MB cost several times the arithmetic on them (benchmarks/ops_cpu.py). Does nothing where there
    is no glibc."""
    try:
        libc = ctypes.CDLL('libc.so.6')
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    except (OSError, AttributeError):
        pass


@functools.cache
def cpu_has_bfloat16(cpuinfo='/proc/cpuinfo'):
    """Whether the processor is known to multiply in bfloat16 (AVX-512 BF16, AMX). On others torch is 1.7 (AVX-512) to
    10 times (AVX2) slower in it than in float32 (benchmarks/train_step.py). torch.cpu's own test overlooks it on some
    processors."""
    try:
        with open(cpuinfo) as f:
            flags = re.search(r'^flags\s*:(.*)$', f.read(), re.MULTILINE)
    except OSError:                 # not Linux
        return False
    return flags is not None and not {'avx512_bf16', 'amx_bf16'}.isdisjoint(flags[1].split())


def loader_signals(_worker_id):
    """For `DataLoader(worker_init_fn=...)`: Ctrl-C and SLURM's signal are the main process's business; a request to end
    ends the worker."""
    for name in ('SIGINT', 'SIGUSR1'):
        if hasattr(signal, name):                   # Windows has no SIGUSR1
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def errors_in_their_place():
    """After the start of a DataLoader's workers: lets a dead one be noticed where the next batch is asked for, within
    five seconds.

    By a signal handler of its own, DataLoader would raise the error wherever the main thread happens to be, amid a
    training step, too.
    """
    if hasattr(signal, 'SIGCHLD') and threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGCHLD)
        if getattr(handler, '__module__', '').startswith('torch.'):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def out_of_memory(err):
    """Whether an exception says that a device has no memory left. What is below torch (cuBLAS, cuDNN, NCCL, CUDA
    graphs) has no type for it."""
    return (isinstance(err, torch.OutOfMemoryError)
            or (isinstance(err, RuntimeError) and any(text in str(err) for text in OUT_OF_MEMORY)))


def one_line(err):
    """The beginning of an exception's text, for a message."""
    return ' '.join(str(err).split())[:200]


# ---------------------------------------------------------------------------
# What scripts for StyleGAN2-ADA import from here (docs/library.md).

nan_to_num, symbolic_assert = torch.nan_to_num, torch._assert


def assert_shape(tensor, ref_shape):
    """Raises AssertionError unless the tensor has this shape; None stands for any size."""
    fits = [want is None or size == want for size, want in zip(tensor.shape, ref_shape, strict=False)]
    if tensor.ndim != len(ref_shape) or not all(fits):
        raise AssertionError(f'the tensor has shape {list(tensor.shape)}, expected {list(ref_shape)}')


def params_and_buffers(module):
    """List of all tensors of a module."""
    return [value for _, value in named_params_and_buffers(module)]


def named_params_and_buffers(module):
    """List of (name, tensor): the parameters, then the buffers."""
    return [*module.named_parameters(), *module.named_buffers()]


@torch.no_grad()
def copy_params_and_buffers(src_module, dst_module, require_all=False):
    """Copies the tensors that both modules have under the same name; others stay as they are.

    Raises ValueError where the shapes differ, and with `require_all` where the source lacks one.
    """
    source = dict(named_params_and_buffers(src_module))
    for name, value in named_params_and_buffers(dst_module):
        if name in source and source[name].shape != value.shape:
            raise ValueError(f'copy_params_and_buffers: {name} has shape {list(source[name].shape)}, '
                             f'its target {list(value.shape)}')
        if name in source:
            value.copy_(source[name])
        elif require_all:
            raise ValueError(f'copy_params_and_buffers: the source has no {name}; without require_all it stays')


@contextlib.contextmanager
def suppress_tracer_warnings():
    """Within it, torch.jit.trace does not warn of values that it takes for constants."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        yield


def profiled_function(fn):
    """Decorator: the function appears under its name in torch's profiler."""
    @functools.wraps(fn)
    def named(*args, **kwargs):
        with torch.profiler.record_function(fn.__name__):
            return fn(*args, **kwargs)
    return named
