"""ADA: every geometric transform and colour against scipy or a formula written out here.

Smooth images are sums of cosines that are symmetric about the first and the last pixel centre. Extending one by
reflection gives the same cosines everywhere, and a symmetric filter multiplies each by a number, so what a transform
must give is known in closed form, borders included.
"""

import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.special
import torch
from augment_images import QUANTILES, noise_images, std_value
from scipy.spatial.transform import Rotation

from training.augment import AugmentPipe, augpipe_specs
from training.augment.resample import downsampling, upsampling, warp, warp_margins
from training.augment.wavelets import SYM6


def smooth_images(height, width, n=1, channels=3, waves=3, seed=0):
    """[n, channels, height, width] in [-1, 1], cosines of up to `waves` half periods."""
    coeffs = np.random.RandomState(seed).randn(n, channels, waves + 1, waves + 1)
    along_y = np.cos(np.pi * np.arange(waves + 1)[:, None] * np.linspace(0, 1, height))
    along_x = np.cos(np.pi * np.arange(waves + 1)[:, None] * np.linspace(0, 1, width))
    images = np.einsum('nckl,ky,lx->ncyx', coeffs, along_y, along_x)
    return torch.tensor(images / np.abs(images).max(), dtype=torch.float32)


# ---------------------------------------------------------------------------
# Geometry.

def scipy_warp(images, matrix, shift=(0, 0)):
    """Result at offset o from the centre = image at matrix @ o - shift, (x, y); fifth-order splines.

    The wavelet is not symmetric. Its centre of mass lies `delay` beside the pixel, and the mirrored filter on the way
    back undoes that only where the image is not turned: the pipeline shows the image displaced by (matrix - 1) delay, a
    twentieth of a pixel for a quarter turn.
    """
    delay = (np.dot(np.arange(12), SYM6) / np.sum(SYM6) - 5) / 2
    matrix = np.asarray(matrix, dtype=np.float64)
    shift = np.asarray(shift) - (matrix - np.eye(2)) @ [delay, delay]
    matrix_yx, shift_yx = matrix[::-1, ::-1], shift[::-1]
    result = []
    for image in images.double().numpy().reshape(-1, *images.shape[2:]):
        centre = (np.array(image.shape) - 1) / 2
        result.append(scipy.ndimage.affine_transform(image, matrix_yx, centre - shift_yx - matrix_yx @ centre, order=5,
                                                     mode='mirror'))
    return torch.tensor(np.reshape(result, images.shape), dtype=torch.float32)


def assert_warped(pipe, images, q, matrix, shift=(0, 0)):
    """Sampling bilinearly on half a pixel errs by at most 1/32 (f_xx + f_yy); three half periods on 64 pixels give (3
    pi / 63)^2 each."""
    torch.testing.assert_close(pipe(images, q), scipy_warp(images, matrix, shift), rtol=0, atol=2e-3)


def turn(angle):
    return [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]


@pytest.mark.parametrize('q', QUANTILES)
def test_rotation(q):
    assert_warped(AugmentPipe(rotate=1, rotate_max=0.5), smooth_images(64, 64), q, turn((2 * q - 1) * math.pi / 2))


@pytest.mark.parametrize('q', QUANTILES)
def test_isotropic_scaling(q):
    factor = 2 ** -std_value(q, 0.4)
    assert_warped(AugmentPipe(scale=1, scale_std=0.4), smooth_images(64, 64), q, [[factor, 0], [0, factor]])


@pytest.mark.parametrize('q', QUANTILES)
def test_anisotropic_scaling(q):
    factor = 2 ** -std_value(q, 0.4)
    assert_warped(AugmentPipe(aniso=1, aniso_std=0.4), smooth_images(64, 64), q, [[factor, 0], [0, 1 / factor]])


@pytest.mark.parametrize('q', QUANTILES)
def test_fractional_shift_is_relative_to_each_side(q):
    shift = std_value(q, 0.2) * np.array([80, 64])
    assert_warped(AugmentPipe(xfrac=1, xfrac_std=0.2), smooth_images(64, 80), q, np.eye(2), shift)


@pytest.mark.parametrize(('q', 'matrix'), [(0.1, [[1, 0], [0, 1]]), (0.3, [[0, -1], [1, 0]]), (0.6, [[-1, 0], [0, -1]]),
                                           (0.8, [[0, 1], [-1, 0]])])
def test_quarter_turns(q, matrix):
    assert_warped(AugmentPipe(rotate90=1), smooth_images(64, 64), q, matrix)
    assert_warped(AugmentPipe(rotate90=1), smooth_images(64, 72), q, matrix)


def test_order_of_geometric_transforms():
    """First transform first: flip, quarter turns, scaling, rotation, stretching, shift."""
    q, size = 0.8, 64
    factor, angle, shift = 2 ** -std_value(q, 0.2), (2 * q - 1) * math.pi, std_value(q, 0.125) * size
    flip, quarter = np.diag([-1, 1]), np.array(turn(3 * math.pi / 2))
    matrix = flip @ quarter @ (np.eye(2) * factor) @ turn(angle) @ np.diag([factor, 1 / factor])
    pipe = AugmentPipe(**augpipe_specs['geom'], xflip=1, rotate90=1)
    assert_warped(pipe, smooth_images(size, size, waves=2), q, matrix, matrix @ [shift, shift])


def test_a_whole_shift_and_no_change_are_exact():
    """The wavelet is orthonormal to its even shifts, so halving the resolution undoes doubling it, for any image."""
    images = noise_images(2, 3, 32, 40)
    shift_x, shift_y = round(0.6 * 0.25 * 40), round(0.6 * 0.25 * 32)
    padded = np.pad(images.numpy(), [(0, 0), (0, 0), (shift_y, 0), (shift_x, 0)], mode='reflect')
    want = torch.tensor(padded[:, :, :32, :40])
    # Coordinates round to 1e-6 pixels
    torch.testing.assert_close(AugmentPipe(xint=1, xint_max=0.25)(images, 0.8), want, rtol=0, atol=1e-4)
    torch.testing.assert_close(AugmentPipe(xflip=1)(images, 0.2), images, rtol=0, atol=1e-4)


def test_xflip():
    images = smooth_images(64, 64)
    assert_warped(AugmentPipe(xflip=1), images, 0.7, [[-1, 0], [0, 1]])
    # A tenth of a pixel: scipy_warp
    torch.testing.assert_close(AugmentPipe(xflip=1)(images, 0.7), images.flip(3), rtol=0, atol=0.02)


def test_zeros_beyond_the_reflected_image():
    """A shift by 2.5 widths leaves the reflected copy of the image behind, which ends 1 width away."""
    images = 1 + noise_images(1, 1, 16, 16).abs()
    pipe = AugmentPipe(xfrac=1, xfrac_std=2.5 / std_value(0.9, 1))
    assert pipe(images, 0.9).abs().max() == 0


@pytest.mark.parametrize(('height', 'width'), [(1, 1), (2, 3), (16, 16), (24, 40), (70, 33)])
@pytest.mark.parametrize('strength', [0.1, 1.0])
def test_room_for_the_largest_margin_gives_the_same(height, width, strength):
    """Reading the margin on the host and masking on the device: values and gradients, for margins that are cut off and
    that are not."""
    torch.manual_seed(height + width)
    images, dy = noise_images(3, 2, height, width), noise_images(3, 2, height, width, seed=1)
    to_source = torch.eye(3).repeat(3, 1, 1)
    to_source[:, :2, :2] += torch.randn(3, 2, 2) * strength
    to_source[:, :2, 2] = torch.randn(3, 2) * strength * width
    results = []
    for read_margins in (True, False):
        x = images.clone().requires_grad_()
        y = warp(x, to_source, AugmentPipe().Hz_geom, read_margins=read_margins)
        results.append((y, *torch.autograd.grad(y, x, dy)))
    # Coordinates in a grid of other size round differently
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=2e-4)


@pytest.mark.parametrize(('size', 'reach', 'bounds'), [(9, (4, 2), (4, 2)), (9, (3, 0), (8, 8)), (5, (4, 4), (4, 4)),
                                                       (80, (7, 79), (79, 79))])
def test_upsampling_by_the_definition(size, reach, bounds):
    """Reflect as far as `reach`, put a zero after every pixel, convolve; zeros in the room that is left."""
    line = np.random.RandomState(0).randn(size)
    taps = np.array(SYM6) / np.sum(SYM6)
    stuffed = np.zeros(2 * (size + sum(reach)))
    stuffed[::2] = np.pad(line, reach, mode='reflect')
    want = np.pad(np.convolve(stuffed, 2 * taps)[5:5 + len(stuffed)],
                  [2 * (b - r) for b, r in zip(bounds, reach, strict=True)])
    for given in (reach, tuple(torch.tensor(float(r)) for r in reach)):
        got = upsampling(torch.tensor(taps, dtype=torch.float32), size, given,
                         bounds)(torch.tensor(line, dtype=torch.float32)[None])
        np.testing.assert_allclose(got[0].numpy(), want, atol=2e-6)


def test_downsampling_by_the_definition():
    line = np.random.RandomState(0).randn(2 * 70 + 10)
    taps = np.array(SYM6) / np.sum(SYM6)
    got = downsampling(torch.tensor(taps, dtype=torch.float32), 70)(torch.tensor(line, dtype=torch.float32)[None])
    np.testing.assert_allclose(got[0].numpy(), np.correlate(line, taps, 'valid')[::2], atol=2e-6)


def test_margins_against_corners():
    """The corner pixels of every image, moved one by one."""
    torch.manual_seed(0)
    width, height = 40, 24
    to_source = torch.eye(3).repeat(5, 1, 1)
    to_source[:, :2] += torch.randn(5, 2, 3) * torch.tensor([0.1, 0.1, 3])
    corners = np.array([[x * (width - 1) / 2, y * (height - 1) / 2, 1] for x in (-1, 1) for y in (-1, 1)])
    moved = np.einsum('nij,kj->nki', to_source.double().numpy(), corners)[..., :2] + [(width - 1) / 2, (height - 1) / 2]
    low, high = moved.min((0, 1)), moved.max((0, 1))
    want = np.ceil([-low[0] + 6, high[0] - (width - 1) + 6, -low[1] + 6, high[1] - (height - 1) + 6])
    assert warp_margins(to_source, width, height, extra=6).tolist() == want.tolist()
    assert warp_margins(to_source * 9, width, height, extra=6).tolist() == [39, 39, 23, 23]


# ---------------------------------------------------------------------------
# Colour.

def color_reference(pixels, q, brightness=0, contrast=0, lumaflip=0, hue=0, saturation=0):
    """[..., 3] float64, one transform after the other; the arguments are the widths of their distributions, lumaflip 0
    or 1."""
    pixels = pixels + std_value(q, brightness)
    pixels = pixels * 2 ** std_value(q, contrast)
    if lumaflip and q >= 0.5:
        pixels = pixels - 2 * pixels.mean(-1, keepdims=True)
    pixels = pixels @ Rotation.from_rotvec((2 * q - 1) * math.pi * hue * np.ones(3) / math.sqrt(3)).as_matrix().T
    grey = pixels.mean(-1, keepdims=True)
    return grey + (pixels - grey) * 2 ** std_value(q, saturation)


COLOR_CASES = [dict(brightness=0.4), dict(contrast=0.9), dict(lumaflip=1), dict(hue=0.6), dict(saturation=0.7),
               dict(brightness=0.2, contrast=0.5, lumaflip=1, hue=1, saturation=1)]


@pytest.mark.parametrize('q', QUANTILES)
@pytest.mark.parametrize('case', COLOR_CASES, ids=['-'.join(case) for case in COLOR_CASES])
def test_color(case, q):
    options = dict.fromkeys(case, 1)
    options |= {name + ('_max' if name == 'hue' else '_std'): width for name, width in case.items()
                if name != 'lumaflip'}
    images = noise_images(2, 3, 5, 7)
    want = color_reference(images.double().permute(0, 2, 3, 1).numpy(), q, **case)
    got = AugmentPipe(**options)(images, q).permute(0, 2, 3, 1)
    torch.testing.assert_close(got.double(), torch.tensor(want), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('q', QUANTILES)
def test_color_of_grey_images(q):
    """A grey image has no hue or saturation; what is left maps grey to grey."""
    images = noise_images(2, 1, 5, 7)
    want = (images + std_value(q, 0.2)) * 2 ** std_value(q, 0.5) * (-1 if q >= 0.5 else 1)
    torch.testing.assert_close(AugmentPipe(**augpipe_specs['color'])(images, q), want, rtol=1e-5, atol=1e-6)
