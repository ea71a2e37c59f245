"""Grids of sample images, written as one PNG."""

import math
import os

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import torch

from dnnlib import files

from . import misc

MAX_GRID = (7680, 4320)         # pixels, width and height


def grid_size(width, height, max_images):
    """(columns, rows) of a snapshot grid: as many images as fit MAX_GRID, at least 7x4, at most 32x32 and `max_images`."""
    columns = min(max(MAX_GRID[0] // width, 7), 32)
    rows = min(max(MAX_GRID[1] // height, 4), 32)
    if columns * rows > max_images:
        columns = min(columns, max(math.isqrt(max_images * 16 // 9), 1))
        rows = max(max_images // columns, 1)
    return columns, rows


def choose_reals(dataset, columns, rows, seed):
    """Items of the data set for a grid: random, but with one class per row where there are classes. -> list of columns * rows indices."""
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


def to_grid(img_uint8, columns):
    """uint8 [N, C, H, W] -> PIL image, row by row; missing images at the end stay black."""
    n, c, h, w = img_uint8.shape
    rows = math.ceil(n / columns)
    grid = torch.zeros([rows * columns, c, h, w], dtype=torch.uint8)
    grid[:n] = img_uint8.cpu()
    grid = grid.reshape(rows, columns, c, h, w).permute(0, 3, 1, 4, 2).reshape(rows * h, columns * w, c).numpy()
    return PIL.Image.fromarray(grid[:, :, 0] if c == 1 else grid)


def to_labelled_grid(img_uint8, columns, labels, min_tile=64):
    """As `to_grid`, with a line of text under each image; small images are enlarged, pixel by pixel, to at least `min_tile`."""
    n, _c, h, w = img_uint8.shape
    zoom = -(-min_tile // w)
    text_height = max(h * zoom // 10, 9)
    tile_w, tile_h = w * zoom, h * zoom + text_height + 4
    sheet = PIL.Image.new('RGB', (columns * tile_w, math.ceil(n / columns) * tile_h), 'white')
    font = PIL.ImageFont.load_default(size=text_height)
    for i, label in enumerate(labels):
        tile = PIL.Image.new('RGB', (tile_w, tile_h), 'white')              # of its own: it cuts off what is too long
        tile.paste(to_grid(img_uint8[i:i + 1], 1).convert('RGB').resize((w * zoom, h * zoom), PIL.Image.Resampling.NEAREST))
        PIL.ImageDraw.Draw(tile).text((2, h * zoom + 1), label, fill='black', font=font)
        sheet.paste(tile, (i % columns * tile_w, i // columns * tile_h))
    return sheet


def save_image(image, path):
    """Writes a PIL image as PNG, whole or not at all."""
    with files.atomic_path(path) as temp:
        image.save(temp, format='png')


def save_images(img_uint8, names, outdir, what=None):
    """Writes uint8 [N, C, H, W] as single files and says so, by `what` they are, or else by their names."""
    files.make_dir(outdir)
    for img, name in zip(img_uint8, names, strict=True):
        save_image(to_grid(img[None], 1), os.path.join(outdir, name))
    print(f'Saved {what or " to ".join(dict.fromkeys([names[0], names[-1]]))} in {outdir}')


def save_sheet(picture, name, outdir):
    """Writes a PIL image and says so."""
    files.make_dir(outdir)
    save_image(picture, os.path.join(outdir, name))
    print(f'Saved {name} in {outdir}')


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
        self._save(torch.cat([misc.to_uint8(G(zs, cs, noise_mode='const')).cpu() for zs, cs in batches]), name)

    def _save(self, img_uint8, name):
        save_image(to_grid(img_uint8, self.columns), os.path.join(self.run_dir, name))
