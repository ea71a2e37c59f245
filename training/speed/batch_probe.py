"""--batch-gpu=auto: the largest micro-batch that fits into memory, and what to say where one does not."""

import contextlib
import gc
import io

import torch

from dnnlib import UserError
from dnnlib.text import one_line
from torch_utils import distributed
from torch_utils.devices import out_of_memory

from ..networks.architectures import of_class
from ..run import found_out
from ..run.files import total_images

ITERATIONS = 5                  # from the second iteration on, the averages of the optimisers are in memory
# With --cuda-graphs=1, which records the fourth call of each kind: AGKD draws one of two kinds per call
RECORDING_ITERATIONS = 32


def settle(config, run_dir, build):
    """Puts the micro-batch into `config`: found at the start of a run, recorded, and kept from then on.

    Args:
        build: function of a configuration that makes a `Training`; each is used up.
    """
    if 'batch_gpu' not in config['found_out']:
        config['batch_gpu'] = config['found_out']['batch_gpu'] = largest(config, build)
        distributed.print0(f'--batch-gpu=auto: {config["batch_gpu"]} images at a time.')
        if distributed.get_rank() == 0:
            found_out.write(run_dir, config['found_out'])


def largest(config, build):
    """The first of `sizes` with which some iterations of all phases fit on all processes. Raises UserError if there is
    none."""
    per_process = config['batch_size'] // config['num_gpus']
    for size in sizes(per_process, _group(config)):
        training = build(dict(config, batch_gpu=size))
        try:
            # Silences lines that the first process prints once; here, each process would print them
            with contextlib.redirect_stdout(io.StringIO()):
                fits = _fits(training)
        except UserError as err:
            # the device is unusable now, even for a smaller size
            raise UserError(f'--batch-gpu=auto, trying {size} images at a time: {err}') from err
        del training
        _free_memory()
        if not distributed.any_process(not fits):
            return size
    raise UserError(f'--batch-gpu=auto: not even {size} images at a time fit into memory; use a smaller --cfg or '
                    'images of a lower resolution')


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
    if config['batch_gpu_auto'] and 'batch_gpu' not in config['found_out']:
        return UserError(f'{run_dir}: out of memory before the first step ({one_line(err)}), where no --batch-gpu '
                         'helps; use a smaller --cfg or images of a lower resolution')
    size = config['batch_gpu']
    smaller = next((n for n in sizes(size, _group(config)) if n < size), None)
    remedy = f'use --batch-gpu={smaller}, or --batch-gpu=auto, which finds the largest that fits' if smaller else \
        'a smaller --batch-gpu would change the minibatch statistics: use a smaller --cfg or images of a lower ' \
        'resolution'
    return UserError(f'{run_dir}: out of memory with --batch-gpu={size} ({one_line(err)}); {remedy}. '
                     f'If the run has a state, add --fork-from={run_dir}')


def _group(config):
    """Images of a process that share statistics."""
    per_process = config['batch_size'] // config['num_gpus']
    return of_class(config['D_kwargs']['class_name']).batch_multiple(config['D_kwargs'], per_process, per_process)


def _fits(training):
    """Runs the last steps of the schedule, when every warm-up is over, each with all phases. Nothing is exchanged,
    since another process may run out of memory where this one does not.
    """
    c = training.config
    steps = RECORDING_ITERATIONS if c.cuda_graphs is True else ITERATIONS
    training.cur_nimg = max(total_images(c) - steps * c.batch_size, 0)
    try:
        with distributed.alone():
            training.speed_up(lambda _text: None)           # the run itself will print it
            for _ in range(steps):
                training.batch_idx = training.phases[0].offset      # at which all phases are due
                training.step()
    except RuntimeError as err:
        if not out_of_memory(err):
            raise
        return False
    return True


def _free_memory():
    """Of trainings that are no longer used; they refer to themselves, so Python would keep them for a while."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
