"""Looks at every picture of a source once, before anything is written."""

import collections
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import click
import PIL
import PIL.Image
from tqdm import tqdm

from dnnlib.text import some
from dnnlib.util import UserError

from .. import remarks as image_remarks
from ..convert import HEIC_REMEDY, Resizer, UnusableImage, has_heif, to_rgb_or_grey
from ..names import HEIC_ENDINGS
from . import subsets

# The file whose pages a thread is going through: to open it for each would take a time that grows with their square.
# Not of PNG, whose frames build on those that were decoded before.
WALKED = 'TIFF', 'GIF', 'WEBP'
_paged = threading.local()


class Scan(NamedTuple):
    """What is known of one picture before anything is written."""
    index: int                                      # place in the source; the number in the new name
    name: str
    page: int | None                                # of the file; None = the picture that it opens with
    size: tuple[int, int] | None                    # of the result; None = dropped, too small for center-crop-wide
    mode: str                                       # 'RGB' or 'L'
    problem: str | None                             # why it cannot be used; None = it can
    num_pictures: int = 1                           # pages or frames that the file has
    remarks: dict | None = None                     # from `remarks.remarks_of`

    @property
    def title(self) -> str:
        """What to call it in messages."""
        return self.name if self.page is None else f'{self.name}, page {self.page + 1}'


def in_order(function, items: list, what: str):
    """Like `map(function, items)`, computed a little ahead in threads (Pillow releases Python's lock), with a progress
    bar."""
    workers = min(os.cpu_count() or 1, 8)
    pending = collections.deque()
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(items), desc=what, unit='img', disable=None) as bar:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > 8 * workers:
                    yield pending.popleft().result()
                    bar.update()
            while pending:
                yield pending.popleft().result()
                bar.update()
        finally:
            for future in pending:
                future.cancel()


def select_names(source, opts: dict) -> list[str]:
    """The images that --max-images keeps: the first ones, the same number from each class folder."""
    count = opts['max_images']
    if count is None or count >= len(source.names):
        return source.names
    if not source.has_class_folders:
        return source.names[:count]
    names = subsets.first_of_each(source.names, source.labels, count)
    of_class = collections.Counter(source.class_names[source.labels[name]] for name in names)
    counts = [f'{n} of {name}' for name, n in sorted(of_class.items())]
    click.echo(f'--max-images={count}: the first of each class, {some(counts)}', err=True)
    return names


def check_packages(source, opts: dict) -> None:
    """Raises UserError before an hour of scanning if photos need a package that is missing."""
    heic = [name for name in source.names if name.lower().endswith(HEIC_ENDINGS)]
    if heic and opts['on_error'] == 'fail' and not has_heif():
        raise UserError(f'{source.name}: {len(heic)} of {len(source.names)} images are HEIC ({some(heic, 3)}), which '
                        f'needs a package: {HEIC_REMEDY}; or leave them out with --on-error=skip')


def load_picture(source, name: str, page: int | None, opts: dict) -> tuple[PIL.Image.Image, PIL.Image.Image]:
    """(a picture as Pillow opens it, as 8-bit RGB or grey). Raises what `source.load` and `to_rgb_or_grey` raise."""
    opened = source.load(name) if page is None else _at_page(source, name, page)
    try:
        return opened, to_rgb_or_grey(opened, opts['color'], opts['black'], opts['white'])
    except Exception:
        _paged.file = None                      # the next page is read from a file that is opened anew
        raise


def _at_page(source, name: str, page: int) -> PIL.Image.Image:
    if getattr(_paged, 'file', None) != (source, name):
        opened = source.load(name)
        _paged.file = (source, name) if opened.format in WALKED else None
        _paged.opened, _paged.info = opened, dict(opened.info)
    _paged.opened.info = dict(_paged.info)      # a page of a TIFF would keep the colour profile of one before it
    _paged.opened.seek(page)
    return _paged.opened


def scan_file(source, name: str, resizer: Resizer, opts: dict) -> list[Scan]:
    """Decodes a file. -> its picture, or with --pages=all each; a damaged one comes with its reason, as the last."""
    scans, page = [], None

    def scan(page):
        opened, img = load_picture(source, name, page, opts)
        count, remarks = image_remarks.num_pictures(opened), image_remarks.remarks_of(opened, img)
        return Scan(0, name, page, resizer.size_of(*img.size), img.mode, None, count, remarks)

    try:
        first = scan(None)
        if opts['pages'] == 'first' or first.num_pictures == 1:
            return [first]
        for page in range(first.num_pictures):
            scans.append(scan(page))
        return scans
    except UnusableImage as err:
        problem = str(err)
    except PIL.UnidentifiedImageError:
        problem = 'is not an image, or damaged at its beginning'
    except Exception as err:                        # decoders raise anything from SyntaxError to struct.error
        problem = f'is damaged ({type(err).__name__}: {err})'
    return [*scans, Scan(0, name, page, None, '', problem)]


def scan_images(source, resizer: Resizer, opts: dict) -> list[Scan]:
    """Decodes every picture of the source once, in the order of their names."""
    check_packages(source, opts)
    files = in_order(lambda name: scan_file(source, name, resizer, opts), select_names(source, opts), 'scanning')
    scans = [scan for scans in files for scan in scans]
    return [scan._replace(index=i) for i, scan in enumerate(scans)]
