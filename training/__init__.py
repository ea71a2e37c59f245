"""Training: the step, its networks, data and methods, and the run that keeps them on disk."""

import importlib

MOVED = {'legacy_pytorch': '.snapshots.pickle_pytorch'}         # names that scripts import from earlier versions


def __getattr__(name):
    if name in MOVED:
        return importlib.import_module(MOVED[name], __name__)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
