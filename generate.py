"""Sample images from a trained generator: python generate.py --network=FILE --grid=8x6 --outdir=out"""

import math
import os
import re
import zipfile

import click
import numpy as np
import torch

from dnnlib import UserError, files
from dnnlib.util import user_errors
from torch_utils import misc
from training import image_grid, model_files
from training.config import torch_device

MAX_IMAGES = 100_000           # of one call


def parse_seeds(text):
    """'0,3,7-9' -> [0, 3, 7, 8, 9]."""
    seeds = []
    for part in text.split(','):
        match = re.fullmatch(r'\s*(\d{1,20})(?:-(\d{1,20}))?\s*', part)
        if match is None:
            raise UserError(f'--seeds={text}: {part!r} is neither a number nor a range; write it like 0,3,7-9')
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserError(f'--seeds={text}: the range {part.strip()} runs backwards; write {last}-{first}')
        if last >= 2 ** 32:
            raise UserError(f'--seeds={text}: a seed must be below 2^32')
        check_count(len(seeds) + last + 1 - first, f'--seeds={text}')
        seeds += range(first, last + 1)
    return seeds


def check_count(count, option):
    """Raises UserError for more images than anyone can have meant."""
    if count > MAX_IMAGES:
        raise UserError(f'{option}: these are {count} images, a call makes at most {MAX_IMAGES}; make them in several')


def parse_grid(text):
    """'8x6' -> (8, 6), columns and rows."""
    match = re.fullmatch(r'(\d{1,9})x(\d{1,9})', text)
    if match is None or 0 in map(int, match.groups()):
        raise UserError(f'--grid={text}: must be columns x rows, like 8x6')
    check_count(int(match[1]) * int(match[2]), f'--grid={text}')
    return int(match[1]), int(match[2])


def parse_class(text, c_dim, class_names):
    """Class number or name -> number; None stays None."""
    if text is None:
        return None
    if c_dim == 0:
        raise UserError(f'--class={text}: this generator is unconditional; leave --class out')
    if class_names and text in class_names:
        return class_names.index(text)
    if re.fullmatch(r'\d{1,9}', text) is None or int(text) >= c_dim:
        names = f' or one of {", ".join(class_names[:10])}{" ..." if len(class_names) > 10 else ""}' if class_names else ''
        raise UserError(f'--class={text}: must be a number from 0 to {c_dim - 1}{names}')
    return int(text)


def load_projected_w(path, G):
    """ws [n, num_ws, w_dim] from the entry 'w' of an .npz file."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            ws = torch.from_numpy(archive['w'].astype(np.float32))
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as err:
        raise UserError(f'--projected-w={path}: cannot be read ({err}); it must be an .npz file with an entry w') from err
    if ws.ndim != 3 or list(ws.shape[1:]) != [G.num_ws, G.w_dim]:
        raise UserError(f'--projected-w={path}: w has shape {list(ws.shape)}, this generator takes [n, {G.num_ws}, {G.w_dim}]')
    return ws


@torch.no_grad()
def synthesize(G, ws, noise_mode, batch, device):
    """ws [n, num_ws, w_dim] -> uint8 [n, C, H, W] on the CPU."""
    parts = [misc.to_uint8(G.synthesis(part.to(device), noise_mode=noise_mode)).cpu() for part in ws.split(batch)]
    return torch.cat(parts)


@torch.no_grad()
def latents_of_seeds(G, seeds, classes, trunc, device):
    """-> ws [n, num_ws, w_dim]. A seed gives the same image whatever the batch and the device."""
    z = torch.from_numpy(np.concatenate([np.random.RandomState(seed).randn(1, G.z_dim) for seed in seeds])).to(device, torch.float32)
    c = torch.zeros([len(seeds), G.c_dim], device=device)
    if G.c_dim > 0:
        c[torch.arange(len(seeds)), torch.tensor(classes)] = 1
    return G.mapping(z, c, truncation_psi=trunc)


def classes_of(seeds, columns, chosen, c_dim):
    """The class of each image: the chosen one, else one per row of the grid (one per image without a grid)."""
    return [chosen if chosen is not None else (i // (columns or 1)) % c_dim for i in range(len(seeds))] if c_dim > 0 else None


def labels_of(seeds, classes, class_names):
    """What is written under each image of a grid."""
    if classes is None:
        return [f'seed {seed}' for seed in seeds]
    name = lambda k: class_names[k] if class_names else f'class {k}'
    return [f'{name(k)}, seed {seed}' for seed, k in zip(seeds, classes, strict=True)]


@click.command(context_settings=dict(max_content_width=120))
@click.option('--network', help='Network: file, https:// address, hf:user/repo or a published name such as ffhq256', required=True, metavar='NETWORK')
@click.option('--outdir', help='Where to save the images', required=True, metavar='DIR')
@click.option('--seeds', help='Random seeds, like 0,3,7-9  [default: 0-15, or as many as the grid holds]', metavar='LIST')
@click.option('--grid', help='One image of so many columns and rows instead of single images', metavar='COLSxROWS')
@click.option('--labels', help='Write seed and class under the images of a grid', type=bool, default=True, show_default=True, metavar='BOOL')
@click.option('--trunc', help='Truncation psi: 1 = none, less = more typical', type=float, default=1, show_default=True)
@click.option('--class', 'class_text', help='Class number or name  [default: one class per row]', metavar='CLASS')
@click.option('--noise-mode', help='Noise of the synthesis', type=click.Choice(['const', 'random', 'none']), default='const', show_default=True)
@click.option('--projected-w', help='Latents to synthesise instead of seeds', metavar='FILE.npz')
@click.option('--batch', help='Images at a time', type=click.IntRange(min=1), default=16, show_default=True, metavar='INT')
@click.option('--device', help='Where to run', type=click.Choice(['auto', 'cuda', 'cpu', 'mps']), default='auto', show_default=True)
def main(**opts):
    """Save sample images of a trained generator."""
    with user_errors():
        generate(**opts)


def generate(network, outdir, seeds, grid, labels, trunc, class_text, noise_mode, projected_w, batch, device):
    """What the command does; options as of the command."""
    if not math.isfinite(trunc):
        raise UserError(f'--trunc={trunc}: must be a number such as 0.7')
    if projected_w is not None and (seeds is not None or class_text is not None or trunc != 1):
        raise UserError(f'--projected-w={projected_w}: the latents are given; leave --seeds, --class and --trunc out')
    columns, rows = parse_grid(grid) if grid is not None else (None, None)
    seeds = parse_seeds(seeds) if seeds is not None else list(range(columns * rows if grid else 16))
    device = torch_device(device)
    snapshot = model_files.load_snapshot(network, device)
    G, class_names = snapshot.G_ema, snapshot.info['training'].get('class_names')
    torch.manual_seed(0)                    # of --noise-mode=random
    if projected_w is not None:
        ws = load_projected_w(projected_w, G)
        captions, names = [f'w {i}' for i in range(len(ws))], [f'proj{i:02d}.png' for i in range(len(ws))]
    else:
        if trunc != 1:
            model_files.require_average_of_w(G, f'--trunc={trunc:g}', network)
        classes = classes_of(seeds, columns, parse_class(class_text, G.c_dim, class_names), G.c_dim)
        ws = latents_of_seeds(G, seeds, classes, trunc, device)
        captions, names = labels_of(seeds, classes, class_names), [f'seed{seed:04d}.png' for seed in seeds]
    if grid is not None and len(ws) > columns * rows:
        raise UserError(f'--grid={grid}: holds {columns * rows} images, there are {len(ws)}; use a larger grid')
    imgs = synthesize(G, ws, noise_mode, batch, device)
    files.make_dir(outdir)
    if grid is not None:
        picture = image_grid.to_labelled_grid(imgs, columns, captions) if labels else image_grid.to_grid(imgs, columns)
        names, pictures = ['grid.png'], [picture]
    else:
        pictures = [image_grid.to_grid(img[None], 1) for img in imgs]
    for name, picture in zip(names, pictures, strict=True):
        image_grid.save_image(picture, os.path.join(outdir, name))
    print(f'Saved {names[0]}{f" to {names[-1]}" if len(names) > 1 else ""} in {outdir}')


if __name__ == '__main__':
    main()
