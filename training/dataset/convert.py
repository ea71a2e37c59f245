"""From any picture to the images of a data set: 8-bit RGB or grey in the colours of sRGB, upright, cropped, resized."""

import contextlib
import functools
import io
import warnings

import numpy as np
import PIL.Image
import PIL.ImageOps

from dnnlib import UserError

from .color import profile_of, to_srgb

RESIZE_FILTERS = {'box': PIL.Image.Resampling.BOX, 'bilinear': PIL.Image.Resampling.BILINEAR,
                  'lanczos': PIL.Image.Resampling.LANCZOS}
TRANSFORMS = ('center-crop', 'center-crop-wide')
WHITE = 65535                       # of 16 bits
LEVELS = -2 ** 31, 2 ** 32 - 1      # of pixels
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0     # a tag of TIFF, and its value for negatives
HEIC_BRANDS = (b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx', b'mif1', b'msf1')
HEIC_REMEDY = "pip install pillow-heif (the extra [heif]), or export it as JPEG"


class UnusableImage(ValueError):
    """Why a picture cannot be used, as half a sentence."""


@functools.cache
def has_heif() -> bool:
    """Whether the package pillow-heif is installed: with it, Pillow reads the photos of iPhones (HEIC)."""
    try:
        import pillow_heif
    except (ImportError, OSError):                  # OSError: there, without a library that it needs
        return False
    pillow_heif.register_heif_opener()
    return True


@functools.cache
def _formats() -> list[str]:
    """Pillow's names of the formats that are read. Pillow knows more formats and recognises them by content: it would
    run Ghostscript on EPS."""
    PIL.Image.init()
    wanted = ['AVIF', 'BMP', 'GIF', 'JPEG', 'JPEG2000', 'MPO', 'PNG', 'PPM', 'TGA', 'TIFF', 'WEBP']
    wanted += ['HEIF'] if has_heif() else []
    return [name for name in wanted if name in PIL.Image.OPEN]


def open_image(data: bytes) -> PIL.Image.Image:
    """The picture of a file, not yet decoded.

    Raises: UnusableImage for HEIC without the package that reads it, and for more pixels than Pillow's limit.
            Whatever else Pillow raises.
    """
    try:
        return PIL.Image.open(io.BytesIO(data), formats=_formats())
    except PIL.UnidentifiedImageError:
        if data[4:8] == b'ftyp' and data[8:12] in HEIC_BRANDS and not has_heif():
            raise UnusableImage(f'is HEIC, which needs a package: {HEIC_REMEDY}') from None
        raise
    except PIL.Image.DecompressionBombError:
        limit = 2 * PIL.Image.MAX_IMAGE_PIXELS
        raise UnusableImage(f'has more than {limit:,} pixels, as hostile files do; if you trust it, raise the limit '
                            'with dataset_tool.py --max-pixels=N') from None


@contextlib.contextmanager
def pixel_limit(max_pixels: int | None):
    """Within it, pictures may have so many pixels; None = Pillow's limit, 178,956,970. Enter it before the threads that
    read start, and leave it after they end.
    """
    before = PIL.Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', PIL.Image.DecompressionBombWarning)     # at half the limit
        try:
            PIL.Image.MAX_IMAGE_PIXELS = before if max_pixels is None else (max_pixels + 1) // 2
            yield
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = before


def to_rgb_or_grey(img: PIL.Image.Image, color: str | None = None, black: int = 0,
                   white: int = WHITE) -> PIL.Image.Image:
    """The picture as 8-bit RGB or grey (mode 'RGB' or 'L'), in the colours of sRGB.

    Palettes become RGB, bilevel becomes grey, 16 bits become the nearest of 8, an alpha channel that hides nothing is
    dropped; an embedded colour profile is applied. Photos are turned upright by their EXIF orientation, except in PNG:
    cameras do not write it, and converters leave the tag in pictures that they have already turned.

    Args:
        img:   an opened picture.
        color: 'rgb' or 'grey' converts to that, with white behind transparent parts; None = as the picture is.
        black, white: of grey pictures of 16 or 32 bits, the values that become black, with all below, and white, with
               all above. Where the file says that 0 is white (TIFF), they change places.
    Raises: UnusableImage for transparent parts (if color is None), for values beyond 16 bits where `black` and `white`
            are those of 16 bits, and for Lab.
            Whatever Pillow raises for damaged files.
    """
    img.load()
    profile, negative = profile_of(img), is_negative(img)
    if img.format != 'PNG':
        img = PIL.ImageOps.exif_transpose(img)
    if img.mode.startswith('I'):
        img = _to_8_bit(img, black, white, negative)
    elif img.mode == 'F':
        raise UnusableImage('has floating-point pixels; save it with 8 or 16 bits')
    elif img.mode == 'LAB':
        raise UnusableImage('has the colours of Lab; save it as RGB')
    if img.mode in ('RGBA', 'LA', 'PA', 'RGBa', 'La') or 'transparency' in img.info:
        img = _without_alpha(img, profile, fill=color is not None)
    else:
        img = to_srgb(img.convert('L') if img.mode == '1' else img.convert('RGB') if img.mode == 'P' else img, profile)
    if img.mode not in ('RGB', 'L'):
        img = img.convert('RGB')
    return img.convert({'rgb': 'RGB', 'grey': 'L', None: img.mode}[color])


def check_levels(black: int, white: int) -> None:
    """Raises UserError where `black` and `white` of `to_rgb_or_grey` are none."""
    if black >= white:
        raise UserError(f'--black={black} --white={white}: black must be the smaller value; pictures stored as '
                        'negatives (TIFF) are turned anyway')


def is_negative(img: PIL.Image.Image) -> bool:
    """Whether the file says that 0 is white. Pillow turns such pictures of up to 8 bits itself."""
    return img.format == 'TIFF' and img.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO


def num_channels(mode: str) -> int:
    """1 or 3: what `to_rgb_or_grey` makes of Pillow's `mode`."""
    return 1 if mode in ('1', 'L', 'LA', 'La') or mode.startswith('I') else 3


def _to_8_bit(img: PIL.Image.Image, black: int, white: int, negative: bool) -> PIL.Image.Image:
    value = np.asarray(img).astype(np.int64)
    if value.min() < 0 and black == 0 or value.max() > WHITE and white == WHITE:
        raise UnusableImage(f'has values from {value.min()} to {value.max()}; --black=VALUE --white=VALUE say which of '
                            'them become black and white')
    value, span = (white - value if negative else value - black), white - black
    return PIL.Image.fromarray(((2 * 255 * value + span) // (2 * span)).clip(0, 255).astype(np.uint8))


def _without_alpha(img: PIL.Image.Image, profile: bytes | None, fill: bool) -> PIL.Image.Image:
    grey = img.mode in ('L', 'LA', 'La', '1')
    img = to_srgb(img.convert('LA' if grey else 'RGBA'), profile).convert('RGBA')
    if img.getchannel('A').getextrema()[0] < 255:
        if not fill:
            raise UnusableImage('has transparent parts; --color=rgb puts white behind them')
        img = PIL.Image.alpha_composite(PIL.Image.new('RGBA', img.size, 'white'), img)
    return img.convert('L' if grey else 'RGB')


class Resizer:
    """Crops and resizes; `size_of` gives the size of the result without computing it.

    Args:
        transform:     None: squeeze or stretch to width x height. 'center-crop': the largest centred square, resized.
                       'center-crop-wide': the round(width * h / w) centre rows of a w x h picture, resized to width x
                       height and set in the middle of a black width x width square; pictures that this would enlarge
                       are dropped.
        width, height: pixels; None = the picture's own (only without a transform).
        resize_filter: 'box', 'bilinear' or 'lanczos', as Pillow has them.
    """

    def __init__(self, transform: str | None, width: int | None, height: int | None, resize_filter: str):
        self.transform, self.width, self.height = transform, width, height
        self.filter = RESIZE_FILTERS[resize_filter]

    def _wide_rows(self, w: int, h: int) -> int:
        return round(self.width * h / w)

    def size_of(self, w: int, h: int) -> tuple[int, int] | None:
        """(width, height) that a w x h picture gets; None if it is dropped as too small."""
        if self.transform == 'center-crop-wide':
            small = w < self.width or self._wide_rows(w, h) < self.height
            return None if small else (self.width, self.width)
        return self.width or w, self.height or h

    def __call__(self, img: PIL.Image.Image) -> PIL.Image.Image:
        """The picture, cropped and resized; one that `size_of` calls too small must not be passed."""
        w, h = img.size
        if self.transform == 'center-crop-wide':
            rows = self._wide_rows(w, h)
            band = self._resize(img.crop((0, (h - rows) // 2, w, (h + rows) // 2)), self.width, self.height)
            canvas = PIL.Image.new(img.mode, (self.width, self.width))
            canvas.paste(band, (0, (self.width - self.height) // 2))
            return canvas
        if self.transform == 'center-crop':
            side = min(w, h)
            img = img.crop(((w - side) // 2, (h - side) // 2, (w + side) // 2, (h + side) // 2))
        return self._resize(img, self.width or w, self.height or h)

    def _resize(self, img: PIL.Image.Image, width: int, height: int) -> PIL.Image.Image:
        return img if img.size == (width, height) else img.resize((width, height), self.filter)
