"""The files of a projection: its target pictures, its state between two sessions, its results."""

import functools
import json
import os
import pathlib
from typing import NamedTuple

import numpy as np
import PIL.Image
import torch

from dnnlib import UserError, files
from dnnlib.published import without_folders
from torch_utils import checkpoint, image_grid
from torch_utils.images import to_uint8
from training.dataset.convert import WHITE, Resizer, UnusableImage, open_image, to_rgb_or_grey
from training.dataset.files import ImageFiles

STATE_FILE = 'projection-state.safetensors'


class Target(NamedTuple):
    """A picture to project."""
    name: str                       # of its results
    source: str                     # where it was found
    img: torch.Tensor               # uint8 [C, H, W]


def read_targets(text, size, num_channels, black=0, white=WHITE):
    """'photo.png,folder' -> list of `Target`, each centre-cropped and resized to size x size, as `dataset_tool.py` does
    it.

    Args:
        text:         pictures and folders of pictures, with commas between them.
        num_channels: 1 = grey, 3 = RGB.
        black, white: of 16-bit pictures, as in `to_rgb_or_grey`.
    Raises: UserError for a missing file, a file that is no picture, or two of the same name.
    """
    targets, sources = [], {}
    for path in [text] if os.path.exists(text) else [part.strip() for part in text.split(',')]:
        for source, data in _pictures(path):
            name = os.path.splitext(os.path.basename(source))[0]
            if name in sources:
                raise UserError(f'--target={text}: the results of {sources[name]} and {source} would have the same '
                                f'name, {name}; rename one of them, or project them one at a time')
            sources[name] = source
            targets.append(Target(name, source, _convert(source, data, size, num_channels, black, white)))
    return targets


def _pictures(path):
    """-> (where, bytes) of each picture."""
    if os.path.isdir(path):
        folder = ImageFiles(path)
        if not folder.names:
            raise UserError(f'--target={path}: there is no picture in this folder; name a picture, or a folder '
                            'of pictures')
        reads = {os.path.join(path, name): functools.partial(folder.read, name) for name in folder.names}
    elif os.path.isfile(path):
        reads = {path: pathlib.Path(path).read_bytes}
    else:
        raise UserError(f'--target={path}: there is no such file; name a picture, or a folder of pictures')
    for path, read in reads.items():
        try:
            yield path, read()
        except OSError as err:
            raise UserError(f'--target={path}: cannot be read ({err.strerror or err}); correct its permissions, or '
                            'leave it out') from err


def _convert(source, data, size, num_channels, black, white):
    try:
        img = to_rgb_or_grey(open_image(data), 'rgb' if num_channels == 3 else 'grey', black, white)
    except UnusableImage as err:
        raise UserError(f'--target={source}: {err}') from err
    except PIL.UnidentifiedImageError as err:
        raise UserError(f'--target={source}: is not a picture, or damaged at its beginning; save it as PNG or '
                        'JPEG') from err
    except Exception as err:                        # decoders raise anything for a damaged file
        raise UserError(f'--target={source}: is damaged ({type(err).__name__}: {err}); copy or save it again') from err
    pixels = np.array(Resizer('center-crop', size, size, 'lanczos')(img))
    return torch.from_numpy(pixels.reshape(size, size, num_channels).transpose(2, 0, 1).copy())


def save_state(outdir, settings, first, projection):
    """Writes how far `projection` is; it works on the targets from number `first` on. settings: JSON-able, of the whole
    command."""
    tensors, nest = checkpoint.flatten('projection', projection.state_dict())
    checkpoint.save(os.path.join(outdir, STATE_FILE), 'projection-state', tensors,
                    dict(settings=settings, first=first, projection=nest,
                         threads=torch.get_num_threads()))


def load_state(outdir, settings):
    """-> (first, state dict) as `save_state` got them, threads that it was computed with; or (0, None, None) if there
    is none. Raises UserError if it belongs to another command.
    """
    path = os.path.join(outdir, STATE_FILE)
    if not os.path.isfile(path):
        return 0, None, None
    tensors, info = checkpoint.load(path, 'projection-state', remedy='delete it, and the same command starts afresh')
    for name, value in settings.items():
        if info['settings'].get(name) != value:
            raise UserError(f'{path}: belongs to an unfinished projection with other settings ({name} '
                            f'{info["settings"].get(name)}, now {value}); repeat that command, choose another '
                            '--outdir, or delete the file')
    return info['first'], checkpoint.unflatten(info['projection'], tensors), info.get('threads')


def remove_state(outdir):
    """At the end."""
    path = os.path.join(outdir, STATE_FILE)
    if os.path.isfile(path):
        os.remove(path)


def write_results(folder, target, ws, imgs, record):
    """target.png, proj.png, side-by-side.png, projected_w.npz and projection.json.

    Args:
        ws:     [num_ws, w_dim].
        imgs:   two images [C, H, W]: of the latents with the network's own noise maps, and with the optimised ones.
        record: the record of the projection; JSON-able.
    """
    files.make_dir(folder)
    row = torch.stack([target.img, *(to_uint8(img).cpu() for img in imgs)])
    image_grid.save_image(image_grid.to_grid(row[:1], 1), os.path.join(folder, 'target.png'))
    image_grid.save_image(image_grid.to_grid(row[1:2], 1), os.path.join(folder, 'proj.png'))
    labels = ['target', 'projection', 'with its noise maps']
    image_grid.save_image(image_grid.to_labelled_grid(row, 3, labels, min_tile=128),
                          os.path.join(folder, 'side-by-side.png'))
    with files.atomic_path(os.path.join(folder, 'projected_w.npz')) as temp, open(temp, 'wb') as f:
        np.savez(f, w=ws[None].cpu().numpy())
    files.write_text(os.path.join(folder, 'projection.json'), json.dumps(without_folders(record), indent=2) + '\n')


@torch.no_grad()
def frames(projection, i, target):
    """PIL images for a video of the search for its target number `i`: the target next to the image so far."""
    for w in [*projection.history, projection.w]:
        img = to_uint8(projection.synthesize(w[i:i + 1], {})).cpu()
        yield image_grid.to_grid(torch.cat([target.img[None], img]), 2)
