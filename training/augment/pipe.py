"""Adaptive discriminator augmentation: random transforms of all images the discriminator sees, each with probability
`p`.

Source: Karras et al., "Training Generative Adversarial Networks with Limited Data", NeurIPS 2020, appendix B.
"""

import functools
import math

import torch

from dnnlib import UserError
from torch_utils.ops import upfirdn2d

from .draws import Draws
from .matrices import hue_rotation, luma_flip, rotation, saturation, scaling, translation
from .resample import filtering, map_lines, warp
from .wavelets import SYM6, octave_filters

_blit = dict(xflip=1, rotate90=1, xint=1)
_geom = dict(scale=1, rotate=1, aniso=1, xfrac=1)
_color = dict(brightness=1, contrast=1, lumaflip=1, hue=1, saturation=1)
_filter, _noise, _cutout = dict(imgfilter=1), dict(noise=1), dict(cutout=1)

augpipe_specs = {           # preset -> keywords of AugmentPipe; the paper's choice is 'bgc'
    'blit': _blit,
    'geom': _geom,
    'color': _color,
    'filter': _filter,
    'noise': _noise,
    'cutout': _cutout,
    'bg': _blit | _geom,
    'bgc': _blit | _geom | _color,
    'bgcf': _blit | _geom | _color | _filter,
    'bgcfn': _blit | _geom | _color | _filter | _noise,
    'bgcfnc': _blit | _geom | _color | _filter | _noise | _cutout,
}

# Share of the octave bands in the power of a typical photograph, lowest first
BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)


class AugmentPipe(torch.nn.Module):
    """Transforms a batch of images at random, every image on its own.

    A keyword named like a transform is a multiplier: the transform takes effect with probability `p` times this; 0
    leaves it out. The buffer `p`, a float32 scalar, is 1 at first and set from outside; only the device reads it. For
    given random numbers the result is an affine function of the images, differentiable any number of times.
    """

    def __init__(
        self,
        # Pixel blitting.
        xflip=0, rotate90=0, xint=0,
        xint_max=0.125,                     # largest shift, relative to the image size
        # General geometric transformations.
        scale=0, rotate=0, aniso=0, xfrac=0,
        scale_std=0.2,                      # of log2 of the factor
        rotate_max=1,                       # largest angle, relative to half a turn
        aniso_std=0.2,                      # of log2 of the factor
        xfrac_std=0.125,                    # of the shift, relative to the image size
        # Colour transformations.
        brightness=0, contrast=0, lumaflip=0, hue=0, saturation=0,
        brightness_std=0.2,                 # of the added value
        contrast_std=0.5,                   # of log2 of the factor
        hue_max=1,                          # largest angle, relative to half a turn
        saturation_std=1,                   # of log2 of the factor
        # Image-space filtering.
        imgfilter=0,
        imgfilter_bands=(1, 1, 1, 1),       # multipliers of the four octave bands, lowest first
        imgfilter_std=1,                    # of log2 of the amplification
        # Image-space corruptions.
        noise=0, cutout=0,
        noise_std=0.1,                      # of the standard deviation of the noise
        cutout_size=0.5,                    # side of the rectangle, relative to the image size
    ):
        super().__init__()
        self.xflip, self.rotate90, self.xint, self.xint_max = xflip, rotate90, xint, xint_max
        self.scale, self.rotate, self.aniso, self.xfrac = scale, rotate, aniso, xfrac
        self.scale_std, self.rotate_max, self.aniso_std, self.xfrac_std = scale_std, rotate_max, aniso_std, xfrac_std
        self.brightness, self.contrast, self.lumaflip = brightness, contrast, lumaflip
        self.hue, self.saturation = hue, saturation
        self.brightness_std, self.contrast_std = brightness_std, contrast_std
        self.hue_max, self.saturation_std = hue_max, saturation_std
        self.imgfilter, self.imgfilter_std = imgfilter, imgfilter_std
        self.noise, self.cutout, self.noise_std, self.cutout_size = noise, cutout, noise_std, cutout_size
        if len(imgfilter_bands) != len(BAND_POWER):
            raise ValueError(f'AugmentPipe: imgfilter_bands is {imgfilter_bands!r}, it must have {len(BAND_POWER)} '
                             'numbers, lowest band first')
        self.register_buffer('p', torch.ones([]))
        self.register_buffer('Hz_geom', upfirdn2d.setup_filter(SYM6))
        self.register_buffer('Hz_fbank', torch.as_tensor(octave_filters(), dtype=torch.float32))
        self.register_buffer('imgfilter_bands', torch.as_tensor(imgfilter_bands, dtype=torch.float32), persistent=False)
        self.register_buffer('band_power', torch.as_tensor(BAND_POWER, dtype=torch.float32), persistent=False)

    def forward(self, images, debug_percentile=None):
        """Transforms every image with its own random numbers.

        Args:
            images:           [N, C, H, W] float32 in [-1, 1]; colour transformations need C = 1 or 3.
            debug_percentile: above 0 and below 1: every transform takes effect, its parameters have their value at this
                              percentile.
        Returns:              [N, C, H, W] float32, not clamped.
        Raises:               ValueError for a wrong shape, dtype, number of channels or percentile; UserError if the
                              images are too small for `imgfilter`.
        """
        self._check(images, debug_percentile)
        draw = Draws(images, debug_percentile)
        for stage in (self._geometry, self._color, self._filter, self._noise, self._cutout):
            images = stage(images, draw)
        return images

    def _check(self, images, debug_percentile):
        if images.ndim != 4 or images.dtype != torch.float32:
            raise ValueError(f'AugmentPipe: images are {images.dtype} of shape {list(images.shape)}, they must be '
                             'float32 [N, C, H, W]')
        if debug_percentile is not None and not 0 < debug_percentile < 1:
            raise ValueError(f'AugmentPipe: debug_percentile is {debug_percentile}, it must lie between 0 and 1')
        smallest = self.Hz_fbank.shape[1] // 2 + 1                              # lines continue by reflection, once
        if self.imgfilter > 0 and min(images.shape[2:]) < smallest:
            raise UserError(f'the images are {images.shape[3]}x{images.shape[2]}, but the filter of --augpipe=filter, '
                            f'bgcf, bgcfn and bgcfnc needs at least {smallest}x{smallest}; use --augpipe=bgc or larger '
                            'images')

    # -----------------------------------------------------------------------
    # Pixel blitting and general geometric transformations.

    def _geometry(self, images, draw):
        """All geometric transformations at once. The map from the result back to the image is the product of the
        inverses, the first one leftmost."""
        height, width = images.shape[2:]
        inverses = [*self._undo_blitting(draw, width, height), *self._undo_geometric(draw, width, height)]
        return warp(images, functools.reduce(torch.matmul, inverses), self.Hz_geom) if inverses else images

    def _undo_blitting(self, draw, width, height):
        """Mirroring left to right, quarter turns, shifts by whole pixels: yields the inverse of each, [N, 3, 3]."""
        if self.xflip > 0:
            flip = draw.gate(draw.integer(2), self.p * self.xflip)
            yield scaling(torch.stack([1 - 2 * flip, torch.ones_like(flip)], dim=1))
        if self.rotate90 > 0:
            yield rotation(draw.gate(draw.integer(4), self.p * self.rotate90) * (math.pi / 2))
        if self.xint > 0:
            shift = draw.gate(draw.symmetric(2) * self.xint_max, self.p * self.xint, 1)
            yield translation(-_in_pixels(shift, width, height).round())

    def _undo_geometric(self, draw, width, height):
        """Scaling, rotation, stretching along the axes, rotation, shift: yields the inverse of each, [N, 3, 3].

        Two rotations, so that the stretching has any direction; the probability that at least one takes effect is that
        of one transform.
        """
        p_rotate = 1 - (1 - self.p * self.rotate).clamp(0, 1).sqrt()
        if self.scale > 0:
            factor = torch.exp2(-draw.gate(draw.normal() * self.scale_std, self.p * self.scale))
            yield scaling(torch.stack([factor, factor], dim=1))
        if self.rotate > 0:
            yield rotation(draw.gate(draw.symmetric() * (math.pi * self.rotate_max), p_rotate))
        if self.aniso > 0:
            factor = torch.exp2(-draw.gate(draw.normal() * self.aniso_std, self.p * self.aniso))
            yield scaling(torch.stack([factor, 1 / factor], dim=1))
        if self.rotate > 0 and not draw.fixed:
            yield rotation(draw.gate(draw.symmetric() * (math.pi * self.rotate_max), p_rotate))
        if self.xfrac > 0:
            yield translation(-_in_pixels(draw.gate(draw.normal(2) * self.xfrac_std, self.p * self.xfrac, 1),
                                          width, height))

    # -----------------------------------------------------------------------
    # Colour transformations.

    def _color(self, images, draw):
        """All colour transformations at once, as an affine map of (red, green, blue)."""
        n, c, h, w = images.shape
        transforms = list(self._color_transforms(draw, grey=(c == 1)))
        if not transforms:
            return images
        if c not in (1, 3):
            raise ValueError(f'AugmentPipe: images have {c} channels, colour transformations need 1 or 3')
        matrix = functools.reduce(torch.matmul, reversed(transforms))[:, :3]
        if c == 1:                                                              # grey in, the mean of the colours out
            matrix = matrix.mean(dim=1, keepdim=True)
            matrix = torch.cat([matrix[..., :3].sum(dim=2, keepdim=True), matrix[..., 3:]], dim=2)
        return torch.baddbmm(matrix[..., c:], matrix[..., :c], images.reshape(n, c, h * w)).reshape(n, c, h, w)

    def _color_transforms(self, draw, grey):
        """Brightness, contrast, luma flip, hue, saturation: yields each, [N, 4, 4]."""
        if self.brightness > 0:
            offset = draw.gate(draw.normal() * self.brightness_std, self.p * self.brightness)
            yield translation(offset[:, None].expand(-1, 3))
        if self.contrast > 0:
            factor = torch.exp2(draw.gate(draw.normal() * self.contrast_std, self.p * self.contrast))
            yield scaling(factor[:, None].expand(-1, 3))
        if self.lumaflip > 0:
            yield luma_flip(draw.gate(draw.integer(2), self.p * self.lumaflip))
        if self.hue > 0 and not grey:
            yield hue_rotation(draw.gate(draw.symmetric() * (math.pi * self.hue_max), self.p * self.hue))
        if self.saturation > 0 and not grey:
            yield saturation(torch.exp2(draw.gate(draw.normal() * self.saturation_std, self.p * self.saturation)))

    # -----------------------------------------------------------------------
    # Image-space filtering and corruptions.

    def _filter(self, images, draw):
        """Amplifies octave bands, one after the other; each time all bands are rescaled to keep the power of a typical
        photograph."""
        if self.imgfilter <= 0:
            return images
        num_bands = len(self.band_power)
        change = draw.normal(num_bands) * self.imgfilter_std * (self.imgfilter_bands > 0)
        change = draw.gate(change, self.p * self.imgfilter * self.imgfilter_bands, num_bands)
        gain = torch.exp2(change)
        # The power after changing one band; before, it is 1
        power = 1 + self.band_power * (gain.square() - 1)
        taps = (gain * power.prod(dim=1, keepdim=True).rsqrt()) @ self.Hz_fbank
        height, width = images.shape[2:]
        return map_lines(images, filtering(taps[:, None], width), filtering(taps[:, None], height))

    def _noise(self, images, draw):
        """Adds white noise of a random standard deviation."""
        if self.noise <= 0:
            return images
        std = draw.gate(draw.half_normal() * self.noise_std, self.p * self.noise)
        return images + torch.randn_like(images) * std[:, None, None, None]

    def _cutout(self, images, draw):
        """Zeroes a rectangle; its centre is anywhere in the image."""
        if self.cutout <= 0:
            return images
        half = draw.gate(torch.full([len(images)], self.cutout_size / 2, device=images.device), self.p * self.cutout)
        centre, (height, width) = draw.uniform(2), images.shape[2:]
        outside_x = (_relative_positions(width, images) - centre[:, :1]).abs() >= half[:, None]
        outside_y = (_relative_positions(height, images) - centre[:, 1:]).abs() >= half[:, None]
        return images * (outside_x[:, None, None, :] | outside_y[:, None, :, None])


def _in_pixels(shift, width, height):
    """[N, 2] relative to the image size -> in pixels."""
    return torch.stack([shift[:, 0] * width, shift[:, 1] * height], dim=1)


def _relative_positions(size, images):
    """Pixel centres of one axis between 0 and 1."""
    return (torch.arange(size, device=images.device) + 0.5) / size
