"""Generated images next to the training images nearest to them: are they new, or learnt by heart?"""

import math
import os

import torch
import tqdm

import dnnlib
from torch_utils import image_grid
from torch_utils.images import check_fit

from .trained_on import real_images, training_set

DISTANCES = dict(pixels='root of the mean squared difference of the pixels, 0 to 255',
                 teacher='1 - cosine of the features')


def open_training_images(data, mirror, snapshot, network):
    """The images that a generator was trained on.

    Args:
        data:     a folder, a zip or 'demo'; None = what the snapshot says.
        mirror: also each image mirrored; None = as in the training, if known.
        snapshot: of the generator.
        network:  what the user calls it.
    Raises:       UserError if they are not there, or are of another size or kind than what the network makes.
    """
    G, info = snapshot.G_ema, snapshot.info
    kwargs = real_images(data, '--data', network, info)
    mirror = bool(training_set(network, info).get('xflip', False)) if mirror is None else mirror
    dataset = dnnlib.util.construct_class_by_name(**kwargs, xflip=mirror)
    check_fit(dataset, f'--data={kwargs["path"]}', G.img_channels, G.img_resolution)
    return dataset


def pixel_features(img_uint8):
    """uint8 [N, C, H, W] -> [N, C * H * W], so scaled that the Euclidean distance is the root of the mean squared
    difference."""
    return img_uint8.flatten(1).to(torch.float32) / math.sqrt(img_uint8[0].numel())


def unit_features(detector):
    """Features of length 1."""
    return lambda img_uint8: torch.nn.functional.normalize(detector(img_uint8), dim=1)


def pixel_distance(a, b):
    """[Q, F], [N, F] of `pixel_features` -> [Q, N]. Exact for close ones: no difference of large squares."""
    return torch.cdist(a, b, compute_mode='donot_use_mm_for_euclid_dist')


def cosine_distance(a, b):
    """[Q, F], [N, F] of length 1 -> [Q, N], 1 - cosine = |a - b|^2 / 2."""
    return pixel_distance(a, b).square() / 2


class Nearest:
    """The k smallest of all distances that `show` has seen; memory does not grow with their number.

    Attributes:
        distances: [Q, k] ascending; fewer than k while fewer were shown.
        items:     [Q, k] their numbers; of equal distances, the one shown first comes first.
    """

    def __init__(self, k):
        self.k, self.distances, self.items = k, None, None

    def show(self, distances, items):
        """[Q, N] distances and numbers."""
        if self.distances is not None:
            distances, items = torch.cat([self.distances, distances], dim=1), torch.cat([self.items, items], dim=1)
        order = distances.sort(dim=1, stable=True)
        self.distances, self.items = order.values[:, :self.k], items.gather(1, order.indices[:, :self.k])


def find_neighbors(imgs, dataset, features, distance, k, batch, device):
    """-> `Nearest` of generated images among all of a data set; of an image and its mirrored one, the nearer counts.

    Args:
        imgs:     uint8 [Q, C, H, W].
        features: uint8 [N, C, H, W] on the device -> [N, F].
        distance: [Q, F], [N, F] -> [Q, N].
    """
    queries = torch.cat([features(part.to(device)) for part in imgs.split(batch)])
    found = Nearest(k)
    with tqdm.tqdm(desc='Features of the training images', total=dataset.num_images, unit='img', leave=False,
                   disable=None) as bar:
        for start in range(0, dataset.num_images, batch):
            items = torch.arange(start, min(start + batch, dataset.num_images), device=device)
            part = _images(dataset, items.tolist()).to(device)
            distances, items = distance(queries, features(part)), items.expand(len(queries), -1)
            if dataset.xflip:
                mirrored = distance(queries, features(part.flip(3)))
                items = torch.where(mirrored < distances, items + dataset.num_images, items)
                distances = torch.minimum(mirrored, distances)
            found.show(distances, items)
            bar.update(len(part))
    return found


def _images(dataset, items):
    return torch.stack([torch.from_numpy(dataset[i][0]) for i in items])


def name_of(dataset, item):
    """File name of an item within the data set, and whether it is the mirrored one."""
    details = dataset.get_details(item)
    return dataset.files.names[details.raw_idx], details.xflip


def sheet(imgs, captions, dataset, found):
    """A row for each generated image, at the left, then its neighbours with their distances; images of at least 96
    pixels."""
    columns, tiles, labels = 1 + found.items.shape[1], [], []
    for img, caption, items, distances in zip(imgs, captions, found.items.tolist(), found.distances.tolist(),
                                              strict=True):
        tiles += [img[None], _images(dataset, items)]
        labels += [caption, *(f'{distance:#.3g} {_short(dataset, item)}'
                              for item, distance in zip(items, distances, strict=True))]
    return image_grid.to_labelled_grid(torch.cat(tiles), columns, labels, min_tile=96)


def _short(dataset, item):
    return os.path.splitext(os.path.basename(name_of(dataset, item)[0]))[0]


def as_records(seeds, classes, dataset, found):
    """JSON-able: for each generated image its seed, its class and its neighbours, the nearest first."""
    records = []
    for i, seed in enumerate(seeds):
        nearest = []
        for item, distance in zip(found.items[i].tolist(), found.distances[i].tolist(), strict=True):
            name, mirrored = name_of(dataset, item)
            nearest.append(dict(image=name, mirrored=mirrored, distance=distance))
        records.append({'seed': seed, 'class': classes[i] if classes is not None else None, 'nearest': nearest})
    return records
