"""What the tests of health and of early stopping share."""

from small_runs import make_config


def config_of(data, *args, **changes):
    return make_config(data, '--batch=8', *args, **changes)
