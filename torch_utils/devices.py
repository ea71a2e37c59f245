"""The device that a command line means."""

import torch

from dnnlib import UserError


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
