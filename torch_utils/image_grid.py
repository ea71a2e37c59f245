"""Grids of sample images, written as one PNG."""

import math
import os

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import torch

from dnnlib import files

MOST_ROOM = 3                   # widths of an image that a text under it may take; longer ones are cut off


def to_grid(img_uint8, columns):
    """uint8 [N, C, H, W] -> PIL image, row by row; missing images at the end stay black."""
    n, c, h, w = img_uint8.shape
    rows = math.ceil(n / columns)
    grid = torch.zeros([rows * columns, c, h, w], dtype=torch.uint8)
    grid[:n] = img_uint8.cpu()
    grid = grid.reshape(rows, columns, c, h, w).permute(0, 3, 1, 4, 2).reshape(rows * h, columns * w, c).numpy()
    return PIL.Image.fromarray(grid[:, :, 0] if c == 1 else grid)


def to_labelled_grid(img_uint8, columns, labels, min_tile=64):
    """As `to_grid`, with a line of text under each image. Small images are enlarged, pixel by pixel, to at least
    `min_tile`; where a text is wider than that, there is room between the images."""
    n, _c, h, w = img_uint8.shape
    zoom = -(-min_tile // w)
    text_height = max(h * zoom // 10, 9)
    font = PIL.ImageFont.load_default(size=text_height)
    widest = math.ceil(max(map(font.getlength, labels), default=0)) + 6
    tile_w, tile_h = max(w * zoom, min(widest, MOST_ROOM * w * zoom)), h * zoom + text_height + 4
    sheet = PIL.Image.new('RGB', (columns * tile_w, math.ceil(n / columns) * tile_h), 'white')
    for i, label in enumerate(labels):
        tile = PIL.Image.new('RGB', (tile_w, tile_h), 'white')      # its own image cuts off long text
        tile.paste(to_grid(img_uint8[i:i + 1], 1).convert('RGB').resize((w * zoom, h * zoom),
                                                                        PIL.Image.Resampling.NEAREST))
        PIL.ImageDraw.Draw(tile).text((2, h * zoom + 1), label, fill='black', font=font)
        sheet.paste(tile, (i % columns * tile_w, i // columns * tile_h))
    return sheet


def save_image(image, path):
    """Writes a PIL image as PNG, whole or not at all."""
    with files.atomic_path(path) as temp:
        image.save(temp, format='png')


def save_images(imgs, names, outdir, what=None):
    """Writes images, uint8 [C, H, W] each, as single files as they come, and prints a line that names them by `what` or
    by their file names."""
    files.make_dir(outdir)
    for img, name in zip(imgs, names, strict=True):
        save_image(to_grid(img[None], 1), os.path.join(outdir, name))
    print(f'Saved {what or " to ".join(dict.fromkeys([names[0], names[-1]]))} in {outdir}')


def save_sheet(picture, name, outdir):
    """Writes a PIL image and prints a line."""
    files.make_dir(outdir)
    save_image(picture, os.path.join(outdir, name))
    print(f'Saved {name} in {outdir}')
