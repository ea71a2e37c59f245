"""Public data sets that dataset_tool.py fetches: where they are, what they must contain, how they become the images of
the paper's protocol."""

import contextlib
import os
import zipfile
import zlib
from typing import NamedTuple

from dnnlib import UnusableFile, UserError, files, resumable

from ..files import ImageFiles
from .sources import CifarSource, FileSource

LOW_SHOT = 'https://data-efficient-gans.mit.edu/datasets/'
CIFAR = 'https://www.cs.toronto.edu/~kriz/'


class PublicData(NamedTuple):
    """One row: the address of the archive, and what is known of it."""
    url: str
    size: int                       # side of the images made of it
    images: int                     # for training
    test_images: int = 0            # the reference of the FID; 0 = none, the FID compares with the training images
    md5: str | None = None          # of the archive; None = not published: its pictures are read and counted


PUBLIC_DATA = {
    'obama': PublicData(LOW_SHOT + '100-shot-obama.zip', 256, 100),
    'grumpy_cat': PublicData(LOW_SHOT + '100-shot-grumpy_cat.zip', 256, 100),
    'panda': PublicData(LOW_SHOT + '100-shot-panda.zip', 256, 100),
    'animalface-cat': PublicData(LOW_SHOT + 'AnimalFace-cat.zip', 256, 160),
    'animalface-dog': PublicData(LOW_SHOT + 'AnimalFace-dog.zip', 256, 389),
    'cifar10': PublicData(CIFAR + 'cifar-10-python.tar.gz', 32, 50000, 10000, 'c58f30108f718f92721af3b95e74349a'),
    'cifar100': PublicData(CIFAR + 'cifar-100-python.tar.gz', 32, 50000, 10000, 'eb9058c3a382ffc7106e4002c42a8d85'),
}


def locate(name: str, path: str | None) -> str:
    """The checked archive of the data set `name`: the user's copy `path`, or else that of the cache, downloaded where
    it is missing.

    Raises: UserError if it cannot be had or is not what it should be.
    """
    data = PUBLIC_DATA[name]
    if path is None:
        return resumable.download(data.url, lambda path: check(data, path), what=name, option='--source')
    if not os.path.isfile(path):
        raise UserError(f'--source={path}: there is no such file; use a copy of {data.url}, or leave --source out to '
                        'download it')
    try:
        check(data, path)
    except UnusableFile as err:
        raise UserError(f'--source={path}: {err}; use a copy of {data.url}, or leave --source out to download '
                        'it') from err
    return path


def check(data: PublicData, path: str) -> None:
    """Raises UnusableFile if `path` is not the whole archive that `data` describes: by its MD5, or by reading and
    counting its pictures."""
    try:
        if data.md5 is not None:
            got = files.md5_of_file(path)
            if got != data.md5:
                raise UnusableFile(f'is damaged or another file (MD5 {got}, expected {data.md5})')
            return
        if not zipfile.is_zipfile(path):
            raise UnusableFile('is no zip archive, or only a part of one')
        with contextlib.closing(ImageFiles(path)) as archive:
            for image in archive.names:                     # checked against their checksums
                archive.read(image)
    except (OSError, EOFError, RuntimeError, ValueError, UserError, zlib.error, zipfile.BadZipFile) as err:
        raise UnusableFile(f'is damaged or cannot be read ({type(err).__name__}: {err})') from err
    if len(archive.names) != data.images:
        raise UnusableFile(f'has {len(archive.names)} images, {data.images} are expected: it is damaged or '
                           'another archive')


def open_public(name: str, path: str, test: bool):
    """The images of an archive that `locate` gave, as a source (`sources.py`). Raises DatasetError if they cannot be
    used."""
    data = PUBLIC_DATA[name]
    if data.test_images:
        source = CifarSource(path, 'test' if test else 'train')
        want = data.test_images if test else data.images
        if len(source.names) != want:
            raise UserError(f'{name}: {path} has {len(source.names)} images where {want} are expected; it is damaged '
                            'or another archive')
    else:
        source = FileSource(path)
        source.labels, source.class_names = {}, None        # the low-shot sets are trained without labels
    source.name, source.notes = files.name_in(data.url), []
    source.record = dict(address=data.url, sha256=files.sha256_of_file(path))
    return source
