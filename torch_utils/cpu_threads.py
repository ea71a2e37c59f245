"""How many threads torch computes with on a CPU: one for each core that other programs leave free, unless the user has
set it. With more threads, each operator waits for the thread whose core is taken, and a training becomes five times as
slow.
"""

import os

import torch

from dnnlib import free_cores

from . import distributed

USERS = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')


def is_users():
    """Whether the user (or torchrun, for several processes on a machine) has set the number."""
    return any(os.environ.get(name) for name in USERS)


def choose(processes=1, recorded=None):
    """-> threads for each of so many processes on this machine. Prints a line if they are fewer than torch would take.

    Args:
        recorded: the number that a continued computation began with, which decides its last digits; None = new.
    """
    every = torch.get_num_threads()
    if is_users():
        return every
    if recorded is not None:
        return recorded
    quota, free = free_cores.quota(), free_cores.measure()
    number = min(limit for limit in (every, quota, free) if limit is not None)
    if number < every:
        why = 'this is the CPU quota' if number == quota else 'other programs use the rest'
        distributed.print0(f'{number} of {every} threads: {why}; OMP_NUM_THREADS={every} takes all')
    return max(number // processes, 1)


def settle(device, recorded=None):
    """Sets the number for this process, if it computes on a CPU. `device`: torch.device or its type. -> `device`."""
    if torch.device(device).type == 'cpu':
        torch.set_num_threads(choose(int(os.environ.get('LOCAL_WORLD_SIZE', 1)), recorded))
    return device
