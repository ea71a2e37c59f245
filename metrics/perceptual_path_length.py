"""Perceptual path length (PPL): how much images change along short steps between two latents."""

import functools
import math

import numpy as np
import torch

from torch_utils import distributed

from . import draws
from .detectors import full_float32

EPSILON = 1e-4                  # length of a step, as a share of the whole way
CHUNK = 8                       # paths that the detector sees at a time: features of a 256x256 image take 32 MB
MAX_SIZE = 256                  # larger images are averaged down to this
INPUT = 'float, 127.5 x + 127.5, neither cut nor rounded; one channel repeated to three'
# The published five. space: interpolate in z or in w; sampling: 'full' = anywhere on the way, 'end' = at its start;
# crop: to a face's middle.
VARIANTS = {
    'ppl_zfull': dict(space='z', sampling='full', crop=True),
    'ppl_wfull': dict(space='w', sampling='full', crop=True),
    'ppl_zend': dict(space='z', sampling='end', crop=True),
    'ppl_wend': dict(space='w', sampling='end', crop=True),
    'ppl2_wend': dict(space='w', sampling='end', crop=False),
}


def path_lengths(opts, num_paths: int, space: str, sampling: str, crop: bool) -> torch.Tensor:
    """[num_paths] d(G(t), G(t + EPSILON)) / EPSILON^2, where d is the squared distance of features; the same on all
    processes.

    Both images of a path have the same label, drawn as often as in the data set, and the same noise. They are compared
    as the generator gives them, without rounding to 8 bits, and made without TF32 and half precision, whose errors
    would be larger than such small steps.

    Args:
        opts:      `metric_utils.MetricOptions`; the generator has `mapping` and `synthesis`; the detector takes floats
                   in 0..255.
        space:     'z' or 'w'.
        sampling:  'full' or 'end'.
        crop:      keep only rows 3/8 to 7/8 and columns 2/8 to 6/8.
    """
    lengths = torch.zeros([num_paths], device=opts.device)
    # // 2: in float32
    for items in draws.batches(opts, num_paths, min(opts.batch_size, max(2, opts.at_once // 2)), 'Path lengths'):
        with torch.no_grad(), full_float32():
            images = [_prepare(img, crop) for img in _ends(opts, items, space, sampling)]
            chunks = zip(*[img.split(CHUNK) for img in images], strict=True)
            distances = torch.cat([(opts.detector(a) - opts.detector(b)).square().sum(dim=1) for a, b in chunks])
            lengths[items.start:items.stop] = distances / EPSILON ** 2
    return distributed.all_reduce_sum(lengths)


def _ends(opts, items: range, space: str, sampling: str) -> list[torch.Tensor]:
    """Images [N, C, H, W] at both ends of each step."""
    z0, z1 = [draws.latents(opts, items, what) for what in ('latents', 'second latents')]
    c = draws.labels(opts, items)
    t = (places(opts, items) if sampling == 'full'
         else torch.zeros([len(items)], dtype=torch.float64, device=opts.device))
    mapping = functools.partial(opts.G.mapping, **draws.truncation(opts))
    if space == 'z':
        ws = [mapping(slerp(z0, z1, t + step).to(torch.float32), c) for step in (0, EPSILON)]
    else:
        w0, w1 = [mapping(z, c).to(torch.float64) for z in (z0, z1)]
        ws = [w0.lerp(w1, (t + step)[:, None, None]).to(torch.float32) for step in (0, EPSILON)]
    images = []
    for w in ws:
        with draws.noise(opts, items):
            images.append(opts.G.synthesis(w, noise_mode='random', force_fp32=True))
    return images


def places(opts, items: range) -> torch.Tensor:
    """[len(items)] float64 in 0..1: where on each way the step is."""
    draw = lambda seed: torch.rand([draws.BLOCK], dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return draws.to_device(draws.rows(opts, items, 'places', draw), opts.device)


def slerp(a: torch.Tensor, b: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Goes from the direction of a to that of b along the great circle. a, b [N, D], t [N] in 0..1 -> [N, D] float64 of
    length sqrt(D).

    This is the length of normal noise; StyleGAN's mapping sees the direction only. Not defined where a and b are
    opposite.
    Source: Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985.
    """
    a, b = [torch.nn.functional.normalize(x.to(torch.float64), dim=1) for x in (a, b)]
    # In the plane of both, at right angles to a
    normal = torch.nn.functional.normalize(b - (a * b).sum(dim=1, keepdim=True) * a, dim=1)
    angle = t[:, None] * torch.atan2((normal * b).sum(dim=1, keepdim=True), (a * b).sum(dim=1, keepdim=True))
    return (a * angle.cos() + normal * angle.sin()) * math.sqrt(a.shape[1])


def _prepare(img: torch.Tensor, crop: bool) -> torch.Tensor:
    """[N, C, H, W] in [-1, 1] -> what the detector sees, in 0..255."""
    height, width = img.shape[2:]
    if crop:
        img = img[:, :, height // 8 * 3: height // 8 * 7, width // 8 * 2: width // 8 * 6]
    if height > MAX_SIZE:                           # by the same factor whether it was cropped or not
        img = torch.nn.functional.avg_pool2d(img, height // MAX_SIZE)
    return (img + 1) * 127.5


def trim(values: torch.Tensor) -> np.ndarray:
    """The values between the 1st and the 99th percentile, float64; both percentiles are rounded outwards to one of the
    values."""
    values = values.to('cpu', torch.float64).numpy()
    low, high = np.percentile(values, 1, method='lower'), np.percentile(values, 99, method='higher')
    return values[(low <= values) & (values <= high)]


def compute_ppl(opts, num_gen: int, space: str, sampling: str, crop: bool) -> dict:
    """PPL over `num_gen` paths: the mean of what `trim` leaves of `path_lengths`, whose arguments these are.

    Returns: value and standard_error, NaN if the generator gives NaN; input: of the detector; generated: the protocol.
             The same on all processes.
    Source:  Karras et al., "A Style-Based Generator Architecture for Generative Adversarial Networks", CVPR 2019,
             section 4.1 (with crop); Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020
             ('ppl2', no crop).
    """
    lengths = path_lengths(opts, num_gen, space, sampling, crop)
    kept = trim(lengths) if lengths.isfinite().all() else np.array([math.nan])
    protocol = dict(images=2 * num_gen, paths=num_gen, space=space, sampling=sampling,
                    crop='rows 3/8 to 7/8, columns 2/8 to 6/8' if crop else 'none',
                    epsilon=EPSILON, max_size=MAX_SIZE, rounding='none')
    return dict(value=float(kept.mean()), standard_error=float(kept.std() / len(kept) ** 0.5), input=INPUT,
                generated=protocol)
