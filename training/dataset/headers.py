"""The headers of images, which dataset_tool.py may or may not have made: their shape, and what to say of them."""

import collections
import contextlib

import PIL

from dnnlib.text import size_of

from . import remarks as image_remarks
from .convert import UnusableImage
from .decode import ImageFile
from .files import ImageFiles
from .names import DatasetError

HEADER_BYTES = 1 << 20              # usually enough to hold the size of a picture
LONG_HEADER_BYTES = 16 << 20        # for formats with the size behind the pixels, or whose decoder needs the whole file
NO_LONG_HEADERS = b'P', b'GIF'      # begin so; Pillow reads them byte by byte
SMALLEST_SIDE, USUAL_SIDE = 8, 256   # of training images; of those that are made of photos
DOZEN = 12                          # images that are decoded to see which values they have


def damaged(path: str, name: str, err: Exception) -> DatasetError:
    """The error for a file that cannot be decoded."""
    problem = 'is not an image, or damaged at its beginning' if isinstance(err, PIL.UnidentifiedImageError) else \
        f'is damaged ({type(err).__name__}: {err})'
    return DatasetError(f'{path}: {name} {problem}; '
                        'rebuild the data set with dataset_tool.py, where --on-error=skip leaves such files out')


def unusable(path: str, name: str, err: UnusableImage) -> DatasetError:
    """The error for a picture that is not damaged."""
    return DatasetError(f'{path}: {name} {err}; rebuild the data set with dataset_tool.py')


def mixed(path: str, name: str, shape, others, side: int | None = None) -> DatasetError:
    """The error for a picture of another shape (C, H, W) than the others; side: as of `common_shape`."""
    color = 'grey' if others[0] == 1 else 'rgb'
    return DatasetError(f'{path}: {name} is {size_of(*shape)}, others are {size_of(*others)}; rebuild with '
                        f'dataset_tool.py {_to_square(others, side)} --color={color}')


def _to_square(shape, side: int | None) -> str:
    """Options that make images of this shape square, with the side that was asked for or one that suits them."""
    largest = max(1 << (min(shape[1:]).bit_length() - 1), SMALLEST_SIDE)
    side = side or (largest if shape[1] == shape[2] else min(largest, USUAL_SIDE))
    return f'--width={side} --height={side} --transform=center-crop'


def common_shape(files: ImageFiles, side: int | None = None) -> tuple[list[int], list[str]]:
    """([C, H, W] of all images, notes), by their headers; by the first one alone if a record says that dataset_tool.py
    made them.

    Args:
        side: of square images that remedies name; None = one that suits the images.
    Raises: DatasetError for damaged headers, several shapes, or one that is not square.
    """
    path, names, record = files.path, files.names, files.record
    made_by_tool = record.get('images') == len(names) and 'tool' in record
    shapes, several, problems = {}, [], {}
    for name in names[:1] if made_by_tool else names:
        file = _header(files, name)
        shapes[name], problems[name] = file.shape, file.profile_problem()
        if file.has_more_pictures():
            several.append(name)
    common = collections.Counter(shapes.values()).most_common(1)[0][0]
    for name, shape in shapes.items():
        if shape != common:
            raise mixed(path, name, shape, common, side)
    if common[1] != common[2]:
        raise DatasetError(f'{path}: {names[0]} is {size_of(*common)}, training needs square images; rebuild with '
                           f'dataset_tool.py {_to_square(common, side)}')
    notes = image_remarks.more_pictures(several) + image_remarks.wrong_colors(problems)
    return list(common), notes + ([] if made_by_tool else _dark_16_bits(files))


def _header(files: ImageFiles, name: str) -> ImageFile:
    """A file, read no further than its header."""
    try:
        with files.open(name) as f:
            head = f.read(HEADER_BYTES)
            try:
                return ImageFile(head)
            except Exception:
                if len(head) < HEADER_BYTES or head.startswith(NO_LONG_HEADERS):
                    raise
            return ImageFile(head + f.read(LONG_HEADER_BYTES - len(head)))
    except UnusableImage as err:
        raise unusable(files.path, name, err) from err
    except Exception as err:                    # decoders raise anything from SyntaxError to struct.error
        raise damaged(files.path, name, err) from err


def _dark_16_bits(files: ImageFiles) -> list[str]:
    """A note, if the images have 16 bits of which they use few, by the look of a dozen of them."""
    largest, negative = [], []
    for name in files.names[::-(-len(files.names) // DOZEN)]:
        with contextlib.suppress(Exception):    # damaged ones are reported when they are read
            file = ImageFile(files.read(name))
            largest.append(file.largest_16_bit_value())
            negative.append(file.is_negative())
        if largest in ([], [None]):
            return []                           # one look is enough at most sets
    return image_remarks.dark_16_bits([value for value in largest if value is not None], all(negative))
