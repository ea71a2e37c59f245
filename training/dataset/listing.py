"""Which files lie in a folder or zip archive, under their normal names, and what of them is not used."""

import os
import zipfile
from collections.abc import Iterator

from dnnlib.text import some

from .names import LABELS_FILE, DatasetError, is_hidden, is_image, name_in_zip, name_on_disk

METHODS = {9: 'Deflate64', 12: 'bzip2', 14: 'LZMA', 93: 'Zstandard', 95: 'XZ', 98: 'PPMd'}      # of compression
READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)           # the others can unfold without a limit in a single step
ENCRYPTED = 0x1                                                 # flag of a zip entry


class Listing:
    """Files of a folder or archive.

    Attributes:
        stored: {normal name: name as stored} of those that are not hidden.
        hidden: names of the others, and of hidden folders.
        notes:  what is not used or was guessed.
    """

    def __init__(self):
        self.stored: dict[str, str] = {}
        self.notes: list[str] = []
        self.hidden: list[str] = []
        self._doubled: list[str] = []
        self._guessed: list[str] = []

    def add(self, name: str, stored: str, guessed: bool) -> None:
        """A file; of two with the same name the later one counts."""
        if is_hidden(name):
            self.hide(name)
            return
        if name in self.stored:
            self._doubled.append(name)
        if guessed:
            self._guessed.append(name)
        self.stored[name] = stored

    def hide(self, name: str) -> None:
        """A file or folder that is not looked at; what macOS adds to archives is nobody's picture."""
        if '__MACOSX' not in name.split('/') and not os.path.basename(name).startswith('._'):
            self.hidden.append(name)

    def finish(self, encoding: str) -> 'Listing':
        """Adds the notes on names. encoding: as which names that are no Unicode were read."""
        if self._doubled:
            self.notes.append(f'{len(self._doubled)} files have the name of another one and are not used, the last of '
                              f'a name is: {some(self._doubled, 3)}; rename them')
        if self._guessed:
            self.notes.append(f'{len(self._guessed)} names are not in Unicode and were read as {encoding}: '
                              f'{some(self._guessed, 3)}; where that is wrong, rename the files')
        return self


def list_folder(root: str) -> Listing:
    """Files of a folder and its sub-folders, linked ones included. No folder is walked twice: links may form circles.

    Raises: DatasetError where a folder cannot be read.
    """
    listing, again, nowhere = Listing(), [], []
    seen: set[str] = set()
    folders, links = [('', os.path.realpath(root))], []          # (path below root, real path)
    while folders or links:
        folder, real = folders.pop() if folders else links.pop(0)       # links last: a folder's own name is the better
        if real in seen:
            again.append(folder)
            continue
        seen.add(real)
        for entry in _scan(os.path.join(root, folder)):
            path = f'{folder}/{entry.name}' if folder else entry.name
            if is_hidden(entry.name):
                listing.hide(path)
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append((path, os.path.join(real, entry.name)))
            elif os.path.isdir(entry.path):
                links.append((path, os.path.realpath(entry.path)))
            elif not os.path.exists(entry.path) and not is_image(entry.name):
                nowhere.append(path)
            else:
                name, guessed = name_on_disk(path)
                listing.add(name, path, guessed)
    if again:
        listing.notes.append(f'{len(again)} linked folders lead to pictures that are here already, and are left out: '
                             + some(sorted(again), 3))
    if nowhere:
        listing.notes.append(f'{len(nowhere)} links lead nowhere: {some(sorted(nowhere), 3)}')
    return listing.finish('Latin-1')


def _scan(path: str) -> Iterator[os.DirEntry]:
    try:
        with os.scandir(path) as entries:
            yield from sorted(entries, key=lambda entry: entry.name)
    except OSError as err:
        raise DatasetError(f'{err.filename}: this folder cannot be read ({err.strerror}); correct its '
                           'permissions') from err


def list_zip(archive: zipfile.ZipFile, path: str) -> Listing:
    """Files of an archive.

    Raises: DatasetError if images or labels among them are encrypted, or compressed in a way that is not read.
    """
    listing, infos = Listing(), {}
    for info in archive.infolist():
        if not info.filename.endswith(('/', '\\')):
            name, guessed = name_in_zip(info)
            listing.add(name, info.filename, guessed)
            infos[name] = info
    wanted = [name for name in listing.stored if is_image(name) or os.path.basename(name) == LABELS_FILE]
    encrypted = [name for name in wanted if infos[name].flag_bits & ENCRYPTED]
    if encrypted:
        raise DatasetError(f'{path}: {len(encrypted)} of its {len(wanted)} files are encrypted ({some(encrypted, 3)}); '
                           'unpack it with its password and give the folder')
    packed = [name for name in wanted if infos[name].compress_type not in READABLE]
    if packed:
        method = infos[packed[0]].compress_type
        raise DatasetError(f'{path}: {len(packed)} of its {len(wanted)} files are compressed by '
                           f'{METHODS.get(method, "a method")} (number {method} of the format), which is not read '
                           f'({some(packed, 3)}); zip them again by the usual method, deflate, or unpack the archive '
                           'and give the folder')
    return listing.finish('cp437, as the zip format says')
