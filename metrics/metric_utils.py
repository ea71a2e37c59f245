"""From images to feature statistics: of a data set, kept on disk from one run to the next, and of a generator."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator

import numpy as np
import torch
import tqdm

import dnnlib
from dnnlib import UserError, files
from torch_utils import distributed, misc

from .detectors import Detector
from .feature_stats import FeatureStats

NOISE_MODE = 'random'           # of the generator, as in training


@dataclasses.dataclass
class MetricOptions:
    """What a metric works on.

    G:              generator in eval mode: `G(z, c, noise_mode=...)` -> [N, 1 or 3, H, W] in [-1, 1]; z_dim, c_dim.
    dataset_kwargs: class_name and arguments of the real images; labels, mirroring and number are set here, see `open_reference`.
    detector:       images -> features.
    device:         where to work.
    seed:           of the latents, labels and noise.
    batch_size:     images at a time on each process; the noise depends on it, the number of processes changes nothing.
    num_workers:    processes that read images; 0 = this one.
    cache:          keep the statistics of the data set on disk.
    progress:       show progress bars, where there is a terminal.
    """
    G: torch.nn.Module
    dataset_kwargs: dict
    detector: Detector
    device: torch.device
    seed: int = 0
    batch_size: int = 64
    num_workers: int = 2
    cache: bool = True
    progress: bool = True

    @functools.cached_property
    def reference(self):
        """The real images."""
        return open_reference(self.dataset_kwargs)

    @functools.cached_property
    def labels(self):
        """The same with labels."""
        return open_reference(self.dataset_kwargs, use_labels=True)


def open_reference(dataset_kwargs: dict, use_labels: bool = False):
    """All images of a data set as they are: the reference of a metric is never mirrored, whatever the training did, nor a part of it."""
    return dnnlib.util.construct_class_by_name(**{**dataset_kwargs, 'use_labels': use_labels, 'xflip': False, 'max_size': None})


def compute_feature_stats_for_dataset(opts: MetricOptions, max_items: int | None = None, **capture) -> FeatureStats:
    """Statistics of the first `max_items` (None = all) real images; complete on the first process only.

    Every process takes a share of the images. The result is kept under `files.cache_dir('metrics')`, by what the images and the detector
    are; a damaged file there is made anew.

    Args:
        capture: arguments of `FeatureStats`.
    Raises:      UserError if an image cannot be read.
    """
    num_items = min(len(opts.reference), max_items or len(opts.reference))
    path = distributed.agree(lambda: _cache_path(opts, num_items, capture)) if opts.cache else None
    cached = FeatureStats.load(path) if opts.cache and distributed.get_rank() == 0 else None
    if distributed.any_process(cached is not None):
        return cached
    stats = FeatureStats(**capture)
    stats.append_torch(torch.zeros([0, opts.detector.num_features], device=opts.device))
    items = range(distributed.get_rank(), num_items, distributed.get_world_size())
    with _progress(opts, 'real images', len(items)) as bar:
        for img in _dataset_batches(opts, items):
            stats.append_torch(opts.detector(img))
            bar.update(len(img))
    stats.merge_processes()
    if opts.cache and distributed.get_rank() == 0:
        stats.save(path)
    return stats


def _cache_path(opts: MetricOptions, num_items: int, capture: dict) -> str:
    key = f'{opts.reference.content_hash()}/{num_items}/{opts.detector.identity}/{sorted(capture.items())}'
    return os.path.join(files.cache_dir('metrics'), f'{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors')


def compute_feature_stats_for_generator(opts: MetricOptions, max_items: int, **capture) -> FeatureStats:
    """Statistics of exactly `max_items` generated images; complete on the first process only. Arguments as above.

    Every process generates a share of the batches. Latents, labels and noise of a batch follow from the seed and the number of images before it;
    torch's global random state is left as it was. An image with infinite or NaN pixels has NaN features.
    """
    stats = FeatureStats(**capture)
    stats.append_torch(torch.zeros([0, opts.detector.num_features], device=opts.device))
    starts = range(0, max_items, opts.batch_size)[distributed.get_rank()::distributed.get_world_size()]
    with _progress(opts, 'generated images', sum(min(opts.batch_size, max_items - start) for start in starts)) as bar:
        for start in starts:
            img = _generate(opts, start, min(opts.batch_size, max_items - start))
            finite = img.isfinite().flatten(1).all(dim=1, keepdim=True)
            stats.append_torch(opts.detector(misc.to_uint8(img)).where(finite, torch.nan))
            bar.update(len(img))
    stats.merge_processes()
    return stats


@torch.no_grad()
def _generate(opts: MetricOptions, start: int, count: int) -> torch.Tensor:
    """Images number start, start + 1, ... -> [count, C, H, W] in [-1, 1]."""
    G, device = opts.G, torch.device(opts.device)
    seed = lambda what: int.from_bytes(hashlib.sha256(f'{opts.seed}/{start}/{what}'.encode()).digest()[:4], 'little')
    z = torch.randn([count, G.z_dim], generator=torch.Generator().manual_seed(seed('latents')))
    c = torch.zeros([count, 0])
    if G.c_dim > 0:                                 # as frequent as in the data set
        items = np.random.RandomState(seed('labels')).randint(len(opts.labels), size=count)
        c = torch.from_numpy(np.stack([opts.labels.get_label(int(i)) for i in items]))
    with torch.random.fork_rng(devices=[device] if device.type == 'cuda' else []):
        torch.manual_seed(seed('noise'))
        return G(_move(z, device), _move(c, device), noise_mode=NOISE_MODE)


def _move(x: torch.Tensor, device) -> torch.Tensor:
    """To the device, without waiting for it."""
    if torch.device(device).type == 'cuda' and not x.is_pinned():
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


class _Images(torch.utils.data.Dataset):
    """Some items of a data set, without labels; or the `UserError` itself, which would lose its one line in being raised across processes."""

    def __init__(self, dataset, items):
        self.dataset, self.items = dataset, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> torch.Tensor | UserError:
        try:
            return torch.from_numpy(self.dataset[self.items[i]][0])
        except UserError as err:
            return err


def _collate(images: list) -> torch.Tensor | UserError:
    return next((img for img in images if isinstance(img, UserError)), None) or torch.stack(images)


def _dataset_batches(opts: MetricOptions, items: range) -> Iterator[torch.Tensor]:
    """uint8 [N, C, H, W] on the device."""
    loader = torch.utils.data.DataLoader(
        _Images(opts.reference, items), opts.batch_size, num_workers=opts.num_workers, collate_fn=_collate,
        pin_memory=torch.device(opts.device).type == 'cuda', worker_init_fn=misc.loader_signals,
        generator=torch.Generator(),                # or else each start of the workers would draw from torch's global generator
    )
    for img in loader:
        if isinstance(img, UserError):
            raise img
        yield _move(img, opts.device)


def _progress(opts: MetricOptions, what: str, total: int) -> tqdm.tqdm:
    show = opts.progress and distributed.get_rank() == 0
    return tqdm.tqdm(desc=f'Features of {what}', total=total, unit='img', leave=False, disable=None if show else True)
