"""An endless source of real images whose order depends only on the seed and the number of images seen."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import tqdm

from dnnlib import UserError
from torch_utils import workers
from torch_utils.images import to_float
from torch_utils.seeds import random_state

CHUNK = 256                                         # images in host memory at a time while a set is loaded
LARGE = 1000                                        # images of a data set that takes a while to read


class RealBatch(NamedTuple):
    """Real images as the networks take them, on the device."""
    img: torch.Tensor                               # float32 [B, C, H, W] in [-1, 1]
    c: torch.Tensor                                 # float32 [B, c_dim]
    # int64 [B], item of the data set; a mirrored image is an item of its own
    idx: torch.Tensor


class Labels:
    """The labels of all images of a data set, on the device: float32 [N, label_dim], of which the classes become
    one-hot when they are asked for.

    One-hot, those of a million images of a thousand classes would take 4 GB.
    """

    def __init__(self, dataset, device):
        self.raw = torch.from_numpy(dataset.raw_labels()).to(device)
        self.classes = torch.arange(dataset.label_dim, device=device) if dataset.has_onehot_labels else None

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, numbers: torch.Tensor) -> torch.Tensor:
        """float32 [n, label_dim] of the images `numbers` [n]."""
        raw = self.raw[numbers]
        return raw if self.classes is None else (raw[:, None] == self.classes).to(torch.float32)


class ImageOrder:
    """Which item is the k-th image of a run: item `permutation(seed, k // n)[k % n]`, one permutation of all n items
    per pass."""

    def __init__(self, num_items: int, seed: int = 0):
        self.num_items, self.seed = num_items, seed
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def permutation(self, epoch: int) -> np.ndarray:
        """int64 [n], the order of pass number `epoch`; the last one asked for is kept."""
        if epoch != self._epoch:
            self._epoch, self._permutation = epoch, random_state(self.seed, epoch).permutation(self.num_items)
        return self._permutation

    def items(self, start: int, count: int) -> np.ndarray:
        """int64 [count]: the items at positions start, start + 1, ..."""
        parts = []
        while count > 0:
            epoch, offset = divmod(start, self.num_items)
            parts.append(self.permutation(epoch)[offset:offset + count])
            start, count = start + len(parts[-1]), count - len(parts[-1])
        return np.concatenate(parts)


class RealImages:
    """Batches of real images for one rank; `batch(cur_nimg)` gives images cur_nimg + rank * batch_size and the
    following.

    A data set that fits is decoded once and kept as uint8 on the device; a larger one is streamed by worker processes.
    The batches are the same. Nothing needs to be saved to resume: `batch` can be asked for any position at any time.

    Args:
        dataset:         an `ImageFolderDataset`.
        batch_size:      images per batch of this rank.
        device:          where the batches go.
        rank, num_ranks: which part of the images of a step is this rank's, and of how many.
        seed:            of the order; the same on all ranks.
        num_workers:     processes that stream; 0 = this one.
        memory_limit_gb: keep the decoded images if they take no more; None = a quarter of the free GPU memory, or 2 GB
                         of the host's; 0 = always stream.
    Attributes:
        in_memory: whether the images are kept.
        labels:    `Labels` of all images, kept in any case.
    Raises: UserError, here or from `batch`, if an image cannot be read.
    """

    def __init__(self, dataset, batch_size: int, device, rank: int = 0, num_ranks: int = 1, seed: int = 0,
                 num_workers: int = 2, memory_limit_gb: float | None = None):
        self.dataset, self.batch_size, self.device = dataset, batch_size, torch.device(device)
        self.offset, self.stride = rank * batch_size, num_ranks * batch_size
        self.order = ImageOrder(len(dataset), seed)
        self.labels = Labels(dataset, self.device)
        self.num_workers = num_workers
        size_gb = dataset.num_images * int(np.prod(dataset.image_shape)) / 1e9
        self.in_memory = size_gb <= (_default_limit_gb(self.device) if memory_limit_gb is None else memory_limit_gb)
        self._kept = _load_all(dataset, self.device, show=rank == 0) if self.in_memory else None
        self._stream, self._stream_nimg = None, -1
        self._items = _Items(dataset, num_workers)

    def batch(self, cur_nimg: int) -> RealBatch:
        """This rank's part of the step that begins after `cur_nimg` images, all ranks counted."""
        if self._kept is not None:
            return self._pick(torch.from_numpy(self.order.items(cur_nimg + self.offset, self.batch_size)))
        item = self._next(cur_nimg)
        if isinstance(item, UserError):
            self.close()
            raise item
        self._stream_nimg = cur_nimg + self.stride
        img, c, idx = item
        return RealBatch(to_float(self._move(img)), self._move(c), self._move(idx))

    def _next(self, cur_nimg: int, again: bool = True):
        """The next item of the stream. If a worker died, the workers are started once more: the cause may have been a
        signal to all processes."""
        if cur_nimg != self._stream_nimg:
            self._items.reading.fill_(-1)
            self._stream = iter(self._loader(cur_nimg))
            workers.errors_in_their_place()
        try:
            return next(self._stream)
        except (RuntimeError, OSError, EOFError) as err:        # a worker died, or what it sent cannot be read
            if 'Caught ' in str(err):                           # an error in a worker that is still alive
                raise
            # Waits for the other workers: what is still marked as being read then belonged to the dead one
            self.close()
            if again:
                return self._next(cur_nimg, again=False)
            reading = [self.dataset.files.names[self.dataset.get_details(idx).raw_idx]
                       for idx in self._items.reading.tolist() if idx >= 0]
            raise UserError(f'{self.dataset.path}: a worker process '
                            f'died{" while reading " + ", ".join(reading) if reading else ""} '
                            f'({" ".join(str(err).split())}); check that image, or try --workers=0, which needs less '
                            'memory') from err

    def close(self) -> None:
        """Ends the worker processes; `batch` starts them again."""
        self._stream, self._stream_nimg = None, -1

    def _move(self, x: torch.Tensor) -> torch.Tensor:
        """Without waiting for the device."""
        if self.device.type == 'cuda' and not x.is_pinned():
            x = x.pin_memory()
        return x.to(self.device, non_blocking=True)

    def _pick(self, idx: torch.Tensor) -> RealBatch:
        idx = self._move(idx)
        raw_idx = idx % self.dataset.num_images
        img = self._kept.index_select(0, raw_idx)
        if self.dataset.xflip:
            mirrored = (idx >= self.dataset.num_images).view(-1, 1, 1, 1)
            img = torch.where(mirrored, img.flip(3), img)
        return RealBatch(to_float(img), self.labels[raw_idx], idx)

    def _loader(self, cur_nimg: int) -> torch.utils.data.DataLoader:
        steps = _Steps(self.order, cur_nimg + self.offset, self.batch_size, self.stride)
        return workers.loader(self._items, _join, self.device, self.num_workers, batch_sampler=steps)


class _Steps:
    """The items of one step after the other, forever."""

    def __init__(self, order: ImageOrder, start: int, batch_size: int, stride: int):
        self.order, self.start, self.batch_size, self.stride = order, start, batch_size, stride

    def __iter__(self) -> Iterator[list[int]]:
        position = self.start
        while True:
            yield self.order.items(position, self.batch_size).tolist()
            position += self.stride


class _Items(torch.utils.data.Dataset):
    """(image, label, index). `reading` holds, for each worker, the item that it is reading, else -1."""

    def __init__(self, dataset, num_workers: int):
        self.dataset = dataset
        self.reading = torch.full([max(num_workers, 1)], -1, dtype=torch.int64).share_memory_()

    def __getitem__(self, idx: int):
        worker = torch.utils.data.get_worker_info()
        number = worker.id if worker is not None else 0
        self.reading[number] = idx
        try:
            return *self.dataset[idx], idx
        finally:
            self.reading[number] = -1


def _join(items: list) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    imgs, labels, idxs = zip(*items, strict=True)
    return torch.from_numpy(np.stack(imgs)), torch.from_numpy(np.stack(labels)), torch.tensor(idxs)


def _default_limit_gb(device: torch.device) -> float:
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[0] / 4e9
    return 2.0


def _load_all(dataset, device: torch.device, show: bool) -> torch.Tensor:
    """uint8 [N, C, H, W], all images, not mirrored, on the device. `show`: print progress if there are many."""
    images = torch.empty([dataset.num_images, *dataset.image_shape], dtype=torch.uint8, device=device)
    show = show and dataset.num_images >= LARGE
    if show:
        print(f'Reading {dataset.num_images} images into memory.', flush=True)          # a log has no bar
    with tqdm.tqdm(total=dataset.num_images, desc='Images', unit='img', leave=False,
                   disable=None if show else True) as bar:
        for start in range(0, dataset.num_images, CHUNK):
            imgs = [dataset[i][0] for i in range(start, min(start + CHUNK, dataset.num_images))]
            images[start:start + CHUNK] = torch.from_numpy(np.stack(imgs))
            bar.update(len(imgs))
    return images
