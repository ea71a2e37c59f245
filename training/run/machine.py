"""The software and hardware of a run: a line of the log and of machine.jsonl at every start, since a run may move."""

import os

import torch

from torch_utils import custom_ops

from .records import append_line

MACHINE_FILE = 'machine.jsonl'


def describe(device):
    """JSON-able: versions of torch and CUDA, the device, and {operator: what runs it and why}. On a GPU it has the
    kernels compiled."""
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else device.type
    kernels = {kernel: custom_ops.backend_of(kernel, device) for kernel in custom_ops.OPERATORS}
    return dict(torch=torch.__version__, cuda=torch.version.cuda, device=name, kernels=kernels)


def tell(run_dir, device, cur_nimg, say):
    """Says in one line what runs the operators, and notes it in the run.

    Args:
        run_dir:  of the run; None = this process writes nothing.
        cur_nimg: images seen before this start.
        say:      function of a line of text.
    """
    found = describe(device)
    say('Operators: ' + '; '.join(f'{kernel}: {backend}' for kernel, backend in found['kernels'].items()))
    if run_dir is not None:
        append_line(os.path.join(run_dir, MACHINE_FILE), dict(cur_nimg=cur_nimg, **found))
