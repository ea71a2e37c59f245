"""Folders and zip archives of images, listed and read from many processes (`image_files_writer.py` writes them).

Both hold images and one `dataset.json`: {"labels": [["00000/img00000000.png", 3], ...] or null, "class_names": ["airplane", ...]},
the names only where they are known. A *record* says where the images came from and how they were made. It is not a file among
the images, because every tool for this format takes each file but `dataset.json` for an image. The record (JSON) is

- of a zip: the archive's comment (`unzip -z data.zip` shows it); it travels with the file;
- of a folder: the file `FOLDER.source.json` beside it; copy it along when you copy the folder.

Without it nothing but the history is lost.
"""

import contextlib
import json
import os
import re
import reprlib
import stat
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from dnnlib.util import UserError

IMAGE_ENDINGS = ('.avif', '.bmp', '.gif', '.jfif', '.jp2', '.jpe', '.jpeg', '.jpg', '.pbm', '.pgm', '.png', '.pnm', '.ppm',
                 '.tga', '.tif', '.tiff', '.webp')
OWN_LAYOUT = re.compile(r'\d{5}/img\d{8}\.png')
LABELS_FILE = 'dataset.json'
LARGEST_IMAGE = 256 << 20           # bytes of a file; archives can unfold into any size
LABEL_BYTES = 4096                  # of dataset.json per image
MAX_LABEL_DIM = 1 << 14             # classes, or numbers of a vector: what networks take
FLOAT32_MAX = 3.4028234e38


class DatasetError(UserError):
    """Images or labels that cannot be used; the message names the data set, the file and the remedy."""


class Labels(NamedTuple):
    """The labels of a folder or archive; a label is an integer or a list of numbers."""
    has_file: bool                                  # whether there is a dataset.json at all
    by_name: dict[str, Any]                         # empty where it says null
    class_names: list[str] | None                   # by label; None = not known


def some(items: list[str], count: int = 6) -> str:
    """'a, b, c, ... (9 in all)', for messages."""
    return ', '.join(items[:count]) + (f', ... ({len(items)} in all)' if len(items) > count else '')


def is_hidden(name: str) -> bool:
    """Whether a part of the path is hidden, or of what macOS adds to archives (`__MACOSX/._photo.jpg`)."""
    return any(part.startswith('.') or part == '__MACOSX' for part in name.split('/'))


def record_path(folder: str) -> str:
    """Where the record of a data set folder lies."""
    return folder.rstrip('/\\') + '.source.json'


class ImageFiles:
    """Read access to a folder or a zip archive; picklable, and usable in any number of processes and threads.

    Args:
        path:    folder, searched with its sub-folders, or .zip archive.
        largest: bytes that a file may have, unfolded.
    Attributes:
        names:  names of the images (known by their endings), as relative paths with '/', in plain string order.
        others: names of the other files; neither `dataset.json` nor hidden ones.
        record: the record (see above); {} if there is none.
    Raises: DatasetError if there is nothing at `path` or it is neither folder nor readable zip.
    """

    def __init__(self, path: str, largest: int = LARGEST_IMAGE):
        self.path, self.largest = path, largest
        self.is_zip = not os.path.isdir(path)
        self._handles = {}                                          # by process, one each: a shared one would share its file position
        if not os.path.exists(path):
            raise DatasetError(f'{path}: no such file or folder; check the spelling, a relative path counts from {os.getcwd()}')
        if self.is_zip and not os.path.isfile(path):
            raise DatasetError(f'{path}: is neither a folder nor a file; name a folder of images or a .zip archive')
        files = sorted(name for name in (self._list_zip() if self.is_zip else self._list_folder()) if not is_hidden(name))
        self._has_labels_file = LABELS_FILE in files
        self.names = [name for name in files if name.lower().endswith(IMAGE_ENDINGS)]
        self.others = [name for name in files if not name.lower().endswith(IMAGE_ENDINGS) and name != LABELS_FILE]
        self.record = self._load_record()

    def _list_folder(self) -> Iterator[str]:
        def refuse(err):
            raise DatasetError(f'{err.filename}: this folder cannot be read ({err.strerror}); correct its permissions')
        for folder, _, names in os.walk(self.path, onerror=refuse):
            for name in names:
                yield os.path.relpath(os.path.join(folder, name), self.path).replace(os.sep, '/')

    def _list_zip(self) -> list[str]:
        return [info.filename for info in self._zip().infolist() if not info.is_dir()]

    def _zip(self) -> zipfile.ZipFile:
        """This process's own handle. There is no lock that another thread may hold while this process is forked: of two that threads open
        at once one is kept. Nor does a child close its parent's, which may be locked within."""
        try:
            return self._handles.get(os.getpid()) or self._handles.setdefault(os.getpid(), zipfile.ZipFile(self.path))
        except (OSError, zipfile.BadZipFile) as err:
            raise DatasetError(f'{self.path}: not a readable zip archive ({err}); copy or download it again, '
                               'or give a folder of images') from err

    def _load_record(self) -> dict:
        if self.is_zip:
            text = self._zip().comment
        elif os.path.isfile(record_path(self.path)):
            with open(record_path(self.path), 'rb') as f:
                text = f.read()
        else:
            text = b''
        with contextlib.suppress(ValueError, RecursionError):       # another program's comment is not ours to judge
            record = json.loads(text)
            return record if isinstance(record, dict) else {}
        return {}

    def size(self, name: str) -> int:
        """Bytes of one member, unfolded; reading it gives no more. Raises OSError or zipfile.BadZipFile for what is not to be opened."""
        if not self.is_zip:
            status = os.stat(os.path.join(self.path, name))
            if not stat.S_ISREG(status.st_mode):                    # a pipe would be waited for
                raise OSError('it is no regular file')
            return status.st_size
        info = self._zip().getinfo(name)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):    # the others unfold without a bound in a single step
            raise zipfile.BadZipFile(f'it is compressed by method {info.compress_type}, not by deflate')
        return info.file_size

    def open(self, name: str, limit: int | None = None):
        """Binary file of one member of at most `limit` bytes, by default `largest`. Raises what the file system or zipfile raise."""
        size, limit = self.size(name), self.largest if limit is None else limit
        if size > limit:
            raise zipfile.BadZipFile(f'it would unfold into {size} bytes, {limit} are the limit') if self.is_zip else OSError(
                f'it has {size} bytes, {limit} are the limit')
        return self._zip().open(name) if self.is_zip else open(os.path.join(self.path, name), 'rb')

    def read(self, name: str, limit: int | None = None) -> bytes:
        """The same, all bytes of it, checked against its checksum in a zip."""
        with self.open(name, limit) as f:
            return f.read(self.size(name) + 1)              # zipfile bounds what it unfolds by what it is asked for, and one more is the end

    def load_labels(self) -> Labels:
        """Labels and class names from `dataset.json`.

        Raises: DatasetError if `dataset.json` does not have the form of this format.
        """
        if not self._has_labels_file:
            return Labels(False, {}, None)
        try:
            content = json.loads(self.read(LABELS_FILE, limit=LABEL_BYTES * (len(self.names) + 256)))
            by_name = {name.replace('\\', '/'): label for name, label in dict(content['labels'] or {}).items()}
            class_names = content.get('class_names')
            _check_labels(by_name, class_names)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, EOFError, zlib.error, zipfile.BadZipFile) as err:
            raise DatasetError(f'{self.path}: {LABELS_FILE} is not of the form {{"labels": [["name.png", 0], ...]}} or {{"labels": null}} '
                               f'({type(err).__name__}: {err}); correct it or remove it') from err
        return Labels(True, by_name, class_names)

    def close(self) -> None:
        """Closes this process's handle; reading opens it again."""
        handle = self._handles.pop(os.getpid(), None)
        if handle is not None:
            handle.close()

    def __getstate__(self):
        return dict(self.__dict__, _handles={})


def _check_labels(by_name: dict, class_names) -> None:
    kinds = set()
    for name, label in by_name.items():
        if type(label) is int and 0 <= label < MAX_LABEL_DIM:
            kinds.add('a class number')
        elif isinstance(label, list) and len(label) <= MAX_LABEL_DIM and all(_is_float32(value) for value in label):
            kinds.add(f'a list of {len(label)}')
        else:
            raise TypeError(f'the label of {name} is {reprlib.repr(label)}, neither a class number below {MAX_LABEL_DIM} '
                            f'nor a list of at most so many finite numbers')
        if len(kinds) > 1:
            raise TypeError(f'the label of {name} is {reprlib.repr(label)}, others are of another kind: {" and ".join(sorted(kinds))}')
    if class_names is not None and not (isinstance(class_names, list) and all(isinstance(name, str) for name in class_names)):
        raise TypeError('class_names is not a list of names')
    if len(class_names or []) > MAX_LABEL_DIM:
        raise TypeError(f'class_names has {len(class_names)} names, {MAX_LABEL_DIM} are the limit')


def _is_float32(value) -> bool:
    """Whether it is a number that float32 can hold; JSON as Python reads it has NaN, Infinity, and integers of any length."""
    return type(value) in (int, float) and abs(value) <= FLOAT32_MAX


def folder_labels(names: list[str]) -> tuple[dict[str, int], list[str] | None]:
    """Labels from folder names: ({name: label}, class names), or ({}, None) unless all images lie in two or more such folders.

    The class of an image is the last folder of its path (`train/airplane/1.jpg` -> airplane); labels follow the sorted class names.
    The folders of this format itself (`00003/img00003141.png`) are none.
    """
    if all(OWN_LAYOUT.fullmatch(name) for name in names):
        return {}, None
    folders = {name: name.split('/')[-2] for name in names if '/' in name}
    class_names = sorted(set(folders.values()))
    if len(folders) < len(names) or len(class_names) < 2:
        return {}, None
    number = {class_name: i for i, class_name in enumerate(class_names)}
    return {name: number[folder] for name, folder in folders.items()}, class_names
