"""Tensor helpers, statistics, checkpoints and custom operators: everything that knows torch but not GANs."""

import importlib

MOVED = {'safe_pickle': '.pickles.reader'}          # names that scripts import from earlier versions


def __getattr__(name):
    if name in MOVED:
        return importlib.import_module(MOVED[name], __name__)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
