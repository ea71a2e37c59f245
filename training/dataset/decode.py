"""An image file as training reads it: shape by its header, pixels by pyspng where that is installed, else by Pillow."""

import contextlib
import struct

import numpy as np

from .color import profile_problem
from .convert import is_negative, num_channels, open_image, to_rgb_or_grey

try:
    import pyspng
except ImportError:                 # Pillow decodes the same pixels, in two to four times the time
    pyspng = None


class ImageFile:
    """The bytes of a file, or the first ones, with the header.

    Attributes:
        shape: (C, H, W) as the header has it.
    Raises: UnusableImage, and whatever Pillow raises.
    """

    def __init__(self, data: bytes):
        self._data = data
        self._png_header = data[:data.find(b'IDAT')] if _is_png_of_8_bits(data) else None
        self._img = None if self._is_plain_png() else open_image(data)
        if self._img is None:
            width, height = struct.unpack('>2I', data[16:24])
            self.shape = (3 if data[25:26] == b'\2' else 1, height, width)
        else:
            self.shape = (num_channels(self._img.mode), self._img.height, self._img.width)

    def _is_plain_png(self) -> bool:
        """Whether it is a PNG whose 8-bit pixels are what is served: no transparent colour, no colour profile."""
        return self._png_header is not None and b'tRNS' not in self._png_header and b'iCCP' not in self._png_header

    def pixels(self) -> np.ndarray:
        """uint8 [H, W] or [H, W, C]. Raises what decoders raise for a damaged file: anything."""
        if self._img is None and pyspng is not None:
            return pyspng.load(self._data)
        return np.array(to_rgb_or_grey(self._img or open_image(self._data)))

    def has_more_pictures(self) -> bool:
        """Whether further pages or frames follow the picture, as far as the bytes tell."""
        if self._img is None:
            return b'acTL' in self._png_header
        with contextlib.suppress(Exception):            # cut off behind the header, or damaged there
            return self._img.format != 'MPO' and getattr(self._img, 'is_animated', False)
        return False

    def profile_problem(self) -> str | None:
        """As `color.profile_problem`."""
        return None if self._img is None else profile_problem(self._img)

    def is_negative(self) -> bool:
        """As `convert.is_negative`."""
        return self._img is not None and is_negative(self._img)

    def largest_16_bit_value(self) -> int | None:
        """None for other than 16-bit grey pictures. Raises what decoders raise."""
        return int(np.asarray(self._img).max()) if self._img is not None and self._img.mode.startswith('I') else None


def _is_png_of_8_bits(data: bytes) -> bool:
    """Whether it is a PNG with 8-bit RGB or grey."""
    return (data[:8], data[24:25]) == (b'\x89PNG\r\n\x1a\n', b'\x08') and data[25:26] in (b'\0', b'\2')
