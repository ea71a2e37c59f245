"""Trained generators that a page shows: what each can do, and the pictures that it makes for what a visitor chooses."""

import io
import os
import zipfile
from typing import NamedTuple

import numpy as np
import PIL.Image
import torch

from dnnlib import UserError, files
from inference import latents as sampling
from inference import neighbors, video_files, walk
from inference.trained_on import refuse_vectors
from torch_utils import image_grid
from training import model_files
from training.networks.architectures import abilities_of

MOST_FRAMES = 600               # of one video
FPS = 30
STEPS_ON_THE_WAY = 100          # from seed to seed, of the slider
SMALLEST_SIDE = 96              # of an image on the page, in pixels
BATCH = 8
PARTS = ('coarse', 'middle', 'fine')


class Look(NamedTuple):
    """What holds for every picture."""
    psi: float                  # of the truncation, where the network has it
    chosen: int | None          # class; None = one for each row
    noise: bool                 # the fixed noise of the layers, where the network has it


class Network:
    """A generator under a name.

    Args:
        given:  what the user calls it.
        device: of torch.
    Raises:     UserError if it cannot be had or is no network.
    """

    def __init__(self, given, device):
        self.given, self.device = given, device
        self.snapshot = model_files.load_snapshot(given, device)
        self.G = self.snapshot.G_ema
        refuse_vectors(self.snapshot.info, f'--network={given}', 'use generate.py --class=NUMBERS')
        self.abilities = abilities_of(self.G)
        self.class_names = self.snapshot.info['training'].get('class_names')
        self.name = _short(given)

    def ws(self, seeds, columns, look):
        """-> ws [n, num_ws, w_dim], classes of the images or None. Raises UserError for a class that it does not
        have."""
        if self.G.c_dim > 0 and look.chosen is not None and look.chosen >= self.G.c_dim:
            raise UserError(f'{self.name} has the classes 0 to {self.G.c_dim - 1}; choose one of these')
        classes = sampling.classes_of(seeds, columns, look.chosen, self.G.c_dim)
        psi = look.psi if 'truncation' in self.abilities else 1
        return sampling.latents_of_seeds(self.G, seeds, classes, psi, self.device), classes

    def noise_mode(self, look):
        return 'const' if look.noise or 'noise' not in self.abilities else 'none'

    def images(self, ws, look):
        """-> uint8 [n, C, H, W]."""
        return sampling.synthesize(self.G, ws, self.noise_mode(look), BATCH, self.device)

    def captions(self, seeds, classes):
        return sampling.labels_of(seeds, classes, self.class_names)

    def grid(self, seeds, columns, look):
        """A picture without captions, of the network's own pixels where they are large enough to be seen."""
        return image_grid.to_grid(_seen(self.images(self.ws(seeds, columns, look)[0], look)), columns)

    def mixtures(self, seed_a, seed_b, part, look):
        """A, B, A with a part of the layers of B, and B with this part of A, in a row."""
        ws, classes = self.ws([seed_a, seed_b], 2, look)
        layers = layers_of(part, self.G.num_ws)
        mixed = torch.cat([sampling.mix(ws[i:i + 1], ws[1 - i:2 - i], layers)[0] for i in (0, 1)])
        captions = [*self.captions([seed_a, seed_b], classes), f'{seed_a} with {part} of {seed_b}',
                    f'{seed_b} with {part} of {seed_a}']
        return image_grid.to_labelled_grid(self.images(torch.cat([ws, mixed]), look), 4, captions, SMALLEST_SIDE)

    def _walk(self, seeds, steps, loop, look):
        """Through w where there is one; the classes of all keyframes are that of the first."""
        space = 'w' if 'w' in self.abilities else 'z'
        first = self.ws(seeds[:1], 1, look)[1]
        keys, c = walk.make_keys(self.G, sampling.z_of_seeds(self.G, seeds), 1, first, space, self.device)
        path = walk.Walk(keys, 'spline' if space == 'w' else 'spherical', steps, loop)
        psi = look.psi if 'truncation' in self.abilities else 1
        zoom = -(-SMALLEST_SIDE // self.G.img_resolution)
        return walk.WalkFrames(self.G, path, c, [psi], self.noise_mode(look), batch=BATCH, zoom=zoom,
                               device=self.device)

    def on_the_way(self, seeds, share, look):
        """The picture at a share, 0 to 1, of the way from the first seed to the last."""
        frames = self._walk(seeds, STEPS_ON_THE_WAY, False, look)
        frame = round(share * (len(frames) - 1))
        return image_grid.to_grid(_seen(self.images(frames.ws_at(torch.tensor([frame]))[0], look)), 1)

    def video(self, path, seeds, steps, look):
        """Writes the walk from seed to seed and back to the first. Raises UserError if it is too long, or there is no
        encoder."""
        frames = len(seeds) * steps
        if frames > MOST_FRAMES:
            raise UserError(f'{len(seeds)} seeds with {steps} frames each make {frames} frames, {MOST_FRAMES} are the '
                            'most; choose fewer')
        video_files.check_mp4('use generate.py video --frames')
        video_files.write_mp4(self._walk(seeds, steps, True, look), path, FPS)

    def neighbors(self, seeds, look, real, nearest):
        """A row for each seed: its image and the training images nearest to it. real: `Real`."""
        ws, classes = self.ws(seeds, 1, look)
        imgs = self.images(ws, look)
        found = neighbors.find_neighbors(imgs, real.dataset, real.features, real.distance, nearest, BATCH, self.device)
        return neighbors.sheet(imgs, self.captions(seeds, classes), real.dataset, found)

    def save(self, folder, seeds, columns, look):
        """Writes the images, one file each, and their w where there is one -> paths."""
        ws, classes = self.ws(seeds, columns, look)
        stems = sampling.file_stems(seeds, classes, look.chosen)
        paths = [os.path.join(folder, 'images.zip')]
        with zipfile.ZipFile(paths[0], 'w', zipfile.ZIP_STORED) as archive:
            for stem, img in zip(stems, self.images(ws, look), strict=True):
                archive.writestr(f'{stem}.png', _png(image_grid.to_grid(img[None], 1)))
        if 'w' in self.abilities:
            paths.append(os.path.join(folder, 'projected_w.npz'))
            np.savez(paths[1], w=ws.cpu().numpy())
        return paths


class Real(NamedTuple):
    """Training images, and how they are compared with generated ones: arguments of `neighbors.find_neighbors`."""
    dataset: object
    features: object
    distance: object


def load_all(names, device):
    """-> `Network`s, under names that tell them apart. Raises UserError if one cannot be had."""
    networks = [Network(name, device) for name in names]
    for network in networks:
        if sum(_short(other) == _short(network.given) for other in names) > 1:
            network.name = _short(network.given, parts=2)
    for i, network in enumerate(networks):
        if network.name in [other.name for other in networks[:i]]:
            network.name += f' ({i + 1})'
    return networks


def _short(given, parts=1):
    """The last parts of a path; of an address as much as may be published."""
    if files.is_address(given):
        return files.public_address(given)
    return os.path.join(*os.path.abspath(given).split(os.sep)[-parts:]) if os.path.exists(given) else given


def layers_of(part, num_ws):
    """'coarse', 'middle' or 'fine' -> a third of the layers, the first, the second or the last."""
    bounds = [round(i * num_ws / 3) for i in range(4)]
    first = PARTS.index(part)
    return list(range(bounds[first], bounds[first + 1]))


def _seen(imgs):
    """Small images enlarged, pixel by pixel."""
    zoom = -(-SMALLEST_SIDE // imgs.shape[3])
    return imgs.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)


def _png(picture: PIL.Image.Image):
    content = io.BytesIO()
    picture.save(content, 'png')
    return content.getvalue()
