"""How a batch is divided over processes and into micro-batches, and what to say where it cannot be."""

import itertools
import math
from typing import NamedTuple

from dnnlib import UserError

from ..networks.architectures import of_class


class Split(NamedTuple):
    """Rules of a configuration: processes, the discriminator's arguments, and the micro-batch that the user asked for
    (None = all images of a process)."""
    processes: int
    D_kwargs: dict
    given: int | None

    def multiple(self, size, per_process):
        """A micro-batch of `size` must be a multiple of this."""
        return of_class(self.D_kwargs['class_name']).batch_multiple(self.D_kwargs, size, per_process)

    def divides(self, per_process, size):
        """Whether micro-batches of `size` images are possible."""
        return per_process % size == 0 and size % self.multiple(size, per_process) == 0

    def sizes(self, per_process):
        """The micro-batches that are possible with statistics over as many images as the whole has."""
        group = self.multiple(per_process, per_process)
        return [size for size in range(group, per_process + 1)
                if self.divides(per_process, size) and self.multiple(size, per_process) == group]

    def next_batch(self, batch):
        """-> (the smallest batch from `batch` on that can be divided, whether only without the micro-batch given)."""
        if self.given is not None:
            step = self.processes * self.given
            first = math.ceil(batch / step) * step
            if self.divides(first // self.processes, self.given):
                return first, False
        first = math.ceil(batch / self.processes)
        per_process = next(size for size in itertools.count(first) if self.divides(size, size))
        return per_process * self.processes, self.given is not None


def check_micro_batch(config, opts):
    """Raises UserError if the batch cannot be divided, with a remedy that can; needs schedule and networks."""
    batch, size = config.batch_size, config.batch_gpu
    split = Split(config.num_gpus, config.D_kwargs, None if opts.batch_gpu in (None, 'auto') else opts.batch_gpu)
    per_process = batch // split.processes
    if batch % split.processes == 0 and split.divides(per_process, size):
        return
    larger, alone = split.next_batch(batch)
    remedy = f'use --batch={larger}' + (' and leave --batch-gpu out' if alone else '')
    where = f'--batch={batch}' + ('' if opts.batch else f' (the default of --cfg={opts.cfg})')
    if batch % split.processes != 0:
        raise UserError(f'{where}: cannot be split evenly over {split.processes} processes; {remedy}')
    if split.given is not None:
        where, remedy = f'--batch-gpu={size}', remedy_of_size(split, per_process) or remedy
    if split.multiple(1, per_process) == per_process > 1:
        problem = f'the networks of --cfg={opts.cfg} normalise over the whole batch of {per_process}'
    elif per_process % size != 0:
        problem = f'does not divide the {per_process} images per process'
    else:
        problem = (f'{size} images at a time cannot be split into groups of '
                   f'{split.multiple(size, per_process)} for the minibatch statistics of --cfg={opts.cfg}')
    raise UserError(f'{where}: {problem}; {remedy}')


def remedy_of_size(split, per_process):
    """The micro-batch to use in the place of the one given, the next smaller one if there is one; None = there is
    none for this batch."""
    sizes = split.sizes(per_process)
    best = max((size for size in sizes if size < split.given), default=min(sizes, default=None))
    return 'leave --batch-gpu out' if best == per_process else best and f'use --batch-gpu={best}'
