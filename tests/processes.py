"""Processes of one group for tests, forked from a server that has imported everything once."""

import multiprocessing
import os

import torch

from torch_utils import distributed


def run_processes(fn, num_processes, *args):
    """`fn(rank, *args)` in so many processes that have joined one group, gloo on the CPU. `fn` is a function of a
    test's module."""
    multiprocessing.set_forkserver_preload(['torch', 'train'])
    store = torch.distributed.TCPStore('localhost', 0, is_master=True, wait_for_workers=False)
    torch.multiprocessing.start_processes(_process, args=(fn, num_processes, store.port, args), nprocs=num_processes,
                                          start_method='forkserver')


def _process(rank, fn, num_processes, port, args):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(num_processes), MASTER_ADDR='localhost',
                      MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE='True')
    distributed.init('cpu')
    fn(rank, *args)
    distributed.leave()
