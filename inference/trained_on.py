"""Where the images are that a network was trained on: its snapshot has their name, its run the path."""

import os

from dnnlib.published import without_folders
from training import model_files
from training.run.find import read_options


def training_set(network, info):
    """Constructor arguments of the data set, as far as they are known; 'path' is missing where nothing is known of it.

    Args:
        network: what the user calls the network.
        info:    of its snapshot.
    """
    return _recorded('training_set_kwargs', network, info)


def metric_set(network, info):
    """-> (constructor arguments of the images that the run measured against, whether these are others than those of the
    training)."""
    other = _recorded('metric_set_kwargs', network, info)
    return other or training_set(network, info), bool(other)


def _recorded(key, network, info):
    recorded = info['training'].get('options', {}).get(key) or {}
    path = recorded.get('path')                         # in older snapshots the whole path
    if not isinstance(path, str) or os.path.dirname(path) or not model_files.is_local(network):
        return recorded
    options = read_options(os.path.dirname(network)) or {}
    of_run = (options.get(key) or {}).get('path')
    same = isinstance(of_run, str) and without_folders(dict(path=of_run))['path'] == path
    return dict(recorded, path=of_run) if same else recorded
