"""ADA's filter, noise and cutout against formulas written out here."""

import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.special
import torch
from augment_images import QUANTILES, noise_images, std_value

from training.augment import AugmentPipe
from training.augment.resample import filtering, map_lines
from training.augment.wavelets import SYM6, octave_filters

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
