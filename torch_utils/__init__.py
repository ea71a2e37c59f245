"""Tensor helpers, statistics, checkpoints and custom operators: everything that knows torch but not GANs."""

from dnnlib import lazy

# A name that scripts import from earlier versions
__getattr__ = lazy.attributes(__name__, {'safe_pickle': '.pickles.reader'})
