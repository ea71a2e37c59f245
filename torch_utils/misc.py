"""Small helpers: images for saving, memory of the C library, worker processes."""

import ctypes
import signal

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3      # of mallopt(3)


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
