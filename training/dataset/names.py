"""Names of the files of a data set: one spelling for folders, zip archives and dataset.json alike."""

import os
import unicodedata
import zipfile

from dnnlib.util import UserError

HEIC_ENDINGS = ('.heic', '.heif', '.hif')
IMAGE_ENDINGS = (*HEIC_ENDINGS, '.avif', '.bmp', '.gif', '.jfif', '.jp2', '.jpe', '.jpeg', '.jpg', '.pbm', '.pgm',
                 '.png', '.pnm', '.ppm', '.tga', '.tif', '.tiff', '.webp')
LABELS_FILE = 'dataset.json'
UTF8_FLAG = 0x800                   # of a zip entry: its name is in UTF-8


class DatasetError(UserError):
    """Images or labels that cannot be used; the message names the data set, the file and the remedy."""


def normal_name(name: str) -> str:
    """The one spelling of a path within a data set: '/' between its parts, no './', accents composed (NFC).

    Windows writes back slashes into zips, macOS takes accents apart, `find` puts './' before all.
    """
    parts = unicodedata.normalize('NFC', name.replace('\\', '/')).split('/')
    return '/'.join(part for part in parts if part not in ('', '.'))


def is_image(name: str) -> bool:
    """Whether it has the ending of a picture."""
    return name.lower().endswith(IMAGE_ENDINGS)


def is_hidden(name: str) -> bool:
    """Whether a part of the path is hidden, or was added to the archive by macOS (`__MACOSX/._photo.jpg`)."""
    return any(part.startswith('.') or part == '__MACOSX' for part in name.split('/'))


def name_on_disk(name: str) -> tuple[str, bool]:
    """(normal name of a relative path, whether its encoding was guessed: what is no Unicode is read as Latin-1)."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return normal_name(os.fsencode(name).decode('latin-1')), True
    return normal_name(name), False


def name_in_zip(info: zipfile.ZipInfo) -> tuple[str, bool]:
    """The same of an entry of a zip. Without the mark of UTF-8 it may be that (macOS); by the format it is cp437."""
    if info.flag_bits & UTF8_FLAG or info.filename.isascii():
        return normal_name(info.filename), False
    try:
        return normal_name(info.filename.encode('cp437').decode('utf-8')), False
    except UnicodeError:
        return normal_name(info.filename), True
