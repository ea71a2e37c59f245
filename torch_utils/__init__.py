"""Tensor helpers, statistics, checkpoints and custom operators: everything that knows torch but not GANs."""
