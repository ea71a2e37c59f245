"""What dataset_tool.py reads from: folders, zip archives and the CIFAR-10/100 python archives."""

import io
import os
import tarfile
import zlib

import numpy as np
import PIL.Image

from dnnlib import UserError
from dnnlib.text import some

from ..convert import open_image
from ..files import ImageFiles
from ..labels import read_labels
from ..names import DatasetError, normal_name

LARGEST_BATCH = 256 << 20           # bytes; CIFAR-100 has one of 155 million


def open_source(path: str, split: str | None = None):
    """The `FileSource` or `CifarSource` of a path.

    Args:
        path:  folder, .zip archive, or CIFAR python archive (.tar.gz).
        split: use only the images under this folder of it ('train'); of a CIFAR archive 'train' (default) or 'test'.
    Raises: DatasetError if there is nothing usable.
    """
    if not os.path.exists(path):
        raise DatasetError(f'--source={path}: no such file or folder; check the spelling (a relative path counts from '
                           f'{os.getcwd()})')
    if os.path.isfile(path) and path.lower().endswith(('.tar.gz', '.tgz')):
        return CifarSource(path, split)
    if os.path.isfile(path) and not path.lower().endswith('.zip'):
        raise DatasetError(f'--source={path}: cannot read this kind of file; give a folder, a .zip archive, '
                           'cifar-10-python.tar.gz or cifar-100-python.tar.gz')
    return FileSource(path, split)


class FileSource:
    """Images of a folder or zip, with labels from `dataset.json`, or else from folder names.

    Attributes (of `CifarSource` too):
        name:        what to call it in messages and in the record.
        names:       names of the images: a folder's by path components, a zip's in plain string order.
        labels:      {name: integer or list of numbers}; images without a label are missing.
        class_names: list of str, by label, or None.
        has_class_folders: whether the labels come from folders.
        record:      of the images, if they are a data set of dataset_tool.py already; else {}.
        notes:       what the user should know, one line each.
    """

    def __init__(self, path: str, split: str | None = None):
        self.name = os.path.basename(os.path.abspath(path))
        self.files = ImageFiles(path)
        self.names = (self.files.names if self.files.is_zip
                      else sorted(self.files.names, key=lambda name: name.split('/')))
        self.record, self.notes = self.files.record, list(self.files.notes)
        if self.files.others:
            endings = sorted({os.path.splitext(name)[1] or name for name in self.files.others})
            self.notes.append(f'{len(self.files.others)} other files ignored ({some(endings)})')
        if split is not None:
            self._select(split)
        if not self.names:
            raise DatasetError(f'--source={path}: no images in it; '
                               + '; '.join(self.notes + ['give a folder or .zip with files such as .jpg or .png']))
        self._find_labels()

    def _select(self, split: str) -> None:
        folders = sorted({name.split('/')[0] for name in self.names if '/' in name})
        self.names = [name for name in self.names if name.startswith(normal_name(split) + '/')]
        if not self.names:
            raise DatasetError(f'--split={split}: {self.name} has no images in such a folder; '
                               + (f'its folders are {some(folders)}' if folders
                                  else 'it has no folders: leave --split out'))

    def _find_labels(self) -> None:
        found = read_labels(self.files, self.names)
        if found.strays and not found.by_name:
            raise DatasetError(f'--source={self.files.path}: no image has a label: {found.strays}; correct the names, '
                               f'or remove {found.file}')
        self.labels, self.class_names = found.by_name, found.class_names
        self.has_class_folders = found.file is None and bool(self.labels)
        self.notes += found.notes
        folders = sorted({name.rpartition('/')[0] for name in self.names})
        if self.has_class_folders and len(folders) > len(self.class_names):
            self.notes.append(f'folders of the same name are one class, all are used: {some(folders)}; --split=FOLDER '
                              'takes one part')

    def load(self, name: str) -> PIL.Image.Image:
        """The picture as Pillow opens it. Raises UnusableImage, or what Pillow or zipfile raise for a damaged one."""
        return open_image(self.files.read(name))

    def close(self) -> None:
        self.files.close()


class CifarSource:
    """The images of a CIFAR python archive in the order of its batches; attributes as of `FileSource`.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html
    """

    has_class_folders = False

    # (file of the class names, its key, key of the labels, {split: files})
    LAYOUTS = [
        ('cifar-10-batches-py/batches.meta', 'label_names', 'labels',
         {'train': [f'cifar-10-batches-py/data_batch_{i}' for i in range(1, 6)],
          'test': ['cifar-10-batches-py/test_batch']}),
        ('cifar-100-python/meta', 'fine_label_names', 'fine_labels',
         {'train': ['cifar-100-python/train'], 'test': ['cifar-100-python/test']}),
    ]

    def __init__(self, path: str, split: str | None = None):
        self.name = os.path.basename(os.path.abspath(path))
        split = split or 'train'
        if split not in ('train', 'test'):
            raise DatasetError(f'--split={split}: {self.name} has the parts train and test')
        try:
            with tarfile.open(path, 'r:gz') as archive:
                self._load(archive, split)
        except (OSError, EOFError, KeyError, ValueError, TypeError, AttributeError, MemoryError, zlib.error,
                tarfile.TarError, UserError) as err:
            raise DatasetError(f'--source={path}: not a readable CIFAR python archive ({type(err).__name__}: {err}); '
                               'download cifar-10-python.tar.gz or cifar-100-python.tar.gz again, or give a folder or '
                               '.zip') from err
        self.record, self.notes = {}, [f'the {split} images are used; --split=train or --split=test chooses']

    def _load(self, archive: tarfile.TarFile, split: str) -> None:
        members = archive.getnames()
        layouts = [layout for layout in self.LAYOUTS if layout[0] in members]
        if not layouts:
            raise ValueError('it holds neither ' + ' nor '.join(layout[0] for layout in self.LAYOUTS))
        meta_file, names_key, labels_key, files = layouts[0]
        batches = [_load_pickle(archive, file) for file in files[split]]
        images = np.concatenate([batch['data'] for batch in batches])
        if images.dtype != np.uint8:
            raise ValueError(f'its images are {images.dtype}, not uint8')
        self._images = images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = [label for batch in batches for label in batch[labels_key]]
        self.names = [f'{split}/{i:05d}' for i in range(len(self._images))]
        self.labels = {name: int(label) for name, label in zip(self.names, labels, strict=True)}
        self.class_names = _load_pickle(archive, meta_file)[names_key]
        if not isinstance(self.class_names, list) or not all(isinstance(name, str) for name in self.class_names):
            raise TypeError('its class names are no list of names')

    def load(self, name: str) -> PIL.Image.Image:
        return PIL.Image.fromarray(self._images[int(name.split('/')[1])])

    def close(self) -> None:
        pass


def _load_pickle(archive: tarfile.TarFile, name: str) -> dict:
    """A member of a CIFAR archive as data, its array of images read; nothing in it is run."""
    # Loads torch, which takes seconds that dataset_tool.py need not wait
    from torch_utils.pickles import reader as safe_pickle
    member = archive.getmember(name)
    if member.size > LARGEST_BATCH:
        raise ValueError(f'{name} has {member.size} bytes, {LARGEST_BATCH} are the limit')
    with safe_pickle.opened(io.BytesIO(archive.extractfile(member).read())) as content:
        return dict(content, data=content['data'].read()) if 'data' in content else content
