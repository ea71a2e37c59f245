"""Conversion of images between networks, [-1, 1], and files, 0..255; whether a data set fits a network."""

import torch

from dnnlib import UserError
from dnnlib.text import size_of


def to_uint8(img):
    """Images in [-1, 1] -> uint8, rounded and clipped: how they are saved, and how every metric sees them."""
    return (img.to(torch.float32) * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def to_float(img_uint8, dtype=None):
    """Images in 0..255 -> [-1, 1], a new tensor on the same device, float32 unless another dtype is given."""
    return img_uint8.to(dtype or torch.float32, copy=True).div_(127.5).sub_(1)


def check_fit(dataset, where, channels, resolution, c_dim=0, size_remedy=None, label_remedy=None):
    """Raises UserError unless the images of a data set are of the size and kind, and its labels of the width, that a
    network has.

    Args:
        where: the option that names the data set, and its value.
        channels, resolution, c_dim: of the network; c_dim = 0: labels do not matter.
        size_remedy, label_remedy: where the size or the labels differ; None = give the images of the training.
    """
    made, usual = [channels, resolution, resolution], 'give the data set that the network was trained on'
    if list(dataset.image_shape) != made:
        raise UserError(where, f'images are {size_of(*dataset.image_shape)}, the network makes {size_of(*made)}',
                        size_remedy or usual)
    if c_dim not in (0, dataset.label_dim):
        raise UserError(where, f'labels have {dataset.label_dim} dimensions, the network takes {c_dim}',
                        label_remedy or usual)
