"""--batch-gpu=auto: the largest micro-batch that fits into memory, and what to say where one does not."""

import contextlib
import gc
import io

import torch

from dnnlib import UserError
from torch_utils import distributed

from .find_run import write_options

ITERATIONS = 5                  # from the second on, the averages of the optimisers are in memory; --cuda-graphs records in the fourth


def settle(config, run_dir, build):
    """Puts the micro-batch into `config`, once per run: found out at its start, recorded in its options, the same ever after.

    Args:
        build: function of a configuration that makes a `Trainer`; each is used up.
    """
    if config.get('batch_gpu_probed') is None:
        config['batch_gpu_probed'] = config['batch_gpu'] = largest(config, build)
        distributed.print0(f'--batch-gpu=auto: {config["batch_gpu"]} images at a time.')
        if distributed.get_rank() == 0:
            write_options(run_dir, config)


def largest(config, build):
    """The first of `sizes` with which some iterations of all phases fit on all processes. Raises UserError if there is none."""
    per_process = config['batch_size'] // config['num_gpus']
    for size in sizes(per_process, _group(config)):
        with contextlib.redirect_stdout(io.StringIO()):         # the trainer to come says it all again
            trainer = build(dict(config, batch_gpu=size))
        fits = not distributed.any_process(not _fits(trainer))
        del trainer
        _free_memory()
        if fits:
            return size
    raise UserError(f'--batch-gpu=auto: not even {size} images at a time fit into memory; use a smaller --cfg or images of a lower resolution')


def sizes(per_process, group):
    """The micro-batches to try, halving; none is smaller than, nor cuts, a group of the minibatch statistics."""
    size = per_process
    while True:
        yield size
        if size % 2 != 0 or size // 2 < group or size // 2 % group != 0:
            return
        size //= 2


def advice(config, run_dir, err):
    """The `UserError` for a run that is out of memory."""
    size = config['batch_gpu']
    smaller = next((n for n in sizes(size, _group(config)) if n < size), None)
    remedy = f'use --batch-gpu={smaller}, or --batch-gpu=auto, which finds the largest that fits' if smaller else \
        'a smaller --batch-gpu would change the minibatch statistics: use a smaller --cfg or images of a lower resolution'
    return UserError(f'{run_dir}: out of memory with --batch-gpu={size} ({" ".join(str(err).split())[:200]}); {remedy}. '
                     f'If the run has a state, add --fork-from={run_dir}')


def _group(config):
    per_process = config['batch_size'] // config['num_gpus']
    return min(config['D_kwargs']['epilogue_kwargs'].get('mbstd_group_size') or 1, per_process)


def _fits(trainer):
    """Another process may run out of memory where this one does not, so nothing is exchanged."""
    fits = True
    try:
        with distributed.alone():
            for _ in range(ITERATIONS):
                trainer.step()
    except torch.OutOfMemoryError:
        fits = False
    return fits


def _free_memory():
    """Of trainers that nobody uses any more; they refer to themselves, so that Python would keep them for a while."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
