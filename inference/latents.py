"""Images of a trained generator: seeds, classes and truncation from the command line, and their latents and
pictures."""

import math
import os
import re
import zipfile
import zlib

import numpy as np
import torch
import tqdm

from dnnlib import UserError
from torch_utils.images import to_uint8
from training.networks.architectures import abilities_of, require

from .trained_on import labels_are_vectors

MAX_IMAGES = 100_000            # of one command
MAX_TRUNC = 100                 # beyond this, every generator gives noise or NaN


def parse_seeds(text, option='--seeds'):
    """'0,3,7-9' -> [0, 3, 7, 8, 9]."""
    seeds = []
    for part in text.split(','):
        match = re.fullmatch(r'\s*(\d{1,20})(?:-(\d{1,20}))?\s*', part)
        if match is None:
            raise UserError(f'{option}={text}: {part!r} is neither a number nor a range; write it like 0,3,7-9')
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserError(f'{option}={text}: the range {part.strip()} runs backwards; write {last}-{first}')
        if last >= 2 ** 32:
            raise UserError(f'{option}={text}: a seed must be below 2^32')
        check_count(len(seeds) + last + 1 - first, f'{option}={text}')
        seeds += range(first, last + 1)
    return seeds


def check_count(count, option):
    """Raises UserError for a number of images that must be a mistake. option: as it was given, for the message."""
    if count > MAX_IMAGES:
        raise UserError(f'{option}: these are {count} images, a command makes at most {MAX_IMAGES}; run it '
                        'several times')


def parse_grid(text):
    """'8x6' -> (8, 6), columns and rows."""
    match = re.fullmatch(r'(\d{1,9})x(\d{1,9})', text)
    if match is None or 0 in map(int, match.groups()):
        raise UserError(f'--grid={text}: must be columns x rows, like 8x6')
    check_count(int(match[1]) * int(match[2]), f'--grid={text}')
    return int(match[1]), int(match[2])


def parse_truncs(text):
    """'0.5,0.7,1' -> [0.5, 0.7, 1.0]."""
    try:
        values = [float(part) for part in text.split(',')]
    except ValueError:
        values = [math.nan]
    if not all(abs(value) <= MAX_TRUNC for value in values):
        raise UserError(f'--trunc={text}: must be numbers such as 0.7, with commas between them, from -{MAX_TRUNC} to '
                        f'{MAX_TRUNC}')
    return values


def parse_class(text, G, info):
    """--class, a class number or name -> number; None stays None. Of a generator trained with vectors for labels, its
    numbers with commas between them -> tuple; there it must be given. info: of its snapshot."""
    c_dim, class_names = G.c_dim, info['training'].get('class_names')
    if c_dim > 0 and labels_are_vectors(info):
        return _parse_vector(text, c_dim)
    if text is None:
        return None
    if c_dim == 0:
        raise UserError(f'--class={text}: this generator is unconditional; leave --class out')
    if class_names and text in class_names:
        return class_names.index(text)
    if re.fullmatch(r'\d{1,9}', text) is None or int(text) >= c_dim:
        names = (f' or one of {", ".join(class_names[:10])}{" ..." if len(class_names) > 10 else ""}' if class_names
                 else '')
        raise UserError(f'--class={text}: must be a number from 0 to {c_dim - 1}{names}')
    return int(text)


def _parse_vector(text, c_dim):
    try:
        vector = tuple(float(part) for part in (text or '').split(','))
    except ValueError:
        vector = ()
    if len(vector) != c_dim or not all(map(math.isfinite, vector)):
        given = '--class' if text is None else f'--class={text}'
        raise UserError(f'{given}: this generator was trained with labels of {c_dim} numbers; give such a one, like '
                        f'--class={",".join(["0.5"] * min(c_dim, 3))}{",..." if c_dim > 3 else ""}')
    return vector


def check_trunc(trunc, G=None):
    """Refuses a truncation psi that is no number, or that the generator (None = not known yet) cannot follow."""
    if not abs(trunc) <= MAX_TRUNC:                 # NaN is refused, too
        raise UserError(f'--trunc={trunc:g}: must be a number such as 0.7, from -{MAX_TRUNC} to {MAX_TRUNC}')
    if G is not None and trunc != 1:
        require(abilities_of(G), 'truncation', f'--trunc={trunc:g}', 'use --trunc=1')


def check_noise(noise_mode, G):
    """Refuses a choice that the generator does not have."""
    if noise_mode != 'const':
        require(abilities_of(G), 'noise', f'--noise-mode={noise_mode}', 'leave --noise-mode out')


def load_projected_w(path, G):
    """ws [n, num_ws, w_dim] from the entry 'w' of an .npz file."""
    require(abilities_of(G), 'w', f'--projected-w={path}', 'leave it out')
    remedy = 'name a projected_w.npz of projector.py, or another .npz file with an entry w'
    if not os.path.isfile(path):
        raise UserError(f'--projected-w={path}: there is no such file; {remedy}')
    if not zipfile.is_zipfile(path):
        raise UserError(f'--projected-w={path}: is not an .npz file, or damaged; {remedy}')
    try:
        with open(path, 'rb') as f, np.load(f, allow_pickle=False) as archive:
            ws = torch.from_numpy(archive['w'].astype(np.float32))
    except (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, zlib.error, zipfile.BadZipFile) as err:
        raise UserError(f'--projected-w={path}: cannot be read ({err}); {remedy}') from err
    if ws.ndim != 3 or list(ws.shape[1:]) != [G.num_ws, G.w_dim]:
        raise UserError(f'--projected-w={path}: w has shape {list(ws.shape)}, this generator takes [n, {G.num_ws}, '
                        f'{G.w_dim}]')
    if len(ws) == 0 or not ws.isfinite().all():
        what = 'has numbers that are infinite or NaN' if len(ws) else 'is empty'
        raise UserError(f'--projected-w={path}: w {what}; {remedy}')
    return ws


def z_of_seeds(G, seeds):
    """-> z [n, z_dim] float64 on the CPU."""
    return torch.from_numpy(np.concatenate([np.random.RandomState(seed).randn(1, G.z_dim) for seed in seeds]))


def label_rows(G, classes, device):
    """Class numbers or vectors of `parse_class` -> c [n, c_dim]; None for an unconditional generator."""
    if G.c_dim == 0:
        return None
    row = lambda k: torch.tensor(k) if isinstance(k, tuple) else torch.nn.functional.one_hot(torch.tensor(k), G.c_dim)
    return torch.stack([row(k) for k in classes]).to(device, torch.float32)


@torch.no_grad()
def latents_of_seeds(G, seeds, classes, trunc, device):
    """-> ws [n, num_ws, w_dim]. A seed gives the same image in any batch and on any device."""
    check_trunc(trunc, G)
    truncation = {} if trunc == 1 else dict(truncation_psi=trunc)
    return G.mapping(z_of_seeds(G, seeds).to(device, torch.float32), label_rows(G, classes, device), **truncation)


def latents_in_parts(G, seeds, classes, trunc, batch, device):
    """As `latents_of_seeds`, `batch` images at a time."""
    for i in range(0, len(seeds), batch):
        part = None if classes is None else classes[i:i + batch]
        yield latents_of_seeds(G, seeds[i:i + batch], part, trunc, device)


def mix(row_ws, col_ws, layers):
    """ws [R, num_ws, w_dim] of the rows and [C, num_ws, w_dim] of the columns, these in `layers` -> [R, C, num_ws,
    w_dim]."""
    mixed = row_ws[:, None].repeat(1, len(col_ws), 1, 1)
    mixed[:, :, layers] = col_ws[:, layers]
    return mixed


def classes_of(seeds, columns, chosen, c_dim):
    """The class of each image: the chosen one, else one per row of the grid (one per image without a grid)."""
    return ([chosen if chosen is not None else (i // (columns or 1)) % c_dim for i in range(len(seeds))] if c_dim > 0
            else None)


def labels_of(seeds, classes, class_names):
    """The caption of each image of a grid."""
    if classes is None:
        return [f'seed {seed}' for seed in seeds]
    name = lambda k: (' '.join(f'{value:g}' for value in k) if isinstance(k, tuple)
                      else class_names[k] if class_names else f'class {k}')
    return [f'{name(k)}, seed {seed}' for seed, k in zip(seeds, classes, strict=True)]


def file_stems(seeds, classes, chosen):
    """The name of each image without its ending. Where the classes take turns (`chosen` is None), the class is in
    it."""
    turns = [''] * len(seeds) if classes is None or chosen is not None else [f'-class{k}' for k in classes]
    return [f'seed{seed:04d}{turn}' for seed, turn in zip(seeds, turns, strict=True)]


@torch.no_grad()
def synthesize_parts(G, parts, total, noise_mode, device):
    """ws [n, num_ws, w_dim] of each part -> uint8 [n, C, H, W] on the CPU, one after the other; a progress bar up to
    `total` images where there is a terminal.

    Raises UserError for noise that G does not have.
    """
    check_noise(noise_mode, G)
    with tqdm.tqdm(desc='Images', total=total, unit='img', leave=False, disable=None) as bar:
        for ws in parts:
            yield to_uint8(G.synthesis(ws.to(device), noise_mode=noise_mode)).cpu()
            bar.update(len(ws))


def synthesize(G, ws, noise_mode, batch, device):
    """ws [n, num_ws, w_dim] -> uint8 [n, C, H, W] on the CPU, `batch` at a time; otherwise as `synthesize_parts`."""
    return torch.cat(list(synthesize_parts(G, ws.split(batch), len(ws), noise_mode, device)))
