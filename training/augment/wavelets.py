"""The two wavelet filters of ADA: one to resample images without aliasing, one to split them into octave bands.

Source: Karras et al., "Training Generative Adversarial Networks with Limited Data", NeurIPS 2020, appendix B;
        Daubechies, "Ten Lectures on Wavelets", SIAM 1992, table 6.3 (least asymmetric filters).
"""

import numpy as np

# Low-pass filter of the wavelet 'sym6': orthonormal to its even shifts, six vanishing moments.
SYM6 = (0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
        0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
        0.0017677118642428036, -0.007800708325034148)

# Low-pass filter of 'sym2' times its mirror image, over 2: symmetric, sums to 1, passes half the band.
SYM2_LOWPASS = np.array([-1, 0, 9, 16, 9, 0, -1]) / 32


def octave_filters() -> np.ndarray:
    """Four symmetric filters that split a line into the bands [0, pi/8], [pi/8, pi/4], [pi/4, pi/2], [pi/2, pi] and add
    up to the identity.

    With L(z) the low-pass filter they are L(z) L(z^2) L(z^4), L(z) L(z^2) [1 - L(z^4)], L(z) [1 - L(z^2)] and 1 - L(z).

    Returns: [4, 43] float64, from the lowest band to the highest.
    """
    bands, lower = [], np.ones(1)
    for octave in (1, 2, 4):
        lowpass = np.zeros(octave * (len(SYM2_LOWPASS) - 1) + 1)
        lowpass[::octave] = SYM2_LOWPASS
        highpass = -lowpass
        highpass[len(highpass) // 2] += 1
        bands.append(np.convolve(lower, highpass))
        lower = np.convolve(lower, lowpass)
    bands.append(lower)
    return np.stack([np.pad(band, (len(lower) - len(band)) // 2) for band in reversed(bands)])
