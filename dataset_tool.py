"""Makes a data set for training from a folder, a zip archive or a CIFAR archive: square images of one size, and their labels."""

import collections
import contextlib
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import click
import numpy as np
import PIL
import PIL.Image
from tqdm import tqdm

from dnnlib.util import UserError, user_errors
from training.dataset_sources import open_source
from training.image_convert import RESIZE_FILTERS, TRANSFORMS, Resizer, UnusableImage, to_rgb_or_grey
from training.image_files import LABELS_FILE, some
from training.image_files_writer import new_image_files

VERSION = 1                                         # in the record of a data set; raise it when the same input gives other pixels
COLORS = {'RGB': 'RGB', 'L': 'grey'}                # Pillow's name of a format -> ours
OTHER_ARCHIVES = ('.tar', '.gz', '.tgz', '.bz2', '.xz', '.7z', '.rar', '.lmdb', '.h5', '.hdf5', '.tfrecords', '.npz')


class Scan(NamedTuple):
    """What is known of one picture before anything is written."""
    index: int                                      # place in the source; the number in the new name
    name: str
    size: tuple[int, int] | None                    # of the result; None = dropped, too small for center-crop-wide
    mode: str                                       # 'RGB' or 'L'
    problem: str | None                             # why it cannot be used; None = it can


def check_options(opts: dict) -> None:
    """Refuses options that cannot give square images with a power of two on each side."""
    width, height, transform = opts['width'], opts['height'], opts['transform']
    if transform and not (width and height):
        missing = '--width and --height' if not (width or height) else '--height' if width else '--width'
        raise UserError(f'--transform={transform} needs {missing} too; for example --width=256 --height=256')
    if width and height:
        if transform == 'center-crop-wide' and height > width:
            raise UserError(f'--height={height} is more than --width={width}; center-crop-wide is for wide pictures: use --transform=center-crop')
        result = (width, width) if transform == 'center-crop-wide' else (width, height)
        if not _is_trainable(*result):
            side = _power_of_two(max(result))
            raise UserError(f'--width={width} --height={height}: training needs square images whose side is a power of two (4 or more); '
                            f'use --width={side} --height={side}')


def check_dest(dest: str, source: str) -> None:
    """Refuses a destination that is taken, of an unknown kind, inside the source, or in a place where nothing can be written."""
    path = os.path.abspath(dest)
    if path.lower().endswith(OTHER_ARCHIVES):
        raise UserError(f'--dest={dest}: this kind of file cannot be written; end it in .zip, or name a folder')
    if os.path.isdir(path) and os.listdir(path) or os.path.isfile(path):
        raise UserError(f'--dest={dest} exists already; choose another name or remove it first')
    if os.path.isdir(source) and path.startswith(os.path.join(os.path.abspath(source), '')):
        raise UserError(f'--dest={dest} lies inside --source={source}; choose a place outside it')
    parent = os.path.dirname(path)
    while not os.path.exists(parent):
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent):
        raise UserError(f'--dest={dest}: {parent} is a file, not a folder; choose another place')
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f'--dest={dest}: no permission to write to {parent}; choose another place')


def _is_trainable(width: int, height: int) -> bool:
    return width == height and width >= 4 and width & (width - 1) == 0


def _power_of_two(side: int) -> int:
    """The largest one up to `side`, and at least 4."""
    return max(4, 1 << (side.bit_length() - 1))


def in_order(function, items: list, what: str):
    """Like `map(function, items)`, worked out a little ahead in threads (Pillow lets them run), with a progress bar."""
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


def scan_images(source, resizer: Resizer, opts: dict) -> list[Scan]:
    """Decodes every picture of the source once; damaged ones come back with their reason."""
    def scan(item):
        index, name = item
        try:
            img = to_rgb_or_grey(source.load(name), opts['color'])
        except UnusableImage as err:
            return Scan(index, name, None, '', str(err))
        except PIL.UnidentifiedImageError:
            return Scan(index, name, None, '', 'is not an image, or damaged at its beginning')
        except Exception as err:                    # decoders raise anything from SyntaxError to struct.error for a damaged file
            return Scan(index, name, None, '', f'is damaged ({type(err).__name__}: {err})')
        return Scan(index, name, resizer.size_of(*img.size), img.mode, None)

    names = source.names[:opts['max_images']]
    return list(in_order(scan, list(enumerate(names)), 'scanning'))


def select_usable(scans: list[Scan], source, opts: dict) -> list[Scan]:
    """The pictures to write: all of one format, the most frequent one.

    Lists all others with their reasons. Raises UserError if any cannot be used, unless --on-error=skip; if none is left;
    and if the most frequent format is none to train on.
    """
    formats = collections.Counter((scan.size, scan.mode) for scan in scans if scan.size)
    (size, mode), count = formats.most_common(1)[0] if formats else ((None, None), 0)
    trainable = size is not None and _is_trainable(*size)
    reasons = [scan.problem or (_mismatch(scan, size, mode) if trainable else None) for scan in scans]
    for scan, reason in zip(scans, reasons, strict=True):
        if reason:
            click.echo(f'  {scan.name}: {reason}', err=True)
    dropped = [scan.name for scan in scans if not scan.size and not scan.problem]
    if dropped:
        click.echo(f'{len(dropped)} of {len(scans)} images are left out, too small for --width={opts["width"]} --height={opts["height"]} '
                   f'with center-crop-wide: {some(dropped)}', err=True)
    bad = len(scans) - reasons.count(None)
    if size and not trainable:
        side = _power_of_two(min(size))
        raise UserError(f'{source.name}: {count} of {len(scans)} images would be {_times(size)}, training needs square images of one size, '
                        f'a power of two (4 or more); use --width={side} --height={side} --transform=center-crop')
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
        click.echo(f'{len(missing)} of {len(usable)} images have no label ({some(missing)}): the data set is written without labels', err=True)
    return None if missing else [source.labels[scan.name] for scan in usable]


def make_record(source, usable: list[Scan], num_scanned: int, opts: dict) -> dict:
    """Where the images came from and how they were made. No path of this machine is in it."""
    options = {name: opts[name] for name in ['split', 'max_images', 'transform', 'resize_filter', 'width', 'height', 'color']}
    return {
        'source': source.name, **options,
        'images': len(usable), 'left_out': num_scanned - len(usable), 'size': list(usable[0].size), 'mode': usable[0].mode,
        'tool': f'dataset_tool {VERSION}', 'pillow': PIL.__version__, 'source_record': source.record or None,
    }


def write_images(usable: list[Scan], source, resizer: Resizer, labels: list | None, record: dict, opts: dict) -> None:
    """Writes the data set, whole or not at all."""
    def convert(scan):
        try:
            img = resizer(to_rgb_or_grey(source.load(scan.name), opts['color']))
        except Exception as err:                    # it could be read a moment ago
            raise UserError(f'{source.name}: {scan.name} cannot be read any more ({type(err).__name__}: {err}); was it changed? '
                            'Run the same command again') from err
        png = io.BytesIO()
        PIL.Image.fromarray(np.asarray(img)).save(png, 'png', compress_level=0)     # a new image: no profile, place or date in it
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


def build(opts: dict) -> None:
    """Reads, checks, converts and writes; `opts` as `main` takes them. Raises UserError."""
    check_options(opts)
    check_dest(opts['dest'], opts['source'])
    resizer = Resizer(opts['transform'], opts['width'], opts['height'], opts['resize_filter'])
    with contextlib.closing(open_source(opts['source'], opts['split'])) as source:
        for note in source.notes:
            click.echo(note, err=True)
        scans = scan_images(source, resizer, opts)
        usable = select_usable(scans, source, opts)
        labels = select_labels(usable, source)
        record = make_record(source, usable, len(scans), opts)
        write_images(usable, source, resizer, labels, record, opts)
    print(f'{opts["dest"]}: {len(usable)} images, {_times(usable[0].size)} {COLORS[usable[0].mode]}; {describe_labels(labels, source)}')


def describe_labels(labels: list | None, source) -> str:
    """'no labels' or '10 classes: airplane, ...', for the last line printed."""
    if labels is None:
        return 'no labels'
    if source.class_names:
        return f'{len(source.class_names)} classes: {some(source.class_names)}'
    return 'labels from dataset.json'


@click.command(context_settings={'max_content_width': 120})
@click.option('--source', metavar='PATH', required=True, help='Folder, .zip archive, cifar-10-python.tar.gz or cifar-100-python.tar.gz.')
@click.option('--dest', metavar='PATH', required=True, help='New folder, or new archive ending in .zip.')
@click.option('--max-images', metavar='N', type=click.IntRange(min=1), help='Take only the first N images of the source.')
@click.option('--split', metavar='FOLDER', help='Take only the images under this folder of the source; of a CIFAR archive: train (default) or test.')
@click.option('--transform', type=click.Choice(TRANSFORMS), help='How to crop; without it, images are stretched to --width x --height.')
@click.option('--width', metavar='PIXELS', type=click.IntRange(min=1), help="Width of the result; default: the images' own.")
@click.option('--height', metavar='PIXELS', type=click.IntRange(min=1), help="Height of the result; default: the images' own.")
@click.option('--resize-filter', type=click.Choice(list(RESIZE_FILTERS)), default='lanczos', show_default=True, help='How to resize.')
@click.option('--color', type=click.Choice(['rgb', 'grey']), help='Make all images RGB or grey, transparent parts white; default: as they are.')
@click.option('--on-error', type=click.Choice(['fail', 'skip']), default='fail', show_default=True,
              help='When images cannot be used: stop and write nothing, or go on without them. All are listed either way.')
def main(**opts):
    """Make a data set for training: square images of one size, and their labels.

    Labels come from a dataset.json in the source, {"labels": [["folder/name.jpg", 3], ...]}, or else from folders: all images of
    cats/ are one class, all images of dogs/ another, numbered in alphabetical order. The class names are kept.

    \b
    Examples:
      python dataset_tool.py --source=photos --dest=photos.zip --width=256 --height=256 --transform=center-crop
      python dataset_tool.py --source=cifar-10-python.tar.gz --dest=cifar10-test.zip --split=test
    """
    with user_errors():
        build(opts)


if __name__ == '__main__':
    main()
