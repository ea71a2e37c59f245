"""Training: the step, its networks, data and methods, and the run that keeps them on disk."""

from dnnlib import lazy

# A name that scripts import from earlier versions
__getattr__ = lazy.attributes(__name__, {'legacy_pytorch': '.snapshots.pickle_pytorch'})
