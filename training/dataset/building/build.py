"""Reads, checks, converts and writes a data set: the last step of every command of dataset_tool.py."""

import collections
import io
import json
import os

import click
import numpy as np
import PIL
import PIL.Image

from dnnlib.text import some
from dnnlib.util import UserError

from .. import remarks as image_remarks
from ..convert import WHITE, Resizer
from ..headers import SMALLEST_SIDE
from ..labels import empty_classes
from ..names import LABELS_FILE
from .scan import Scan, in_order, load_picture, scan_images
from .writer import new_image_files

VERSION = 3                                         # in the record; raise it when the same input gives other pixels
COLORS = {'RGB': 'RGB', 'L': 'grey'}                # Pillow's name of a format -> ours
OTHER_ARCHIVES = ('.tar', '.gz', '.tgz', '.bz2', '.xz', '.7z', '.rar', '.lmdb', '.h5', '.hdf5', '.tfrecords', '.npz')
AS_THEY_ARE = dict(split=None, max_images=None, transform=None, resize_filter='lanczos', width=None, height=None,
                   color=None, on_error='fail', pages='first', black=0, white=WHITE)


def check_dest(dest: str, source: str | None = None) -> None:
    """Refuses a destination that is taken, of an unknown kind, inside the source, or in a place where nothing can be
    written."""
    path = os.path.abspath(dest)
    if path.lower().endswith(OTHER_ARCHIVES):
        raise UserError(f'--dest={dest}: this kind of file cannot be written; end it in .zip, or name a folder')
    if os.path.isdir(path) and os.listdir(path) or os.path.isfile(path):
        raise UserError(f'--dest={dest} exists already; choose another name or remove it first')
    if source and os.path.isdir(source) and path.startswith(os.path.join(os.path.abspath(source), '')):
        raise UserError(f'--dest={dest} lies inside --source={source}; choose a place outside it')
    parent = os.path.dirname(path)
    while not os.path.exists(parent):
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent):
        raise UserError(f'--dest={dest}: {parent} is a file, not a folder; choose another place')
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f'--dest={dest}: no permission to write to {parent}; choose another place')


def is_trainable(width: int, height: int) -> bool:
    """Whether training takes images of this size."""
    return width == height and width >= SMALLEST_SIDE and width & (width - 1) == 0


def power_of_two(side: int) -> int:
    """The largest one up to `side`, and at least `SMALLEST_SIDE`."""
    return max(SMALLEST_SIDE, 1 << (side.bit_length() - 1))


def select_usable(scans: list[Scan], source, opts: dict) -> list[Scan]:
    """The pictures to write: all of one format, the most frequent one.

    Lists all others with their reasons. Raises UserError if any cannot be used, unless --on-error=skip; if none is
    left; and if the most frequent format is none to train on.
    """
    formats = collections.Counter((scan.size, scan.mode) for scan in scans if scan.size)
    (size, mode), count = formats.most_common(1)[0] if formats else ((None, None), 0)
    trainable = size is not None and is_trainable(*size)
    reasons = [scan.problem or (_mismatch(scan, size, mode) if trainable else None) for scan in scans]
    for scan, reason in zip(scans, reasons, strict=True):
        if reason:
            click.echo(f'  {scan.title}: {reason}', err=True)
    dropped = [scan.title for scan in scans if not scan.size and not scan.problem]
    if dropped:
        click.echo(f'{len(dropped)} of {len(scans)} images are left out, less wide than --width={opts["width"]} or, at '
                   f'that width, less high than --height={opts["height"]} (a smaller --height takes wider pictures): '
                   f'{some(dropped)}', err=True)
    bad = len(scans) - reasons.count(None)
    if size and not trainable:
        side = power_of_two(min(size))
        raise UserError(f'{source.name}: {count} of {len(scans)} images would be {_times(size)}, training needs square '
                        f'images of one size, a power of two ({SMALLEST_SIDE} or more); use --width={side} '
                        f'--height={side} --transform=center-crop')
    if bad and opts['on_error'] == 'fail':
        raise UserError(f'{source.name}: {bad} of {len(scans)} images cannot be used, see the list above; '
                        'mend or remove them, or leave them out with --on-error=skip')
    usable = [scan for scan, reason in zip(scans, reasons, strict=True) if scan.size and not reason]
    if not usable:
        raise UserError(f'{source.name}: none of its {len(scans)} images can be used; see the reasons above')
    if bad:
        click.echo(f'{bad} of {len(scans)} images cannot be used and are left out.', err=True)
    return usable


def _mismatch(scan: Scan, size: tuple[int, int], mode: str) -> str | None:
    if scan.size and scan.size != size:
        return f'is {_times(scan.size)}, most others are {_times(size)}; --width and --height make all equal'
    if scan.size and scan.mode != mode:
        return f'is {COLORS[scan.mode]}, most others are {COLORS[mode]}; --color=rgb or --color=grey makes all equal'
    return None


def _times(size: tuple[int, int]) -> str:
    return f'{size[0]}x{size[1]}'


def select_labels(usable: list[Scan], source) -> list | None:
    """[label of each picture]; None if any has none, since training with labels needs all of them."""
    missing = [scan.name for scan in usable if scan.name not in source.labels]
    if missing and len(missing) < len(usable):
        click.echo(f'{len(missing)} of {len(usable)} images have no label ({some(missing)}): the data set is written '
                   'without labels', err=True)
    return None if missing else [source.labels[scan.name] for scan in usable]


def notes_on(usable: list[Scan], labels: list | None, source, opts: dict) -> list[str]:
    """What the user should know of the pictures that are used, one line each."""
    several = [scan for scan in usable if scan.num_pictures > 1] if opts['pages'] == 'first' else []
    notes = image_remarks.more_pictures([scan.name for scan in several], sum(scan.num_pictures - 1 for scan in several))
    notes += image_remarks.remarks_on([scan.title for scan in usable], [scan.remarks for scan in usable])
    if labels is not None and isinstance(labels[0], int):
        notes += empty_classes(np.array(labels), source.class_names)
    return notes + image_remarks.too_few(len(usable))


def make_record(source, usable: list[Scan], num_scanned: int, opts: dict) -> dict:
    """The record: where the images came from and how they were made, without paths of this machine."""
    names = ['split', 'max_images', 'transform', 'resize_filter', 'width', 'height', 'color', 'pages', 'black', 'white']
    options = {name: opts[name] for name in names}
    return {
        'source': source.name, **options,
        'images': len(usable), 'left_out': num_scanned - len(usable), 'size': list(usable[0].size),
        'mode': usable[0].mode, 'tool': f'dataset_tool {VERSION}', 'pillow': PIL.__version__,
        'source_record': source.record or None,
    }


def write_images(usable: list[Scan], source, resizer: Resizer, labels: list | None, record: dict, opts: dict) -> None:
    """Writes the data set, whole or not at all."""
    def convert(scan):
        try:
            img = resizer(load_picture(source, scan.name, scan.page, opts)[1])
        except Exception as err:                    # `scan` could read it
            raise UserError(f'{source.name}: {scan.title} cannot be read any more ({type(err).__name__}: {err}); was '
                            'it changed? Run the same command again') from err
        png = io.BytesIO()
        # A new image: no profile, place or date in it
        PIL.Image.fromarray(np.asarray(img)).save(png, 'png', compress_level=0)
        return png.getvalue()

    names = [f'{scan.index // 1000:05d}/img{scan.index:08d}.png' for scan in usable]
    with new_image_files(opts['dest']) as dest:
        for name, data in zip(names, in_order(convert, usable, 'writing'), strict=True):
            dest.write(name, data)
        meta = {'labels': None if labels is None else list(zip(names, labels, strict=True))}
        if source.class_names:
            meta['class_names'] = source.class_names
        dest.write(LABELS_FILE, json.dumps(meta).encode())
        dest.record = record


def build(source, opts: dict) -> None:
    """Makes `opts['dest']` of a source.

    Args:
        source: as in `sources.py`.
        opts:   'dest' and what is in `AS_THEY_ARE`, by the names of the options of dataset_tool.py.
    Raises: UserError if the images cannot be used or nothing can be written.
    """
    resizer = Resizer(opts['transform'], opts['width'], opts['height'], opts['resize_filter'])
    for note in source.notes:
        click.echo(note, err=True)
    scans = scan_images(source, resizer, opts)
    usable = select_usable(scans, source, opts)
    labels = select_labels(usable, source)
    for note in notes_on(usable, labels, source, opts):
        click.echo(note, err=True)
    record = make_record(source, usable, len(scans), opts)
    write_images(usable, source, resizer, labels, record, opts)
    print(f'{opts["dest"]}: {len(usable)} images, {_times(usable[0].size)} {COLORS[usable[0].mode]}; '
          f'{describe_labels(labels, source)}')


def describe_labels(labels: list | None, source) -> str:
    """'no labels' or '10 classes: airplane, ...', for the last line printed."""
    if labels is None:
        return 'no labels'
    if source.class_names:
        return f'{len(source.class_names)} classes: {some(source.class_names)}'
    return 'labels from dataset.json'
