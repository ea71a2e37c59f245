"""Training images and their labels, from a folder or zip archive as dataset_tool.py makes it."""

import hashlib
import json
import os
import zipfile
import zlib

import numpy as np
import torch

from dnnlib import EasyDict
from dnnlib.text import some
from torch_utils.seeds import random_state

from . import headers as image_headers
from .convert import UnusableImage
from .decode import ImageFile
from .files import ImageFiles
from .labels import empty_classes, read_labels
from .names import DatasetError

__all__ = ['DatasetError', 'ImageFolderDataset']

LARGEST_FILE = 64 << 20             # bytes of an image; one of 2048x2048 in 16 bits has 25 million


class ImageFolderDataset(torch.utils.data.Dataset):
    """Square images of one size; item i is (uint8 numpy array [C, H, W], float32 label [label_dim]).

    The images are in plain string order of their names. With `xflip`, item len/2 + i is item i mirrored left to right.
    Picklable; any number of DataLoader workers may read it.

    Args:
        path:        folder or .zip archive.
        resolution:  side that the images must have; None = any.
        use_labels:  serve labels: class numbers become one-hot, vectors stay as they are. They come from
                     `dataset.json`, or without one from class folders. Where it says {"labels": null}, `has_labels` is
                     False.
        max_size:    serve only so many images, drawn by `random_seed`; None = all.
        xflip:       serve each image a second time, mirrored; doubles the length.
        random_seed: of the draws for `max_size` and `val_fraction`.
        val_fraction: share of all images, drawn by `random_seed`, that is held out from training, for any `max_size`.
        part:        'training' = serve what is not held out, 'validation' = what is.
        remedy_side: side that errors name for images that are not square or of several sizes; None = one that suits.
    Attributes:
        name:        name of the folder or archive, without ending.
        image_shape: [C, H, W], with C = 3 (RGB) or 1 (grey).
        label_shape: [label_dim]; [0] without labels.
        class_names: names by label, or None if they are not known; whether or not labels are used.
        num_images:  images served, mirrored ones not counted.
        num_held_out: images held out.
        notes:       what of the files is not used or may surprise, one line each; of labels only with `use_labels`.
    Raises: DatasetError, here or on reading an item, if the images or labels cannot be used.
    """

    def __init__(self, path: str, resolution: int | None = None, use_labels: bool = False, max_size: int | None = None,
                 xflip: bool = False, random_seed: int = 0, val_fraction: float = 0, part: str = 'training',
                 remedy_side: int | None = None):
        self.path, self.xflip = path, xflip
        self.files = ImageFiles(path, LARGEST_FILE)
        name = os.path.basename(os.path.abspath(path))
        self.name = os.path.splitext(name)[0] if self.files.is_zip else name
        if not self.files.names:
            remedy = 'name a folder or .zip made by dataset_tool.py'
            raise DatasetError(f'{path}: no images in it; ' + '; '.join([*self.files.notes, remedy]))
        self.image_shape, notes = image_headers.common_shape(self.files, remedy_side)
        self.notes = self.files.notes + notes
        if resolution not in (None, self.resolution):
            raise DatasetError(f'{path}: images are {self.resolution}x{self.resolution}, not of resolution '
                               f'{resolution}; rebuild it with dataset_tool.py --width={resolution} '
                               f'--height={resolution}')
        self._labels, self.class_names = self._load_labels(use_labels)
        self.has_onehot_labels = self._labels.dtype == np.int64
        self.label_shape = [self._num_classes()] if self.has_onehot_labels else [self._labels.shape[1]]
        held_out = self._hold_out(val_fraction, random_seed)
        self.num_held_out = len(held_out)
        rest = np.setdiff1d(np.arange(len(self.files.names)), held_out)
        self._raw_idx = self._draw(held_out if part == 'validation' else rest, max_size, random_seed)
        self.num_images = len(self._raw_idx)
        self._content_hash: str | None = None

    @property
    def num_channels(self) -> int:
        return self.image_shape[0]

    @property
    def resolution(self) -> int:
        return self.image_shape[1]

    @property
    def label_dim(self) -> int:
        return self.label_shape[0]

    @property
    def has_labels(self) -> bool:
        return self.label_dim > 0

    def __len__(self) -> int:
        return self.num_images * (2 if self.xflip else 1)

    def __getitem__(self, idx: int) -> tuple[np.ndarray, np.ndarray]:
        raw_idx, xflip = self._locate(idx)
        image = self._decode(self.files.names[raw_idx])
        return (image[:, :, ::-1].copy() if xflip else image), self.get_label(idx)

    def get_label(self, idx: int) -> np.ndarray:
        """Label of item `idx`: float32 [label_dim]."""
        label = self._labels[self._locate(idx)[0]]
        if not self.has_onehot_labels:
            return label.copy()
        onehot = np.zeros(self.label_shape, dtype=np.float32)
        onehot[label] = 1
        return onehot

    def raw_labels(self) -> np.ndarray:
        """Of the images served, mirrored ones not repeated: int64 [N] class numbers, or float32 [N, label_dim]
        vectors."""
        return self._labels[self._raw_idx]

    def get_details(self, idx: int) -> EasyDict:
        """Where item `idx` comes from: raw_idx (its place among all images), xflip, raw_label (class number or
        vector)."""
        raw_idx, xflip = self._locate(idx)
        return EasyDict(raw_idx=raw_idx, xflip=xflip, raw_label=self._labels[raw_idx].copy())

    def content_hash(self) -> str:
        """Hex SHA-256 of what is served: names, image files, labels and whether mirrored; for caches of anything
        computed from it."""
        if self._content_hash is None:
            names = [self.files.names[i] for i in self._raw_idx]
            digest = hashlib.sha256(json.dumps([names, self.raw_labels().tolist(), self.label_dim,
                                                self.xflip]).encode())
            for name in names:
                digest.update(hashlib.sha256(self._read(name)).digest())
            self._content_hash = digest.hexdigest()
        return self._content_hash

    def facts(self) -> dict:
        """Facts to store with everything that is made from these images: JSON-able, without paths of this machine."""
        facts = dict(name=self.name, content_hash=self.content_hash(), images=self.num_images,
                     resolution=self.resolution, channels=self.num_channels, mirrored=self.xflip,
                     labels=self.has_labels, class_names=self.class_names, record=self.files.record)
        if self.has_labels and not self.has_onehot_labels:
            facts['label_vectors'] = True
        return dict(facts, held_out=self.num_held_out) if self.num_held_out else facts

    def close(self) -> None:
        """Closes the archive in this process; reading opens it again."""
        self.files.close()

    def _locate(self, idx: int) -> tuple[int, bool]:
        if not 0 <= idx < len(self):
            raise IndexError(f'{idx} is not in 0..{len(self) - 1}')
        return int(self._raw_idx[idx % self.num_images]), bool(idx >= self.num_images)

    def _read(self, name: str) -> bytes:
        try:
            return self.files.read(name)
        except UnusableImage as err:
            raise image_headers.unusable(self.path, name, err) from err
        except (OSError, ValueError, RuntimeError, EOFError, zlib.error, zipfile.BadZipFile) as err:
            raise image_headers.damaged(self.path, name, err) from err

    def _decode(self, name: str) -> np.ndarray:
        """uint8 [C, H, W] of the shape that all must have."""
        data = self._read(name)
        try:
            file = ImageFile(data)
            fits = list(file.shape) == self.image_shape
            image = file.pixels() if fits else None         # no memory is spent on a picture of another size
        except UnusableImage as err:
            raise image_headers.unusable(self.path, name, err) from err
        except Exception as err:
            # decoders raise anything from SyntaxError to struct.error for a damaged file
            raise image_headers.damaged(self.path, name, err) from err
        if image is None:
            raise image_headers.mixed(self.path, name, file.shape, self.image_shape)
        return np.ascontiguousarray(image.reshape(*image.shape[:2], -1).transpose(2, 0, 1))

    def _load_labels(self, use_labels: bool) -> tuple[np.ndarray, list[str] | None]:
        """(raw labels: int64 [N] class numbers, or float32 [N, label_dim] with label_dim 0 for none; class names)."""
        names = self.files.names
        found = read_labels(self.files, names)
        if not use_labels or (found.file and not found.by_name and not found.strays):
            return np.zeros([len(names), 0], dtype=np.float32), found.class_names
        missing = [name for name in names if name not in found.by_name]
        if missing:
            where = found.strays or found.file or 'there is no dataset.json, nor a folder per class'
            raise DatasetError(self.path, f'{len(missing)} of {len(names)} images have no label ({some(missing, 3)}; '
                               f'{where})', 'label all of them, or sort the originals into one folder per class and '
                               'run dataset_tool.py, or leave out --cond')
        labels = np.array([found.by_name[name] for name in names])
        self.notes += found.notes + (empty_classes(labels, found.class_names) if labels.ndim == 1 else [])
        return labels.astype(np.int64 if labels.ndim == 1 else np.float32), found.class_names

    def _num_classes(self) -> int:
        """Classes named but absent here count, so that parts of one data set agree."""
        return max(int(self._labels.max()) + 1, len(self.class_names or []))

    def _hold_out(self, val_fraction: float, random_seed: int) -> np.ndarray:
        """Places of the images that are not for training, ascending."""
        total = len(self.files.names)
        count = round(val_fraction * total) if 0 <= val_fraction < 1 else total
        if val_fraction != 0 and not 0 < count < total:
            raise DatasetError(f'{self.path}: {val_fraction:g} of its {total} images cannot be held out for '
                               f'validation; that must be at least one, and one must be left: use {1 / total:.2g} or '
                               'more')
        return np.sort(random_state(random_seed, 'validation').permutation(total)[:count])

    def _draw(self, order: np.ndarray, max_size: int | None, random_seed: int) -> np.ndarray:
        """The places among `order` whose images are served, ascending."""
        if max_size is not None and max_size < 1:
            raise DatasetError(f'{self.path}: {max_size} images were asked for; ask for 1 to {len(order)}')
        if max_size is not None and max_size < len(order):
            order = np.random.RandomState(random_seed).permutation(order)
            order = np.sort(order[:max_size])
        return order


def chosen_kwargs(training_set_kwargs: dict) -> dict:
    """The entries of a run's arguments for `ImageFolderDataset` that say which of the images were trained on."""
    keys = [key for key in ('max_size', 'val_fraction') if training_set_kwargs.get(key)]
    return {key: training_set_kwargs[key] for key in (*keys, 'random_seed') if keys and key in training_set_kwargs}
