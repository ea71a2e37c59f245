"""ADA: every transform against scipy or a formula written out here, the probabilities, the derivatives, and that the
host reads nothing.

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
from scipy.spatial.transform import Rotation
from torch.utils._python_dispatch import TorchDispatchMode

from dnnlib import UserError
from training.augment import AugmentPipe, augpipe_specs
from training.augment.resample import downsampling, filtering, map_lines, upsampling, warp, warp_margins
from training.augment.wavelets import SYM6, octave_filters

QUANTILES = [0.2, 0.6, 0.9]


def std_value(q, std):
    """What a normally distributed parameter is at percentile q, by the reference implementation's convention."""
    return scipy.special.erfinv(2 * q - 1) * std


def smooth_images(height, width, n=1, channels=3, waves=3, seed=0):
    """[n, channels, height, width] in [-1, 1], cosines of up to `waves` half periods."""
    coeffs = np.random.RandomState(seed).randn(n, channels, waves + 1, waves + 1)
    along_y = np.cos(np.pi * np.arange(waves + 1)[:, None] * np.linspace(0, 1, height))
    along_x = np.cos(np.pi * np.arange(waves + 1)[:, None] * np.linspace(0, 1, width))
    images = np.einsum('nckl,ky,lx->ncyx', coeffs, along_y, along_x)
    return torch.tensor(images / np.abs(images).max(), dtype=torch.float32)


def noise_images(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.5


def linear(preset='bgcfnc', seed=3):
    """The pipeline with fixed random numbers, as a function of the images."""
    pipe = AugmentPipe(**augpipe_specs[preset])
    pipe.p.fill_(0.7)

    def run(images):
        torch.manual_seed(seed)
        return pipe(images)
    return run


# ---------------------------------------------------------------------------
# Geometry.

def scipy_warp(images, matrix, shift=(0, 0)):
    """Result at offset o from the centre = image at matrix @ o - shift, (x, y); fifth-order splines.

    The wavelet is not symmetric. Its centre of mass lies `delay` beside the pixel, and the mirrored filter on the way
    back undoes that only where the image is not turned: the pipeline shows the image displaced by (matrix - 1) delay, a
    twentieth of a pixel
                                   for a quarter turn.
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


# ---------------------------------------------------------------------------
# Filter, noise, cutout.

def lowpass_response(omega):
    """|H|^2 / 2 of Daubechies' filter with two vanishing moments (Ten Lectures, equation 6.1.12)."""
    return np.cos(omega / 2) ** 4 * (1 + 2 * np.sin(omega / 2) ** 2)


def band_responses(omega):
    """The four octave bands, lowest first: split the line, then again the lower half at half the rate."""
    first, second, third = (lowpass_response(omega * rate) for rate in (1, 2, 4))
    return np.array([first * second * third, first * second * (1 - third), first * (1 - second), 1 - first])


def test_octave_filters():
    filters = octave_filters()
    omega = np.linspace(0, np.pi, 50)
    response = filters @ np.cos(np.outer(np.arange(43) - 21, omega))
    np.testing.assert_allclose(response, band_responses(omega), atol=1e-12)
    np.testing.assert_allclose(filters, filters[:, ::-1], atol=0)


def test_the_wavelet_is_sym6():
    """Orthonormal to its even shifts, and its high-pass partner annihilates polynomials of degree 5: only Daubechies'
    family of length 12."""
    shifts = [np.dot(SYM6[2 * m:], SYM6[:12 - 2 * m]) for m in range(6)]
    np.testing.assert_allclose(shifts, [1, 0, 0, 0, 0, 0], atol=1e-9)
    k = (np.arange(12) - 5.5) / 5.5
    moments = [np.sum(SYM6 * (-1.0) ** np.arange(12) * k ** m) for m in range(6)]
    np.testing.assert_allclose(moments, 0, atol=1e-8)


@pytest.mark.parametrize('q', QUANTILES)
@pytest.mark.parametrize('bands', [[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0.3, 0]])
def test_filter_amplifies_bands(q, bands):
    """A cosine along x and y comes out multiplied by the gains at its two frequencies."""
    gains, power = np.ones(4), np.array([10, 1, 1, 1]) / 13
    for band in np.flatnonzero(bands):
        change = np.ones(4)
        change[band] = 2 ** std_value(q, 0.8)
        gains *= change / math.sqrt((power * change ** 2).sum())
    pipe = AugmentPipe(imgfilter=1, imgfilter_bands=bands, imgfilter_std=0.8)
    x, y = np.arange(40), np.arange(32)
    for half_periods_x, half_periods_y in [(0, 0), (3, 1), (9, 2), (39, 20), (17, 31)]:
        omega_x, omega_y = np.pi * half_periods_x / 39, np.pi * half_periods_y / 31
        image = torch.tensor(np.outer(np.cos(omega_y * y), np.cos(omega_x * x)), dtype=torch.float32)[None, None]
        gain = (gains @ band_responses(omega_x)) * (gains @ band_responses(omega_y))
        torch.testing.assert_close(pipe(image, q), image * gain, rtol=0, atol=2e-6)


def test_filter_with_all_gains_one_is_the_identity():
    images = noise_images(2, 3, 22, 30)
    taps = torch.tensor(octave_filters().sum(axis=0), dtype=torch.float32)
    torch.testing.assert_close(map_lines(images, filtering(taps, 30), filtering(taps, 22)), images, rtol=0, atol=1e-6)


def test_noise_has_the_drawn_strength_and_is_white():
    torch.manual_seed(0)
    images = torch.zeros(4, 3, 64, 64)
    noise = AugmentPipe(noise=1, noise_std=0.3)(images, 0.7)
    sigma = scipy.special.erfinv(0.7) * 0.3
    assert noise.std().item() == pytest.approx(sigma, rel=0.02)                      # 4 / sqrt(2 n) of 49152 values
    assert abs((noise[..., 1:] * noise[..., :-1]).mean().item()) < 0.02 * sigma ** 2
    assert abs(noise.mean().item()) < 0.02 * sigma


def test_noise_strength_is_half_normal():
    torch.manual_seed(0)
    sigma = AugmentPipe(noise=1)(torch.zeros(2000, 1, 8, 8)).std([1, 2, 3])
    assert sigma.mean().item() == pytest.approx(0.1 * math.sqrt(2 / math.pi), rel=0.08)         # 5 / sqrt(n) of 0.75
    assert sigma.square().mean().sqrt().item() == pytest.approx(0.1, rel=0.1)


def test_cutout_in_the_middle():
    images = noise_images(2, 3, 16, 32)
    got = AugmentPipe(cutout=1, cutout_size=0.5)(images, 0.5)
    want = images.clone()
    want[:, :, 4:12, 8:24] = 0
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_cutout_is_one_rectangle_anywhere():
    """Half of each side, of which at least half is inside the image."""
    torch.manual_seed(0)
    cut = AugmentPipe(cutout=1)(torch.ones(300, 1, 16, 16))[:, 0] == 0
    rows, columns = cut.any(dim=2), cut.any(dim=1)
    assert torch.equal(cut, rows[:, :, None] & columns[:, None, :])
    for side in (rows, columns):
        assert (side.int().diff().abs().sum(1) <= 2).all()                           # without a gap
        assert side.sum(1).min() == 4 and side.sum(1).max() == 8
        assert side.float().mean(0).min() > 0.15 and side[:, 8].float().mean() == pytest.approx(0.5, abs=0.15)


# ---------------------------------------------------------------------------
# The pipeline.

@pytest.mark.parametrize('preset', augpipe_specs)
def test_presets_run(preset):
    pipe = AugmentPipe(**augpipe_specs[preset])
    torch.manual_seed(0)
    images = noise_images(3, 3, 24, 28)
    got = pipe(images)
    assert got.shape == images.shape and got.dtype == torch.float32 and got.isfinite().all()
    assert (got - images).abs().amax([1, 2, 3]).max() > 0.01


def test_presets_are_unions():
    """b = blit, g = geom, c = color, f = filter, n = noise, second c = cutout."""
    parts = ['blit', 'geom', 'color', 'filter', 'noise', 'cutout']
    for count, name in [(2, 'bg'), (3, 'bgc'), (4, 'bgcf'), (5, 'bgcfn'), (6, 'bgcfnc')]:
        assert augpipe_specs[name] == {key: 1 for part in parts[:count] for key in augpipe_specs[part]}


def test_p_zero_is_near_identity():
    """Only the resampling and the filter bank run, both of which reconstruct an image up to rounding."""
    pipe = AugmentPipe(**augpipe_specs['bgcfnc'])
    pipe.p.zero_()
    images = noise_images(4, 3, 64, 64)
    torch.testing.assert_close(pipe(images), images, rtol=0, atol=1e-4)


# A flip may be none, a shift may round to zero; everything else changes the image for certain
CHANGED_WHEN_ACTIVE = dict(
    xflip=1 / 2, rotate90=3 / 4, xint=1 - 1 / 36, scale=1, rotate=1, aniso=1, xfrac=1,
    brightness=1, contrast=1, lumaflip=1 / 2, hue=1, saturation=1, noise=1, cutout=1)


@pytest.mark.parametrize('name', CHANGED_WHEN_ACTIVE)
def test_probability(name):
    """A transform takes effect with probability p times its multiplier: also rotation, which has two chances."""
    torch.manual_seed(0)
    n = 1500
    images = noise_images(1, 3, 6, 6).expand(n, -1, -1, -1)
    pipe = AugmentPipe(**{name: 0.6}, xint_max=0.5)
    pipe.p.fill_(0.5)
    changed = ((pipe(images) - images).abs().amax([1, 2, 3]) > 1e-3).float().mean().item()
    # 4 sigma, and values too small to show
    assert changed == pytest.approx(0.3 * CHANGED_WHEN_ACTIVE[name], abs=0.055)


def test_probability_of_each_band():
    torch.manual_seed(0)
    n = 600
    pipe = AugmentPipe(imgfilter=0.8, imgfilter_bands=[0, 1, 0, 0.5])
    pipe.p.fill_(0.5)
    images = noise_images(1, 1, 22, 22).expand(n, -1, -1, -1)
    changed = ((pipe(images) - images).abs().amax([1, 2, 3]) > 1e-3).float().mean().item()
    assert changed == pytest.approx(1 - (1 - 0.4) * (1 - 0.2), abs=0.09)


def test_images_are_transformed_independently():
    torch.manual_seed(0)
    images = noise_images(1, 3, 24, 24).expand(4, -1, -1, -1)
    got = AugmentPipe(**augpipe_specs['bgc'])(images)
    assert all((got[i] - got[j]).abs().max() > 0.01 for i in range(4) for j in range(i))


def test_same_seed_same_result():
    run, images = linear(), noise_images(2, 3, 24, 24)
    assert torch.equal(run(images), run(images))
    assert not torch.equal(run(images), linear(seed=4)(images))


def test_channels_last_images():
    run, images = linear(), noise_images(2, 3, 24, 30)
    torch.testing.assert_close(run(images.contiguous(memory_format=torch.channels_last)), run(images),
                               rtol=0, atol=1e-4)


def test_state_dict():
    state = AugmentPipe(**augpipe_specs['bgcfnc']).state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == {'p': [], 'Hz_geom': [12], 'Hz_fbank': [4, 43]}
    assert state['p'] == 1


# ---------------------------------------------------------------------------
# Derivatives.

def test_derivatives_of_first_and_second_order():
    """The pipeline is affine, A x + b: its gradient is the adjoint of A, wherever it is taken, and the derivative of
    that is A again."""
    run = linear()
    x, v, dy = (noise_images(2, 3, 24, 24, seed=seed) for seed in range(3))
    a_v = run(x + v) - run(x)
    dy.requires_grad_()
    for at in (x, x + v):
        at = at.clone().requires_grad_()
        grad, = torch.autograd.grad(run(at), at, dy, create_graph=True)
        assert (grad * v).sum().item() == pytest.approx((dy * a_v).sum().item(), rel=1e-4, abs=1e-3)
        second, = torch.autograd.grad((grad * v).sum(), dy)
        torch.testing.assert_close(second, a_v, rtol=1e-4, atol=1e-4)


def test_gradient_penalty_through_the_pipeline():
    """R1 with the critic D(y) = |y|^2 / 2: the penalty |A^T y|^2 of y = A x + b has the gradient 2 A^T A A^T y."""
    run = linear(preset='bgcf')
    x, zero = noise_images(2, 3, 24, 24).requires_grad_(), torch.zeros(2, 3, 24, 24, requires_grad=True)
    y = run(x)
    grad, = torch.autograd.grad(y.square().sum() / 2, x, create_graph=True)
    got, = torch.autograd.grad(grad.square().sum(), x)

    def adjoint(dy):
        return torch.autograd.grad(run(zero), zero, dy)[0]
    step = adjoint(y.detach())
    want = 2 * adjoint(run(step) - run(torch.zeros_like(step)))
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 * want.abs().max().item())


# ---------------------------------------------------------------------------
# No synchronisation, and errors.

class OnlyMeta(TorchDispatchMode):
    """Fails where an operator takes or makes a tensor off the meta device: data would have to travel between host and
    device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in torch.utils._pytree.tree_leaves((args, kwargs, result)):
            assert not isinstance(value, torch.Tensor) or value.device.type == 'meta', f'{func} on {value.device}'
        return result


@pytest.mark.parametrize('kwargs', [{}, {'debug_percentile': 0.7}])
def test_no_host_synchronisation(kwargs):
    """Meta tensors have no values: reading one on the host raises, and so does a constant that is copied to the
    device."""
    pipe = AugmentPipe(**augpipe_specs['bgcfnc']).to('meta')
    images = torch.empty(4, 3, 32, 40, device='meta', requires_grad=True)
    dy = torch.empty(4, 3, 32, 40, device='meta', requires_grad=True)
    with OnlyMeta():
        grad, = torch.autograd.grad(pipe(images, **kwargs), images, dy, create_graph=True)
        second, = torch.autograd.grad(grad.sum(), dy)
    assert second.shape == images.shape


@pytest.mark.parametrize(('images', 'message'), [
    (torch.zeros(3, 8, 8), r'float32 of shape \[3, 8, 8\].*\[N, C, H, W\]'),
    (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r'uint8.*float32'),
    (torch.zeros(1, 3, 8, 8, dtype=torch.float64), r'float64.*float32'),
])
def test_wrong_images(images, message):
    with pytest.raises(ValueError, match=message):
        AugmentPipe(**augpipe_specs['bgc'])(images)


def test_wrong_options():
    with pytest.raises(ValueError, match='2 channels.*1 or 3'):
        AugmentPipe(brightness=1)(torch.zeros(1, 2, 8, 8))
    with pytest.raises(ValueError, match='debug_percentile is 1.0'):
        AugmentPipe(brightness=1)(torch.zeros(1, 3, 8, 8), 1.0)
    with pytest.raises(ValueError, match='imgfilter_bands is .1, 1.*4 numbers'):
        AugmentPipe(imgfilter=1, imgfilter_bands=[1, 1])


def test_images_too_small_for_the_filter():
    pipe = AugmentPipe(**augpipe_specs['bgcf'])
    with pytest.raises(UserError, match='32x21.*bgcf.*at least 22x22.*--augpipe=bgc'):
        pipe(torch.zeros(1, 3, 21, 32))
    pipe(torch.zeros(1, 3, 22, 32))
