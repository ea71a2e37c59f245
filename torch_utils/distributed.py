"""Several processes: ranks, waiting for each other, averaging gradients. Without a process group everything acts as a
single process. Tensors on the CPU use gloo, those on a GPU use NCCL, so agreements between hosts never wait for a
device.
"""

import atexit
import contextlib
import datetime
import os
import sys
import traceback

import torch
import torch.distributed as dist

from dnnlib import UserError

from .devices import out_of_memory

TIMEOUT = datetime.timedelta(minutes=30)        # for a process that hangs; a process that ends is noticed at once
# Bytes of gradients reduced at a time. On a CPU: the size of a cache; on a GPU: enough to hide latency
BUCKET_BYTES = dict(cpu=4 * 2 ** 20, cuda=32 * 2 ** 20)

_store = None                                   # a store of small facts for all processes; None = there is no group


class PeerFailure(Exception):
    """Another process has ended, or has not answered within `TIMEOUT`."""


def init(device_type):
    """Joins the process group that torchrun (or `training.launch.launch`) has set up in the environment, if any.
    Returns this process's device."""
    global _store
    local_rank = int(os.environ.get('LOCAL_RANK', 0))
    if device_type == 'cuda':
        if local_rank >= torch.cuda.device_count():
            raise UserError(f'{local_rank + 1} or more processes on this machine, which has '
                            f'{torch.cuda.device_count()} GPUs: start one per GPU')
        torch.cuda.set_device(local_rank)
    if 'RANK' in os.environ and not dist.is_initialized():
        with _together():
            _store, rank, world_size = next(dist.rendezvous('env://', timeout=TIMEOUT))
            # torchrun's store still has the addresses of failed processes
            if os.environ.get('LOCAL_WORLD_SIZE') == str(world_size):
                _store = dist.PrefixStore(f'attempt{os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)}', _store)
            dist.init_process_group('cpu:gloo,cuda:nccl' if device_type == 'cuda' else 'gloo', store=_store, rank=rank,
                                    world_size=world_size, timeout=TIMEOUT)
    return torch.device(device_type, local_rank) if device_type == 'cuda' else torch.device(device_type)


def leave():
    """Leaves the process group; without it, threads of the group may outlive the interpreter and abort it."""
    if is_active():
        dist.destroy_process_group()


def launched_rank():
    """This process's number before it has joined the group."""
    return int(os.environ.get('RANK', 0))


def is_first_of_machine():
    """Whether this process is the first of those on its machine."""
    return int(os.environ.get('LOCAL_RANK', 0)) == 0


def is_restart():
    """Whether this process takes the place of one that failed (torchrun), or of a job that was queued again (SLURM)."""
    return any(int(os.environ.get(name, 0)) > 0 for name in ('TORCHELASTIC_RESTART_COUNT', 'SLURM_RESTART_COUNT'))


_is_alone = False


@contextlib.contextmanager
def alone():
    """Within it, this process acts as a single one: for work that may fail on some processes only, where others would
    wait."""
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


# -- failures

@contextlib.contextmanager
def _together():
    """Around a collective: its error is a `PeerFailure`, unless this process itself is out of memory."""
    try:
        yield
    except RuntimeError as err:
        if out_of_memory(err):
            raise
        raise PeerFailure(f'process {launched_rank()} has lost another one ({str(err).strip().splitlines()[0]}); '
                          'the same command continues from the last state') from err


@contextlib.contextmanager
def one_message():
    """Around the work of a process: of all processes that fail, the first prints the reason to stderr, and each ends
    with exit code 1.

    A `UserError` is a line, anything else has its traceback. A single process is left to Python and to
    `dnnlib.util.user_errors`.
    """
    try:
        yield
    except Exception as err:
        if not is_active():
            raise
        if _first_to_fail():
            if isinstance(err, (UserError, PeerFailure)):
                print(f'Error: {err}', file=sys.stderr)
            else:
                traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        atexit._run_exitfuncs()
        # Leaving the group could wait for processes that are gone; so could its threads
        os._exit(1)


def _first_to_fail():
    try:
        return _store is None or _store.add('failures', 1) == 1
    except RuntimeError:            # the store is gone with the process that kept it, which has printed the reason
        return False


# -- agreements

def barrier():
    """Waits for the other processes, not for a device."""
    if is_active():
        all_reduce_sum(torch.zeros([1]))


@contextlib.contextmanager
def main_process_first():
    """The first process of each machine runs the block, then the others: for files that one process computes or
    downloads and all read."""
    first = is_first_of_machine()
    if not first:
        barrier()
    yield
    if first:
        barrier()


def agree(decide):
    """The result of `decide()` on the first process, on all of them."""
    box = [decide() if get_rank() == 0 else None]
    if is_active():
        with _together():
            dist.broadcast_object_list(box, src=0)
    return box[0]


def any_process(flag):
    """Whether `flag` is true on any process. Waits for all of them, not for their devices."""
    return all_reduce_sum(torch.tensor([float(flag)])).item() > 0


def broadcast_from_main(module):
    """Copies parameters and buffers of `module` from the first process."""
    if is_active():
        with _together():
            for tensor in [*module.parameters(), *module.buffers()]:
                dist.broadcast(tensor.data, src=0)


# -- sums and means

def all_reduce_sum(tensor):
    """Sums `tensor` over processes in place; returns it."""
    if is_active():
        with _together():
            dist.all_reduce(tensor)
    return tensor


def all_gather_rows(tensor):
    """The rows of `tensor` of all processes, in the order of their numbers. All must hold the same shape."""
    if not is_active():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(get_world_size())]
    with _together():
        dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


class _Mean(torch.autograd.Function):
    """The gradient of a mean over processes is the mean of their gradients."""

    @staticmethod
    def forward(_ctx, x):
        return all_reduce_sum(x.clone()) / get_world_size()

    @staticmethod
    def backward(_ctx, grad):
        return all_reduce_sum(grad.clone()) / get_world_size()


def mean(tensor):
    """The mean of `tensor` over processes, differentiable: their losses may depend on each other. All must call it, and
    go back through it."""
    return _Mean.apply(tensor) if is_active() else tensor


@torch.no_grad()
def average(tensors, bucket_bytes=None):
    """Replaces `tensors` by their means over processes. All processes must hold the same ones, in the same order.

    They are copied into buckets of `bucket_bytes` (default: by the device), each reduced while the next is being
    copied, so at most two exist at a time.
    """
    if get_world_size() == 1 or not tensors:
        return
    pending = None
    for bucket in _buckets(tensors, bucket_bytes or BUCKET_BYTES[tensors[0].device.type]):
        flat = torch.cat([t.flatten() for t in bucket])
        with _together():
            work = dist.all_reduce(flat, async_op=True)
        if pending is not None:
            _unpack(*pending)
        pending = work, flat, bucket
    if pending is not None:
        _unpack(*pending)


def _buckets(tensors, limit):
    """Lists of consecutive tensors of at most `limit` bytes together, or a single one that is larger."""
    bucket, size = [], 0
    for tensor in tensors:
        if bucket and size + tensor.nbytes > limit:
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket


def _unpack(work, flat, bucket):
    with _together():
        work.wait()
    flat /= get_world_size()
    for tensor, part in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
        tensor.copy_(part.view_as(tensor))
