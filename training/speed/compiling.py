"""--compile: the networks of the main phases through torch.compile.

A compiled region cannot be differentiated twice, so regularisation runs the networks as they are.
"""

import contextlib

import torch

from dnnlib.text import gist
from torch_utils import distributed
from torch_utils.devices import out_of_memory

from ..networks.interface import module_of


def compile_main_phases(loss, batch_size, tell):
    """Makes `loss` use compiled networks in Gmain and Dmain. If the compiler fails, except for lack of memory, it says
    so and leaves `loss` as it is. The same random numbers are drawn as without the compiler, so results agree up to
    rounding. Each process compiles alone: none waits for one whose compiler fails.

    Args:
        loss:       `StyleGAN2Loss`; its networks are frozen.
        batch_size: of a micro-batch.
        tell:       function of a line of text.
    """
    # The trials of --batch-gpu=auto count towards the compiler's limit, above which it leaves functions as they are
    torch.compiler.reset()
    torch._inductor.config.fallback_random = True
    synthesis, D = (torch.compile(network, dynamic=False) for network in (loss.G_synthesis, loss.D))
    G = module_of(loss.G_synthesis)
    try:
        with distributed.alone(), _buffers_kept(G, loss.D):
            _warm_up(loss, synthesis, D, batch_size)
    except Exception as err:            # whatever a compiler may raise: it is no part of the training
        if out_of_memory(err):
            raise
        tell(f'--compile: torch.compile fails here ({gist(err)}); training goes on without it.')
    else:
        loss.main_synthesis, loss.main_D = synthesis, D


def _warm_up(loss, synthesis, D, n):
    """Compiles each network for both of its main phases, as the one that is trained and as the one that is not."""
    device, G = loss.device, module_of(loss.G_synthesis)
    with torch.random.fork_rng([device] if device.type == 'cuda' else []):
        ws = torch.zeros([n, G.num_ws, G.w_dim], device=device)
        with torch.no_grad():
            img = synthesis(ws)
        with _trained(G):
            synthesis(ws.requires_grad_(True)).sum().backward()
        features = dict(return_features=True) if len(loss.terms) > 0 else {}
        seen = torch.cat([img, img]) if loss.one_pass else img
        for trained, image in ((True, seen), (False, img.clone().requires_grad_(True))):
            with _trained(loss.D, trained):
                result = D(image, torch.zeros([len(image), loss.D.c_dim], device=device), **features)
                (result[0] if features else result).sum().backward()


@contextlib.contextmanager
def _buffers_kept(*networks):
    """After it the buffers, such as the statistics of batch norms, are what they were before."""
    buffers = [buffer for network in networks for buffer in network.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


@contextlib.contextmanager
def _trained(network, trained=True):
    """Within it, the parameters of a network require gradients; afterwards they do not, and have none."""
    network.requires_grad_(trained)
    try:
        yield
    finally:
        network.requires_grad_(False).zero_grad(set_to_none=True)
