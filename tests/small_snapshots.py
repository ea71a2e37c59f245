"""A small snapshot."""

import pathlib

import pytest

from training import networks
from training.snapshots import files as snapshots

ROOT = pathlib.Path(__file__).parent.parent
KWARGS = dict(class_name='training.networks.Generator', z_dim=8, c_dim=2, w_dim=8, img_resolution=16, img_channels=3,
              mapping_kwargs=dict(num_layers=2), synthesis_kwargs=dict(channel_base=64, channel_max=8))


def make_generator():
    return networks.Generator(**{key: value for key, value in KWARGS.items() if key != 'class_name'}).eval()


@pytest.fixture
def snapshot(tmp_path):
    path = str(tmp_path / 'network-snapshot-000001.safetensors')
    snapshots.save_networks(path, dict(G_ema=make_generator()), dict(G_ema=KWARGS, G=KWARGS), dict(cur_nimg=1000))
    return path
