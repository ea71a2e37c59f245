"""Processes that read images for a DataLoader: what signals and errors do there."""

import functools
import signal
import threading

import torch

from dnnlib import UserError


def loader(dataset, join, device, num_workers, **order):
    """A DataLoader that gives `join(items)` for the items of a batch, or the `UserError` of an item that cannot be
    read. Raised across processes, the error would lose its one-line form.

    Args:
        join:        function of a list of items; with workers it has to be one of a module, for Windows.
        device: that the caller will move batches to: for a GPU they are pinned.
        num_workers: processes that read; 0 = this one.
        order:       batch_size and sampler, or batch_sampler, of the DataLoader.
    """
    return torch.utils.data.DataLoader(
        _ErrorsAsItems(dataset), num_workers=num_workers, collate_fn=functools.partial(_collate, join),
        pin_memory=torch.device(device).type == 'cuda', worker_init_fn=_signals,
        # Or else each start of the workers would draw from torch's global generator
        generator=torch.Generator(), **order)


class _ErrorsAsItems(torch.utils.data.Dataset):
    """The items of a data set; for an item that cannot be read, its `UserError`."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __getitem__(self, idx):
        try:
            return self.dataset[idx]
        except UserError as err:
            return err


def _collate(join, items):
    error = next((item for item in items if isinstance(item, UserError)), None)
    return join(items) if error is None else error


def _signals(_worker_id):
    """In a worker: leaves Ctrl-C and SLURM's signal to the main process; a request to terminate ends the worker."""
    for name in ('SIGINT', 'SIGUSR1'):
        if hasattr(signal, name):                   # Windows has no SIGUSR1
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def errors_in_their_place():
    """After the start of a DataLoader's workers: makes a dead one be noticed when the next batch is requested, within
    five seconds. Otherwise DataLoader's signal handler would raise the error anywhere in the main thread, even within a
    training step.
    """
    if hasattr(signal, 'SIGCHLD') and threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGCHLD)
        if getattr(handler, '__module__', '').startswith('torch.'):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
