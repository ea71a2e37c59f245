"""Sample images from a trained generator: python generate.py --network=FILE --grid=8x6 --outdir=out"""

import json
import os

import click

from dnnlib import UserError, files
from dnnlib.published import without_folders
from dnnlib.util import user_errors

# The imports above come before torch: dnnlib sets how torch's threads wait.
# isort: split

import torch
import tqdm

from dnnlib.commands import SETTINGS, PlainOrCommand
from dnnlib.errors import refuse_idle
from inference import latents as sampling
from inference import neighbors, options, video_files
from inference import walk as latent_walk
from inference.latents import classes_of, labels_of, latents_of_seeds, parse_class, parse_grid, parse_seeds
from kd_plugin.options import DEFAULT_TEACHER
from metrics import detectors
from torch_utils import cpu_threads, image_grid
from torch_utils.devices import torch_device
from training import model_files
from training.networks.architectures import abilities_of, require

num_range = parse_seeds         # the name in StyleGAN2-ADA, which scripts import


@click.group(cls=PlainOrCommand, invoke_without_command=True, subcommand_metavar='',
             context_settings=dict(SETTINGS, allow_extra_args=False))
@options.network_option
@options.outdir_option
@click.option('--seeds', help='Random seeds, like 0,3,7-9  [default: 0-15, or as many as the grid holds]',
              metavar='LIST')
@click.option('--grid', help='One image of COLS columns and ROWS rows instead of single images', metavar='COLSxROWS')
@click.option('--labels', help='Write seed and class under the images of a grid  [default: 1]', type=bool,
              metavar='BOOL')
@options.trunc_option
@options.class_option
@options.noise_option
@click.option('--projected-w', help='Latents to synthesise instead of seeds', metavar='FILE.npz')
@options.batch_option
@options.device_option
def main(**opts):
    """Save sample images of a trained generator.

    \b
    generate.py --network=NETWORK --seeds=0-99 --trunc=0.7 --outdir=out        100 files
    generate.py --network=NETWORK --grid=8x6 --outdir=out                      one image of 48

    Subcommands are listed below; their options: generate.py video --help
    """
    with user_errors():
        generate(**opts)


def generate(network, outdir, seeds, grid, labels, trunc, class_text, noise_mode, projected_w, batch, device):
    """What the command does; options as of the command."""
    sampling.check_trunc(trunc)
    if projected_w is not None and (seeds is not None or class_text is not None or trunc != 1):
        raise UserError(f'--projected-w={projected_w}: the latents are given; leave --seeds, --class and --trunc out')
    if grid is None:
        refuse_idle('without --grid', labels=labels)
    columns, rows = parse_grid(grid) if grid is not None else (None, None)
    seeds = parse_seeds(seeds) if seeds is not None else list(range(columns * rows if grid else 16))
    device = cpu_threads.settle(torch_device(device))
    G, info = load(network, device)
    torch.manual_seed(0)                    # of --noise-mode=random
    if projected_w is not None:
        ws = sampling.load_projected_w(projected_w, G)
        parts, captions = ws.split(batch), [f'w {i}' for i in range(len(ws))]
        names = [f'proj{i:02d}.png' for i in range(len(ws))]
    else:
        sampling.check_trunc(trunc, G)
        chosen = parse_class(class_text, G, info)
        classes = classes_of(seeds, columns, chosen, G.c_dim)
        parts = sampling.latents_in_parts(G, seeds, classes, trunc, batch, device)
        captions = labels_of(seeds, classes, info['training'].get('class_names'))
        names = [f'{stem}.png' for stem in sampling.file_stems(seeds, classes, chosen)]
    if grid is not None and len(names) > columns * rows:
        raise UserError(f'--grid={grid}: holds {columns * rows} images, there are {len(names)}; use a larger grid')
    sampling.check_noise(noise_mode, G)             # before a folder is made
    made = sampling.synthesize_parts(G, parts, len(names), noise_mode, device)
    if grid is None:
        return image_grid.save_images((img for part in made for img in part), names, outdir)
    imgs = torch.cat(list(made))
    picture = (image_grid.to_grid(imgs, columns) if labels is False
               else image_grid.to_labelled_grid(imgs, columns, captions))
    image_grid.save_sheet(picture, 'grid.png', outdir)


def load(network, device):
    """-> generator, information of its snapshot."""
    snapshot = model_files.load_snapshot(network, device)
    return snapshot.G_ema, snapshot.info


@main.command(context_settings=SETTINGS)
@options.network_option
@options.outdir_option
@click.option('--seeds', help='Random seeds, a row each', default='0-5', show_default=True, metavar='LIST')
@click.option('--trunc', help='Values of the truncation psi, a column each', default='0,0.3,0.5,0.7,0.85,1',
              show_default=True, metavar='LIST')
@options.class_option
@options.noise_option
@options.batch_option
@options.device_option
def truncation(**opts):
    """Show what truncation does to an image.

    \b
    generate.py truncation --network=NETWORK --seeds=0-3 --trunc=0,0.5,1,1.5 --outdir=out

    Saves truncation.png, a row for each seed, and its images one by one.
    """
    with user_errors():
        sweep_truncation(**opts)


def sweep_truncation(network, outdir, seeds, trunc, class_text, noise_mode, batch, device):
    """What the command does; options as of the command."""
    seeds, psis = parse_seeds(seeds), sampling.parse_truncs(trunc)
    sampling.check_count(len(seeds) * len(psis), f'{len(seeds)} --seeds and {len(psis)} --trunc')
    device = cpu_threads.settle(torch_device(device))
    G, info = load(network, device)
    chosen = parse_class(class_text, G, info)
    classes = classes_of(seeds, 1, chosen, G.c_dim)
    ws = torch.stack([latents_of_seeds(G, seeds, classes, psi, device) for psi in psis], dim=1)
    torch.manual_seed(0)                    # of --noise-mode=random
    imgs = sampling.synthesize(G, ws.flatten(0, 1), noise_mode, batch, device)
    labels = labels_of(seeds, classes, info['training'].get('class_names'))
    captions = [f'{label}, {psi:g}' for label in labels for psi in psis]
    stems = sampling.file_stems(seeds, classes, chosen)
    image_grid.save_images(imgs, [f'{stem}-trunc{psi:g}.png' for stem in stems for psi in psis], outdir)
    image_grid.save_sheet(image_grid.to_labelled_grid(imgs, len(psis), captions, min_tile=96), 'truncation.png', outdir)


@main.command(context_settings=SETTINGS)
@options.network_option
@click.option('--outdir', help='Where to save video.mp4, or the frames', required=True, metavar='DIR')
@click.option('--seeds', help='Seeds of the keyframes, those of the first walk first  [default: six per walk, from 0 '
                              'on]', metavar='LIST')
@click.option('--projected-w', help='Keyframes in w instead of seeds', metavar='FILE.npz')
@click.option('--grid', help='That many walks side by side', default='1x1', show_default=True, metavar='COLSxROWS')
@click.option('--space', help='Latents that are interpolated', type=click.Choice(['z', 'w']), default='w',
              show_default=True)
@click.option('--interpolation', help='From keyframe to keyframe; spherical is about the origin in z, about the '
                                      'average in w',
              type=click.Choice(latent_walk.INTERPOLATIONS), default='spline', show_default=True)
@click.option('--steps', help='Frames from one keyframe to the next', type=click.IntRange(min=1), default=60,
              show_default=True, metavar='INT')
@click.option('--loop', help='Return to the first keyframe', type=bool, default=True, show_default=True, metavar='BOOL')
@click.option('--trunc', help='Truncation psi; several are spread evenly over the video', default='1',
              show_default=True, metavar='LIST')
@options.class_option
@click.option('--noise-mode', help='Noise of the synthesis: the same for all frames, fresh for each, or none',
              default='const', show_default=True, type=click.Choice(['const', 'random', 'none'], case_sensitive=False))
@click.option('--seed', help='Seed of --noise-mode=random  [default: 0]', type=click.IntRange(0, 2 ** 32 - 1),
              metavar='INT')
@click.option('--zoom', help='Enlarge, pixel by pixel', type=click.IntRange(min=1), default=1, show_default=True,
              metavar='INT')
@click.option('--fps', help='Frames per second  [default: 30]', type=click.IntRange(1, 1000), metavar='INT')
@click.option('--frames', help='Save the frames as PNG instead', is_flag=True)
@options.batch_option
@options.device_option
def video(**opts):
    """Make a video of a walk from image to image.

    \b
    generate.py video --network=NETWORK --seeds=3,7,12,20 --trunc=0.7 --outdir=out
    generate.py video --network=NETWORK --grid=4x2 --steps=90 --outdir=out      eight walks at once
    generate.py video --network=NETWORK --seeds=5 --trunc=0,1 --outdir=out      one image, from the average and back

    An mp4 needs the package imageio-ffmpeg; --frames does not.
    """
    with user_errors():
        make_video(**opts)


def make_video(network, outdir, seeds, projected_w, grid, space, interpolation, steps, loop, trunc, class_text,
               noise_mode, seed, zoom, fps, frames, batch, device):
    """What the command does; options as of the command."""
    if projected_w is not None and (seeds is not None or class_text is not None or space == 'z'):
        raise UserError(f'--projected-w={projected_w}: the latents are given, in w; leave --seeds, --class and '
                        '--space out')
    columns, rows = parse_grid(grid)
    seeds = parse_seeds(seeds) if seeds is not None else list(range(6 * columns * rows))
    truncs = sampling.parse_truncs(trunc)
    sampling.check_count(steps, f'--steps={steps}')
    if noise_mode != 'random':
        refuse_idle(f'with --noise-mode={noise_mode}', seed=seed)
    if frames:
        refuse_idle('with --frames, which have no speed', fps=fps)
    else:
        video_files.check_mp4('add --frames for PNG files')
    device = cpu_threads.settle(torch_device(device))
    G, info = load(network, device)
    if space == 'w' and projected_w is None:
        require(abilities_of(G), 'w', '--space=w', 'use --space=z')
    sampling.check_noise(noise_mode, G)
    for psi in truncs:
        sampling.check_trunc(psi, G)
    latents = sampling.z_of_seeds(G, seeds) if projected_w is None else sampling.load_projected_w(projected_w, G)
    if len(latents) % (columns * rows) != 0:
        raise UserError(f'--grid={grid}: {len(latents)} keyframes cannot be shared by {columns * rows} walks; each '
                        'takes as many as the others')
    chosen = parse_class(class_text, G, info) if projected_w is None else 0         # w needs no class
    classes = classes_of(range(columns * rows), columns, chosen, G.c_dim)
    keys, c = latent_walk.make_keys(G, latents, columns * rows, classes, space, device)
    center = latent_walk.center_of(G) if space == 'w' else None
    walk = latent_walk.Walk(keys, interpolation, steps, loop, center)
    sampling.check_count(walk.num_frames, f'--steps={steps} between {len(keys)} keyframes')
    video_files.check_size(columns * G.img_resolution * zoom, rows * G.img_resolution * zoom)
    pictures = latent_walk.WalkFrames(G, walk, c, truncs, noise_mode, seed or 0, batch, columns, zoom, device)
    files.make_dir(outdir)
    with tqdm.tqdm(pictures, desc='Video', unit='frame', leave=False, disable=None) as bar:
        count = (video_files.write_pngs(bar, outdir) if frames
                 else video_files.write_mp4(bar, os.path.join(outdir, 'video.mp4'), fps or 30))
    print(f'Saved {count} frames {"" if frames else "as video.mp4 "}in {outdir}')


@main.command('neighbors', context_settings=SETTINGS, short_help='Show images next to the nearest training images.')
@options.network_option
@options.outdir_option
@click.option('--data', help='Training images: folder or zip from dataset_tool.py, or demo  [default: those of the '
                             'training]', metavar='PATH|demo')
@click.option('--mirror', help='Compare with the mirrored images too  [default: as in the training]', type=bool,
              metavar='BOOL')
@click.option('--seeds', help='Random seeds, a row each', default='0-7', show_default=True, metavar='LIST')
@click.option('--nearest', help='Training images per image', type=click.IntRange(min=1), default=5, show_default=True,
              metavar='INT')
@click.option('--space', help='What is compared: the features of a teacher, or pixels',
              type=click.Choice(list(neighbors.DISTANCES)), default='teacher', show_default=True)
@click.option('--teacher', '--kd-teacher', 'teacher', metavar='NAME',
              help=f'Teacher whose features are compared  [default: {DEFAULT_TEACHER}]')
@options.trunc_option
@options.class_option
@options.noise_option
@options.batch_option
@options.device_option
def show_neighbors(**opts):
    """Show generated images next to the training images nearest to them.

    \b
    generate.py neighbors --network=NETWORK --data=cats.zip --seeds=0-7 --outdir=out
    generate.py neighbors --network=NETWORK --data=cats.zip --space=pixels --outdir=out          no teacher needed

    Saves neighbors.png, with the distance under each image, and neighbors.json with the same numbers.
    """
    with user_errors():
        find_neighbors(**opts)


def load_detector(teacher, device):
    """Raises UserError if the teacher cannot be had."""
    try:
        return detectors.load_teacher_detector(device, dict(func_name='kd_plugin.teacher.load_teacher', name=teacher,
                                                            option='--teacher'))
    except UserError as err:
        raise UserError(f'{err}, or --space=pixels') from err


def find_neighbors(network, outdir, data, mirror, seeds, nearest, space, teacher, trunc, class_text, noise_mode,
                   batch, device):
    """What the command does; options as of the command."""
    sampling.check_trunc(trunc)
    if space == 'pixels':
        refuse_idle('with --space=pixels', teacher=teacher)
    seeds = parse_seeds(seeds)
    device = cpu_threads.settle(torch_device(device))
    snapshot = model_files.load_snapshot(network, device)
    G, class_names = snapshot.G_ema, snapshot.info['training'].get('class_names')
    classes = classes_of(seeds, 1, parse_class(class_text, G, snapshot.info), G.c_dim)
    ws = latents_of_seeds(G, seeds, classes, trunc, device)
    dataset = neighbors.open_training_images(data, mirror, snapshot, network)
    if space == 'pixels':
        features, distance, identity = neighbors.pixel_features, neighbors.pixel_distance, None
    else:
        detector = load_detector(teacher or DEFAULT_TEACHER, device)
        features, distance, identity = neighbors.unit_features(detector), neighbors.cosine_distance, detector.identity
    torch.manual_seed(0)                    # of --noise-mode=random
    imgs = sampling.synthesize(G, ws, noise_mode, batch, device)
    found = neighbors.find_neighbors(imgs, dataset, features, distance, nearest, batch, device)
    image_grid.save_sheet(neighbors.sheet(imgs, labels_of(seeds, classes, class_names), dataset, found),
                          'neighbors.png', outdir)
    record = dict(network=model_files.address_of(network), data=dataset.facts(), distance=neighbors.DISTANCES[space],
                  teacher=identity, trunc=trunc, noise_mode=noise_mode,
                  neighbors=neighbors.as_records(seeds, classes, dataset, found))
    files.write_text(os.path.join(outdir, 'neighbors.json'), json.dumps(without_folders(record), indent=2) + '\n')


if __name__ == '__main__':
    main()
