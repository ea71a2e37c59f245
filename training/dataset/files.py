"""Folders and zip archives of images, read from many processes.

Both hold images and one `dataset.json`: {"labels": [["00000/img00000000.png", 3], ...] or null, "class_names": [...]},
the names only where they are known. `listing.py` lists the files, `labels.py` reads the labels, `building/writer.py`
writes both.

A *record* says where the images came from and how they were made. It is not a file among the images, because tools for
this format take every file except `dataset.json` for an image. The record (JSON) is

- of a zip: the archive's comment (`unzip -z data.zip` shows it); it travels with the file;
- of a folder: the file `FOLDER.source.json` next to it; copy both together.

Without it nothing but the history is lost.
"""

import contextlib
import json
import os
import stat
import zipfile

from dnnlib.text import some

from .convert import UnusableImage
from .listing import READABLE, list_folder, list_zip
from .names import LABELS_FILE, DatasetError, is_image

LARGEST_IMAGE = 256 << 20           # bytes of a file in an archive, which can unfold into any size


def record_path(folder: str) -> str:
    """Where the record of a data set folder lies."""
    return folder.rstrip('/\\') + '.source.json'


class ImageFiles:
    """Read access to a folder or a zip archive; picklable, and usable in any number of processes and threads.

    Args:
        path:    folder, searched with its sub-folders and those that links lead to, or .zip archive.
        largest: bytes that a file may have, unfolded; None = any number in a folder, `LARGEST_IMAGE` in an archive.
    Attributes:
        names:        of the images (known by their endings), as `names.normal_name` spells them, in string order.
        labels_files: names of the files called `dataset.json`.
        others:       names of the other files, hidden ones excepted.
        notes:        what is not used, or was guessed; one line each.
        record:       the record (see above); {} if there is none.
    Raises: DatasetError if there is nothing at `path`, it is neither folder nor readable zip, or is encrypted.
    """

    def __init__(self, path: str, largest: int | None = None):
        self.path, self.largest = path, largest
        self.is_zip = not os.path.isdir(path)
        # By process, one each: a shared one would share its file position
        self._handles = {}
        if not os.path.exists(path):
            raise DatasetError(f'{path}: no such file or folder; check the spelling, a relative path counts from '
                               f'{os.getcwd()}')
        if self.is_zip and not os.path.isfile(path):
            raise DatasetError(f'{path}: is neither a folder nor a file; name a folder of images or a .zip archive')
        listing = list_zip(self._zip(), path) if self.is_zip else list_folder(path)
        self.notes = listing.notes
        files = sorted(listing.stored)
        self.names = [name for name in files if is_image(name)]
        if listing.hidden and not self.names:
            self.notes.append('files and folders whose names begin with a point are not looked at: '
                              + some(sorted(listing.hidden), 3))
        self.labels_files = [name for name in files if os.path.basename(name) == LABELS_FILE]
        self.others = [name for name in files if not is_image(name) and os.path.basename(name) != LABELS_FILE]
        self._stored = {name: stored for name, stored in listing.stored.items() if stored != name}
        self.record = self._load_record()

    def _zip(self) -> zipfile.ZipFile:
        """This process's own handle. No lock of ours is used, since another thread might hold it at a fork: if two
        threads open a handle at once, one is kept. A child does not close its parent's handle, which may be locked
        internally."""
        try:
            return self._handles.get(os.getpid()) or self._handles.setdefault(os.getpid(), zipfile.ZipFile(self.path))
        except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as err:
            raise DatasetError(f'{self.path}: not a readable zip archive ({err}); copy or download it again, '
                               'or give a folder of images') from err

    def _load_record(self) -> dict:
        if self.is_zip:
            text = self._zip().comment
        elif os.path.isfile(record_path(self.path)):
            try:
                with open(record_path(self.path), 'rb') as f:
                    text = f.read()
            except OSError as err:
                raise DatasetError(f'{record_path(self.path)}: this file cannot be read ({err.strerror}); correct its '
                                   'permissions, or remove it, which loses nothing but the history') from err
        else:
            text = b''
        with contextlib.suppress(ValueError, RecursionError):       # another program's comment is not ours to judge
            record = json.loads(text)
            return record if isinstance(record, dict) else {}
        return {}

    def size(self, name: str) -> int:
        """Bytes of one member, unfolded; reading it gives no more. Raises OSError or zipfile.BadZipFile for what is not
        to be opened."""
        stored = self._stored.get(name, name)
        if not self.is_zip:
            status = os.stat(os.path.join(self.path, stored))
            if not stat.S_ISREG(status.st_mode):                    # opening a pipe would block
                raise OSError('it is no regular file')
            return status.st_size
        info = self._zip().getinfo(stored)
        if info.compress_type not in READABLE:                      # the archive has changed since it was listed
            raise zipfile.BadZipFile(f'it is compressed by method {info.compress_type}, not by deflate')
        return info.file_size

    def open(self, name: str, limit: int | None = None):
        """Binary file of one member, of at most `limit` bytes, by default as the constructor says. Raises UnusableImage
        for larger ones, and what the file system or zipfile raise."""
        size, limit = self.size(name), self.largest if limit is None else limit
        if limit is not None and size > limit:
            raise UnusableImage(f'has {size:,} bytes, {limit:,} are the limit')
        if limit is None and self.is_zip and size > LARGEST_IMAGE:
            raise UnusableImage(f'would unfold into {size:,} bytes, {LARGEST_IMAGE:,} are the limit in an archive; if '
                                'you trust it, unpack it and give the folder')
        stored = self._stored.get(name, name)
        return self._zip().open(stored) if self.is_zip else open(os.path.join(self.path, stored), 'rb')

    def read(self, name: str, limit: int | None = None) -> bytes:
        """All bytes of a member; in a zip, checked against its checksum."""
        with self.open(name, limit) as f:
            # zipfile unfolds at most as much as it is asked for; one byte more finds the end
            return f.read(self.size(name) + 1)

    def close(self) -> None:
        """Closes this process's handle; reading opens it again."""
        handle = self._handles.pop(os.getpid(), None)
        if handle is not None:
            handle.close()

    def __getstate__(self):
        return dict(self.__dict__, _handles={})
