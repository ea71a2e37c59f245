"""Finds the images that a network was trained on: its snapshot has their name, its run the path."""

import contextlib
import os

from dnnlib import UserError
from dnnlib.published import without_folders
from training import model_files
from training.dataset import ImageFolderDataset
from training.dataset import demo as demo_data
from training.dataset.convert import WHITE, check_levels
from training.dataset.folder import chosen_kwargs
from training.run.find import read_options

MOST_TIMES = 9          # that a data set was made of another one


def real_images(given, option, network, info, measured=False):
    """class_name and arguments of the data set to compare a network's images with: without `given`, those that were
    trained on.

    Args:
        given:    what the user named with `option`: a path, or 'demo'; None = the images of the training.
        network:  what the user calls the network.
        info:     of its snapshot.
        measured: if the training measured against other images, use those.
    Raises: UserError if the images of the training are not known or not there any more.
    """
    if given is not None:
        size = info['networks']['G_ema']['img_resolution']
        return _as_folder(demo_data.demo_set(size) if given == 'demo' else given)
    kwargs, others = metric_set(network, info) if measured else (training_set(network, info), False)
    path = kwargs.get('path')                       # never the class, since files must not name code to run
    if not isinstance(path, str):
        raise UserError(network, 'the snapshot does not say what it was trained on',
                        f'name the real images with {option}=PATH')
    if not os.path.exists(path) and network in model_files.SHIPPED:
        raise UserError(f'--network={network}', 'comes with the project without the images that it was trained on',
                        f'use {option}=demo, drawn faces, or name real images with {option}=PATH')
    if not os.path.exists(path):
        used = 'measured against' if others else 'trained on'
        raise UserError(path, f'the data set that the snapshot was {used} is not there any more',
                        f'name it with {option}=PATH')
    return _as_folder(path, **chosen_kwargs(kwargs))


def _as_folder(path, **chosen):
    return dict(class_name='training.dataset.ImageFolderDataset', path=path, **chosen)


def training_set(network, info):
    """Constructor arguments of the data set, as far as they are known; 'path' is missing if it is unknown.

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


def measured_with(info):
    """-> (batch_norm, uniform_labels) by which the run measured, as in `metrics.metric_utils.MetricOptions`."""
    kwargs = info['training'].get('options', {}).get('metric_kwargs') or {}
    return kwargs.get('batch_norm'), bool(kwargs.get('uniform_labels'))


def labels_are_vectors(info):
    """Whether a network was trained with labels that are vectors, not classes. info: of its snapshot."""
    return bool(info['training'].get('dataset', {}).get('label_vectors'))


def refuse_vectors(info, where, remedy):
    """Raises UserError, which says `where` and the `remedy`, for a network that a page of classes cannot show: one that
    was trained with vectors for labels. info: of its snapshot."""
    if labels_are_vectors(info):
        raise UserError(where, 'the network was trained with vectors for labels, and the page knows classes', remedy)


def data_has_vectors(network, info):
    """The same by the training images themselves, for files that do not say it, such as training states; False where
    they cannot be read any more. Args: as of `training_set`."""
    path = training_set(network, info).get('path')
    if not isinstance(path, str) or not os.path.exists(path):
        return False
    try:
        with contextlib.closing(ImageFolderDataset(path, use_labels=True)) as dataset:
            return dataset.has_labels and not dataset.has_onehot_labels
    except UserError:
        return False


def levels(info, black=None, white=None):
    """-> (black, white) by which 16-bit pictures become 8 bits: as given or, where that is None, as those of the
    training did, by the record. info: of the snapshot. Raises UserError if they are none."""
    record = info['training'].get('dataset', {}).get('record') or {}
    for _ in range(MOST_TIMES):                         # a data set may be made of another one
        if not isinstance(record.get('source_record'), dict):
            break
        record = record['source_record']
    found = [record.get(name) if type(record.get(name)) is int else default
             for name, default in (('black', 0), ('white', WHITE))]
    usual = found if found[0] < found[1] else (0, WHITE)            # files come from strangers
    black, white = [usual[i] if value is None else value for i, value in enumerate((black, white))]
    check_levels(black, white)
    return black, white


def _recorded(key, network, info):
    recorded = info['training'].get('options', {}).get(key) or {}
    path = recorded.get('path')                         # in older snapshots the whole path
    if not isinstance(path, str) or os.path.dirname(path) or not model_files.is_local(network):
        return recorded
    options = read_options(os.path.dirname(network)) or {}
    of_run = (options.get(key) or {}).get('path')
    same = isinstance(of_run, str) and without_folders(dict(path=of_run))['path'] == path
    return dict(recorded, path=of_run) if same else recorded
