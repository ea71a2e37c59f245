"""The grids of sample images of a run, of the same latents every time."""

import math
import os

import numpy as np
import torch

from torch_utils.image_grid import save_image, to_grid
from torch_utils.images import to_uint8

MAX_GRID = (7680, 4320)         # pixels, width and height


def grid_size(width, height, max_images):
    """(columns, rows) of a snapshot grid: as many images as fit MAX_GRID, at least 7x4, at most 32x32 and
    `max_images`."""
    columns = min(max(MAX_GRID[0] // width, 7), 32)
    rows = min(max(MAX_GRID[1] // height, 4), 32)
    if columns * rows > max_images:
        columns = min(columns, max(math.isqrt(max_images * 16 // 9), 1))
        rows = max(max_images // columns, 1)
    return columns, rows


def choose_reals(dataset, columns, rows, seed):
    """Items of the data set for a grid: random, but with one class per row where there are classes. -> list of columns
    * rows indices."""
    rng = np.random.RandomState(seed)
    if not dataset.has_onehot_labels or not dataset.has_labels:
        order = rng.permutation(len(dataset))
        return [int(order[i % len(order)]) for i in range(columns * rows)]
    by_class = {}
    for i in rng.permutation(len(dataset)):
        by_class.setdefault(int(dataset.get_label(int(i)).argmax()), []).append(int(i))
    classes = sorted(by_class)
    picks = []
    for row in range(rows):
        members = by_class[classes[row % len(classes)]]
        start = row // len(classes) * columns
        picks += [members[(start + i) % len(members)] for i in range(columns)]
    return picks


class SampleGrid:
    """The grids of a run: the same reals, the same latents and the labels of the reals every time.

    Args:
        dataset:    where reals and labels come from.
        run_dir:    where the files go.
        device:     of the generator.
        max_images: per grid.
        seed:       of the choice and of the latents.
        batch_size: generated at a time.
    """

    def __init__(self, dataset, run_dir, device, max_images, seed, batch_size):
        self.dataset, self.run_dir, self.device = dataset, run_dir, device
        self.seed, self.batch_size = seed, batch_size
        self.columns, rows = grid_size(dataset.resolution, dataset.resolution, max_images)
        self.items = choose_reals(dataset, self.columns, rows, seed)

    def save_reals(self, name):
        self._save(torch.from_numpy(np.stack([self.dataset[i][0] for i in self.items])), name)

    @torch.no_grad()
    def save_fakes(self, G, name):
        z = torch.randn([len(self.items), G.z_dim], generator=torch.Generator().manual_seed(self.seed)).to(self.device)
        c = torch.from_numpy(np.stack([self.dataset.get_label(i) for i in self.items])).to(self.device)
        batches = zip(z.split(self.batch_size), c.split(self.batch_size), strict=True)
        self._save(torch.cat([to_uint8(G(zs, cs, noise_mode='const')).cpu() for zs, cs in batches]), name)

    def _save(self, img_uint8, name):
        save_image(to_grid(img_uint8, self.columns), os.path.join(self.run_dir, name))
