"""Walks through the latent space: from keyframe to keyframe, one image per frame, several walks side by side."""

import numpy as np
import torch

from dnnlib import UserError
from torch_utils import image_grid
from torch_utils.images import to_uint8
from torch_utils.seeds import number_of
from training.networks.architectures import abilities_of

from . import latents as sampling

INTERPOLATIONS = ('linear', 'spherical', 'spline')


def slerp(a, b, t):
    """Spherical interpolation (Shoemake, SIGGRAPH 1985): directions at constant angular speed, lengths linearly.

    a, b [..., d] and t, broadcast against [..., 1], in [0, 1] -> [..., d]. Vectors of (nearly) the same or opposite
    direction, which have no plane of rotation, and zeros are interpolated linearly.
    """
    len_a, len_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    unit_a, unit_b = a / len_a.clamp_min(1e-12), b / len_b.clamp_min(1e-12)
    # the angle from chord and sum: arccos of the dot product would lose half the digits of small angles
    angle = 2 * torch.atan2((unit_a - unit_b).norm(dim=-1, keepdim=True), (unit_a + unit_b).norm(dim=-1, keepdim=True))
    sine = angle.sin()
    plain = (sine < 1e-6) | (len_a < 1e-12) | (len_b < 1e-12)
    sine = sine.where(~plain, 1)
    turned = (((1 - t) * angle).sin() * unit_a + (t * angle).sin() * unit_b) / sine * torch.lerp(len_a, len_b, t)
    return torch.where(plain, torch.lerp(a, b, t), turned)


def _scipy_interpolate():
    try:
        import scipy.interpolate
    except ImportError as err:
        raise UserError(f'--interpolation=spline needs the package scipy ({err}): pip install scipy, or use '
                        '--interpolation=linear') from err
    return scipy.interpolate


class Walk:
    """A path through keyframes, at equal distances in time.

    Args:
        keys:          [K, ..., d] keyframes.
        interpolation: linear; spherical, about `center`, vector by vector; spline, a cubic one with continuous second
                       derivatives.
        steps:         frames from one keyframe to the next.
        loop:          go on to the first keyframe again: K * steps frames, without the first a second time; else (K -
                       1) * steps + 1.
        center:        [..., d] of the spheres; None = the origin.
    """

    def __init__(self, keys, interpolation='spline', steps=60, loop=True, center=None):
        self.keys = keys.to('cpu', torch.float64)
        self.interpolation, self.steps, self.loop = interpolation, steps, loop
        self.center = torch.zeros([], dtype=torch.float64) if center is None else center.to('cpu', torch.float64)
        self.num_frames = len(keys) * steps if loop else (len(keys) - 1) * steps + 1
        if interpolation == 'spline' and len(keys) > 1:
            ends = 'periodic' if loop else 'natural'
            knots = torch.cat([self.keys, self.keys[:1]]) if loop else self.keys
            self.spline = _scipy_interpolate().CubicSpline(np.arange(len(knots)), knots.numpy(), bc_type=ends)

    def at(self, frames):
        """Numbers of frames, from 0 to num_frames - 1, [F] -> [F, ..., d] float64."""
        time = torch.as_tensor(frames, dtype=torch.float64) / self.steps
        if self.interpolation == 'spline' and len(self.keys) > 1:
            return torch.from_numpy(self.spline(time.numpy()))
        before = time.floor().long()
        a, b = [self.keys[i % len(self.keys)] for i in (before, before + 1)]
        t = (time - before).reshape([-1] + [1] * (self.keys.ndim - 1))
        return (self.center + slerp(a - self.center, b - self.center, t) if self.interpolation == 'spherical'
                else torch.lerp(a, b, t))


def truncation_track(values, num_frames, loop):
    """Psi of each frame, float64 [num_frames]: `values` at equal distances in time, linearly in between, and back to
    the first in a loop."""
    values = [*values, values[0]] if loop else values
    duration = num_frames if loop else num_frames - 1
    return torch.from_numpy(np.interp(np.arange(num_frames), np.linspace(0, duration, len(values)), values))


def noise_seed(seed, frame):
    """32 bits, as many as the CPU's generator uses."""
    return number_of(seed, frame, num_bytes=4)


class WalkFrames:
    """The pictures of several walks, side by side.

    Args:
        G:          generator.
        walk:       keys [K, walks, z_dim] of z, or [K, walks, num_ws, w_dim] of w.
        c:          [walks, c_dim] of walks in z; None = none.
        truncs:     see `truncation_track`; truncation comes after the interpolation.
        noise_mode: of the synthesis; random noise follows from `seed` and the number of the frame.
        batch:      images at a time.
        columns:    of walks.
        zoom:       each pixel becomes so many, squared.
        device:     of G.
    """

    def __init__(self, G, walk, c=None, truncs=(1,), noise_mode='const', seed=0, batch=16, columns=1, zoom=1,
                 device='cpu'):
        self.G, self.walk, self.c, self.noise_mode, self.seed = G, walk, c, noise_mode, seed
        self.columns, self.zoom, self.device = columns, zoom, device
        self.psi = truncation_track(truncs, walk.num_frames, walk.loop)
        self.batch = batch
        self.together = 1 if noise_mode == 'random' else max(batch // walk.keys.shape[1], 1)       # frames

    def __len__(self):
        return self.walk.num_frames

    def __iter__(self):
        """PIL images, made as they are asked for."""
        for start in range(0, len(self), self.together):
            frames = torch.arange(start, min(start + self.together, len(self)))
            if self.noise_mode == 'random':
                torch.manual_seed(noise_seed(self.seed, start))
            ws = self.ws_at(frames)
            for img in self._synthesize(ws.flatten(0, 1)).unflatten(0, ws.shape[:2]):
                yield self._picture(img)

    @torch.no_grad()
    def ws_at(self, frames):
        """[F] -> [F, walks, num_ws, w_dim]."""
        x = self.walk.at(frames).to(self.device, torch.float32)
        if x.ndim == 3:                             # z
            c = None if self.c is None else self.c.repeat(len(frames), 1)
            x = self.G.mapping(x.flatten(0, 1), c).unflatten(0, x.shape[:2])
        psi = self.psi[frames].to(self.device, torch.float32).reshape(-1, 1, 1, 1)
        return x if (psi == 1).all() else self.G.mapping.w_avg.lerp(x, psi)

    @torch.no_grad()
    def _synthesize(self, ws):
        return torch.cat([to_uint8(self.G.synthesis(part, noise_mode=self.noise_mode)).cpu()
                          for part in ws.split(self.batch)])

    def _picture(self, img_uint8):
        return image_grid.to_grid(img_uint8.repeat_interleave(self.zoom, 2).repeat_interleave(self.zoom, 3),
                                  self.columns)


@torch.no_grad()
def make_keys(G, latents, walks, classes, space, device):
    """Keyframes of walks, and the labels that they need.

    Args:
        latents: [walks * K, z_dim] z, or [walks * K, num_ws, w_dim] w: K for the first walk, then K for the next.
        classes: of each walk; None where there are none.
        space:   where the walks are to be, 'z' or 'w'.
    Returns:     [K, walks, z_dim] or [K, walks, num_ws, w_dim]; c [walks, c_dim] of walks in z, else None.
    """
    c = sampling.label_rows(G, classes, device)
    if space == 'w' and latents.ndim == 2:
        c_of_key = None if c is None else c.repeat_interleave(len(latents) // walks, dim=0)
        latents = G.mapping(latents.to(device, torch.float32), c_of_key)
    return latents.unflatten(0, (walks, -1)).transpose(0, 1), c if space == 'z' else None


def center_of(G):
    """Average of w, or None where the generator keeps none."""
    return G.mapping.w_avg if 'truncation' in abilities_of(G) else None
