"""Mix styles of two sets of images: python style_mixing.py --network=FILE --rows=85,100 --cols=55,821 --outdir=out"""

import click

from dnnlib import UserError
from dnnlib.util import user_errors

# The imports above come before torch: dnnlib sets how torch's threads wait.
# isort: split

import torch

from dnnlib.commands import SETTINGS
from inference import latents as sampling
from inference.latents import latents_of_seeds, mix, parse_seeds
from inference.options import batch_option, device_option, network_option, noise_option, outdir_option, trunc_option
from torch_utils import cpu_threads, image_grid
from torch_utils.devices import torch_device
from training import model_files
from training.networks.architectures import abilities_of, require


def parse_layers(text, num_ws):
    """'0-6' -> [0, ..., 6]; None -> the coarser half, at most 0 to 6."""
    if text is None:
        return list(range(min(7, num_ws // 2)))
    layers = parse_seeds(text, '--styles')
    if max(layers) >= num_ws:
        raise UserError(f'--styles={text}: this generator has the layers 0 to {num_ws - 1}')
    return layers


@click.command(context_settings=SETTINGS)
@network_option
@outdir_option
@click.option('--rows', help='Seeds of the images at the left, which are changed', default='85,100,75,458,1500',
              show_default=True, metavar='LIST')
@click.option('--cols', help='Seeds of the images at the top, which give styles', default='55,821,1789,293',
              show_default=True, metavar='LIST')
@click.option('--styles', help='Layers whose styles come from the column; 0 is the coarsest  [default: 0-6, or the '
                               'coarser half if that is less]',
              metavar='LIST')
@trunc_option
@click.option('--class', 'class_text', metavar='CLASS',
              help='Class number or name, or the numbers of a label  [default: 0]')
@noise_option
@batch_option
@device_option
def main(**opts):
    """Mix styles: each image of the rows with some layers from each image of the columns.

    \b
    style_mixing.py --network=NETWORK --rows=85,100,75 --cols=55,821,1789 --outdir=out            coarse: pose, shape
    style_mixing.py --network=NETWORK --rows=0-3 --cols=4-9 --styles=7-13 --outdir=out            fine: colours

    Saves seedROW.png and seedCOL.png, each mixture as ROW-COL.png, and grid.png with all of them.
    """
    with user_errors():
        mix_styles(**opts)


def mix_styles(network, outdir, rows, cols, styles, trunc, class_text, noise_mode, batch, device):
    """What the command does; options as of the command."""
    sampling.check_trunc(trunc)
    rows, cols = parse_seeds(rows, '--rows'), parse_seeds(cols, '--cols')
    sampling.check_count((len(rows) + 1) * (len(cols) + 1) - 1, f'{len(rows)} --rows and {len(cols)} --cols')
    device = cpu_threads.settle(torch_device(device))
    snapshot = model_files.load_snapshot(network, device)
    G = snapshot.G_ema
    require(abilities_of(G), 'style_mixing', f'--network={network}')
    layers = parse_layers(styles, G.num_ws)
    chosen = sampling.parse_class(class_text, G, snapshot.info) or 0
    classes = sampling.classes_of(rows + cols, None, chosen, G.c_dim)
    row_ws, col_ws = latents_of_seeds(G, rows + cols, classes, trunc, device).split([len(rows), len(cols)])
    torch.manual_seed(0)                    # of --noise-mode=random
    ws = torch.cat([row_ws, col_ws, mix(row_ws, col_ws, layers).flatten(0, 1)])
    imgs = sampling.synthesize(G, ws, noise_mode, batch, device)
    names = [f'seed{seed:04d}.png' for seed in rows + cols] + [f'{row}-{col}.png' for row in rows for col in cols]
    image_grid.save_images(imgs, names, outdir, f'{len(rows) + len(cols)} images and {len(rows) * len(cols)} mixtures')
    image_grid.save_sheet(sheet(imgs, rows, cols), 'grid.png', outdir)


def sheet(imgs, rows, cols):
    """Images in the order of `mix_styles` -> a picture with the columns' images at the top, the rows' at the left."""
    row_imgs, col_imgs, mixed = imgs.split([len(rows), len(cols), len(rows) * len(cols)])
    lines = torch.cat([row_imgs[:, None], mixed.unflatten(0, (len(rows), len(cols)))], dim=1)
    white = torch.full_like(imgs[:1], 255)
    captions = ['', *(f'seed {col}' for col in cols)] + [f'seed {row}' if i == 0 else '' for row in rows
                                                         for i in range(len(cols) + 1)]
    return image_grid.to_labelled_grid(torch.cat([white, col_imgs, lines.flatten(0, 1)]), len(cols) + 1, captions)


if __name__ == '__main__':
    main()
