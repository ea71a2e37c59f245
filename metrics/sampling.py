"""Whose statistics the batch norms of a generator use when it is measured: a part of the protocol of a metric."""

import contextlib
import copy
import dataclasses

from dnnlib import UserError

from . import draws
from .registry import find_metric

BATCH = 50                      # images that are normalised together, as the public programs for CIFAR sample
STANDING_BATCHES = 16           # as BigGAN-PyTorch

# What the record says of each. The running averages are those of the training; with 'batch' an image depends on the
# others of its batch; standing statistics are means over batches that are made for them (BigGAN, appendix C).
MODES = {'running': 'running averages', 'batch': f'each batch of {BATCH} by its own',
         'standing': f'means over {STANDING_BATCHES} batches of {BATCH}'}


def mode_of(opts) -> str | None:
    """The mode that the options ask for, or the usual one; None where the generator has no batch norm."""
    if opts.batch_norm is not None and opts.batch_norm not in MODES:
        raise ValueError(f'batch_norm is {opts.batch_norm!r}, it must be one of {", ".join(MODES)}')
    return opts.batch_norm or ('running' if hasattr(opts.G, 'batch_statistics') else None)


def check(metrics: list[str], batch_norm: str | None, option: str) -> None:
    """Raises UserError for metrics of single images where an image would depend on its batch."""
    alone = next((name for name in metrics if find_metric(name)[0].alone), None)
    if batch_norm == 'batch' and alone is not None:
        raise UserError(f'{option}: {alone} compares an image with the same image, a little changed, and with these '
                        'statistics both depend on the others of their batch; measure it with calc_metrics.py '
                        '--bn=running')


def prepared(opts):
    """`MetricOptions` with a generator that has the statistics, and batches that can be normalised together.

    The generator that is measured stays as it is: standing statistics are those of a copy. Their images follow from the
    seed, the same on all processes.
    """
    mode = mode_of(opts)
    if mode == 'batch':
        return dataclasses.replace(opts, batch_size=max(opts.batch_size // BATCH, 1) * BATCH)
    if mode == 'standing':
        opts = dataclasses.replace(opts, G=copy.deepcopy(opts.G))
        batches = [range(i * BATCH, (i + 1) * BATCH) for i in range(STANDING_BATCHES)]
        opts.G.standing_statistics([(draws.latents(opts, items, 'standing latents'),
                                     draws.labels(opts, items, 'standing labels')) for items in batches])
    return opts


def made_together(opts, items: range) -> list[range]:
    """The batches in which images of these numbers are made; whole ones where they are normalised together."""
    if mode_of(opts) == 'batch':
        return [range(start, start + BATCH) for start in range(items.start // BATCH * BATCH, items.stop, BATCH)]
    starts = range(items.start, items.stop, opts.at_once)
    return [range(start, min(start + opts.at_once, items.stop)) for start in starts]


def statistics(opts) -> contextlib.AbstractContextManager:
    """Within it, the generator works by the mode, and nothing in it changes."""
    return opts.G.batch_statistics() if mode_of(opts) == 'batch' else contextlib.nullcontext()
