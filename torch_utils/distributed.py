"""Several processes: who am I, wait for each other, average gradients. Without a process group everything acts as a single process."""

import contextlib
import os

import torch
import torch.distributed as dist


def init(device_type):
    """Joins the process group that torchrun (or `launch`) has set up in the environment, if any. Returns this process's device."""
    local_rank = int(os.environ.get('LOCAL_RANK', 0))
    if device_type == 'cuda':
        torch.cuda.set_device(local_rank)
    if 'RANK' in os.environ and not dist.is_initialized():
        dist.init_process_group('nccl' if device_type == 'cuda' else 'gloo')
    return torch.device(device_type, local_rank) if device_type == 'cuda' else torch.device(device_type)


def leave():
    """Leaves the process group; without it, threads of the group may outlive the interpreter and abort it."""
    if is_active():
        dist.destroy_process_group()


def launched_rank():
    """This process's number before it has joined the group."""
    return int(os.environ.get('RANK', 0))


_is_alone = False


@contextlib.contextmanager
def alone():
    """Within it, this process acts as a single one: for what may fail on some processes only, while others would wait for them."""
    global _is_alone
    _is_alone = True
    try:
        yield
    finally:
        _is_alone = False


def is_active():
    return not _is_alone and dist.is_available() and dist.is_initialized()


def get_rank():
    return dist.get_rank() if is_active() else 0


def get_world_size():
    return dist.get_world_size() if is_active() else 1


def print0(*args, **kwargs):
    """Prints on the first process only."""
    if get_rank() == 0:
        print(*args, **kwargs, flush=True)


def barrier():
    if is_active():
        dist.barrier()


@contextlib.contextmanager
def main_process_first():
    """The first process runs the block, then the others do: for files that one computes or downloads and all read."""
    if get_rank() != 0:
        barrier()
    yield
    if get_rank() == 0:
        barrier()


def agree(decide):
    """The result of `decide()` on the first process, on all of them."""
    box = [decide() if get_rank() == 0 else None]
    if is_active():
        dist.broadcast_object_list(box, src=0)
    return box[0]


def broadcast_from_main(module):
    """Makes parameters and buffers of `module` those of the first process."""
    if is_active():
        for tensor in [*module.parameters(), *module.buffers()]:
            dist.broadcast(tensor.data, src=0)


def average_gradients(params):
    """Replaces the gradients of `params` by their mean over processes, in one reduction. All processes must hold the same ones."""
    grads = [p.grad for p in params if p.grad is not None]
    if not is_active() or not grads:
        return
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    flat /= get_world_size()
    for grad, mean in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        grad.copy_(mean.view_as(grad))


def all_reduce_sum(tensor):
    """Sums `tensor` over processes in place; returns it."""
    if is_active():
        dist.all_reduce(tensor)
    return tensor


def any_process(flag):
    """Whether `flag` is true on any process. Waits for all of them."""
    if not is_active():
        return flag
    device = torch.device('cuda', torch.cuda.current_device()) if dist.get_backend() == 'nccl' else torch.device('cpu')
    return all_reduce_sum(torch.tensor([float(flag)], device=device)).item() > 0
