"""Snapshots of small generators for the commands that make images."""

import gc
import warnings

import imageio.v3 as iio
import torch

from training import networks
from training.snapshots import files as snapshots

KWARGS = dict(class_name='training.networks.Generator', z_dim=4, c_dim=3, w_dim=4, img_resolution=16, img_channels=3,
              mapping_kwargs=dict(num_layers=1), synthesis_kwargs=dict(channel_base=64, channel_max=8))


def save(path, dataset=None, class_names=('cat', 'dog', 'fox'), **changes):
    """dataset: what the snapshot says of it; changes: of the network's arguments."""
    kwargs = {**KWARGS, **changes}
    torch.manual_seed(0)
    G = networks.Generator(**{k: v for k, v in kwargs.items() if k != 'class_name'})
    for name, p in G.named_parameters():
        if name.endswith('noise_strength'):
            p.data.fill_(0.3)
    snapshots.save_networks(str(path), dict(G_ema=G), dict(G_ema=kwargs),
                            dict(class_names=list(class_names), cur_nimg=0, dataset=dataset))
    return G.eval()


def read_video(path):
    """-> uint8 [frames, H, W, 3], frames per second."""
    with warnings.catch_warnings():
        # Of the reader, which leaves its pipes open
        warnings.simplefilter('ignore', ResourceWarning)
        frames, fps = iio.imread(path, plugin='FFMPEG'), iio.immeta(path, plugin='FFMPEG')['fps']
        gc.collect()
    return frames, fps
