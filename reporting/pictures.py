"""Grids of a run as small JPEG files, with the same images of each, so that a slider over them shows how they
change."""

import base64
import io
import json
import os
import re
from collections import OrderedDict

import PIL.Image

from .numbers import kimg, thinned
from .run_folder import PAGE_FILE, REALS_FILE

MOST_FRAMES = 60
MOST_BYTES = 9_000_000          # of all grids of a page, before base64 makes them a third larger
CELL = 128                      # pixels of an image that is larger, at most
SMALLEST_CELL = 64              # of one that is smaller, at least, by a whole factor
LARGE, SMALL = (8, 5), (10, 8)  # columns and rows to show of images larger than SMALLEST_CELL, and of others
MOST_PIXELS = 80_000_000        # of a picture that is opened: our largest grids have 33 million
QUALITY = 82
DAMAGED = (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError)       # what Pillow raises of such files
MOST_KEPT = 300                 # JPEGs that are kept while the program runs
DATA_URL = 'data:image/jpeg;base64,'
DATA = re.compile('<script type="application/json" id="data">(.*?)</script>', re.DOTALL)

_made = OrderedDict()           # {identity: JPEG}


def frames(run, most_bytes: int = MOST_BYTES) -> list[tuple[int, str, bytes]]:
    """[(images seen, file, JPEG)] of the fakes, evenly thinned to what a page can hold, no damaged ones."""
    _recall(run)
    most = MOST_FRAMES
    while True:
        sheets = [(nimg, name, sheet(run, name)) for nimg, name in thinned(run.frames, most)]
        found = [entry for entry in sheets if entry[2] is not None]
        if sum(len(data) for *_, data in found) <= most_bytes or most <= 1:
            return found
        most //= 2


def reals(run) -> bytes | None:
    return sheet(run, REALS_FILE)


def sheet(run, name: str) -> bytes | None:
    """A JPEG of the first images of a grid; None if there is none that can be read."""
    path = os.path.join(run.folder, name)
    try:
        key = identity(run, name)
        if (jpeg := _made.get(key)) is None:
            jpeg = _keep(key, _make(path, _side(run)))
        return jpeg
    except DAMAGED:
        return None


def identity(run, name: str) -> str:
    """Identifies the present content of a grid, to tell whether it was made into a JPEG before. Raises OSError if it is
    gone."""
    stat = os.stat(os.path.join(run.folder, name))
    return f'{name} {stat.st_mtime_ns} {stat.st_size} {_side(run)}'


def _side(run):
    side = run.part('training_set_kwargs').get('resolution')
    return side if type(side) is int and side >= 1 else None


def _keep(key, jpeg):
    _made[key] = jpeg
    while len(_made) > MOST_KEPT:
        _made.popitem(last=False)
    return jpeg


def _recall(run):
    """Takes grids that are not in memory from the last page of the run: reading a large one takes a second."""
    try:
        if not run.frames or identity(run, run.frames[0][1]) in _made:
            return
        with open(os.path.join(run.folder, PAGE_FILE), encoding='utf-8') as f:
            data = json.loads(DATA.search(f.read())[1])
        for frame in data['sets'][0]['frames']:
            if frame['src'] is not None:
                _keep(frame['of'], base64.b64decode(frame['src'].removeprefix(DATA_URL), validate=True))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return                          # there is no page, or it is of another version


def _make(path, side):
    with PIL.Image.open(path) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f'{path}: {image.width}x{image.height} is no grid of ours')
        cropped = _cropped(image, side)
        return as_jpeg(_resized(cropped, side or max(cropped.size)))


def as_jpeg(image: PIL.Image.Image) -> bytes:
    out = io.BytesIO()
    image.convert('RGB').save(out, 'JPEG', quality=QUALITY)
    return out.getvalue()


def _cropped(image, side):
    """The first columns and rows of a grid of images of `side` pixels; a picture that is no such grid is returned
    unchanged."""
    if side is None or image.width % side or image.height % side:
        return image
    columns, rows = LARGE if side > SMALLEST_CELL else SMALL
    return image.crop((0, 0, min(columns * side, image.width), min(rows * side, image.height)))


def _resized(image, side):
    if side > CELL:
        scale = CELL / side if side < max(image.size) else min(1, LARGE[0] * CELL / side)
        size = [max(round(length * scale), 1) for length in image.size]
        return image.convert('RGB').resize(size, PIL.Image.Resampling.LANCZOS, reducing_gap=2)
    zoom = -(-SMALLEST_CELL // side)
    return image.resize((image.width * zoom, image.height * zoom), PIL.Image.Resampling.NEAREST)


def data_url(jpeg: bytes) -> str:
    return DATA_URL + base64.b64encode(jpeg).decode()


def label(nimg: int, name: str) -> str:
    return 'before the training' if name.startswith('fakes_init') else kimg(nimg)
