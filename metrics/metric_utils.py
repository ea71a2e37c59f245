"""From images to feature statistics: of a data set, kept on disk from one run to the next, and of a generator."""

import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

import dnnlib
from dnnlib import UserError, files
from torch_utils import distributed, workers
from torch_utils.images import check_fit, to_uint8

from . import draws, sampling
from .detectors import Detector
from .feature_stats import FeatureStats

NOISE_MODE = 'random'           # of the generator, as in training
# Of the images that are generated at once: 64 of 256x256, 4 of 1024x1024, in less memory than training takes
MAX_PIXELS = 1 << 22


@dataclasses.dataclass
class MetricOptions:
    """The inputs of a metric.

    G:              generator in eval mode: `G(z, c, noise_mode=...)` -> [N, 1 or 3, H, W] in [-1, 1]; z_dim, c_dim,
                    img_resolution.
    dataset_kwargs: class_name and arguments of the real images; labels, mirroring and number are set here, see
                    `open_reference`. None where neither metric nor generator needs them.
    subset:         of these only the ones that the training used, for a metric that looks for copies.
    detector:       images -> features.
    device:         where to work.
    seed:           of the latents, labels and noise.
    batch_size:     images at a time on each process; like the number of processes, it only changes rounding.
    num_workers:    processes that read images; 0 = this one.
    cache:          keep the statistics of the data set on disk.
    progress:       show progress bars, where there is a terminal.
    truncation_psi: of the generator; 1 = none, as every published value has it.
    batch_norm:     one of `sampling.MODES`; None = the usual one, where the generator has batch norm.
    uniform_labels: labels of generated images are all classes as often as each other, not as frequent as in the data.
    opened:         the real images by the arguments of `open_reference`, once they have been read; shared by what
                    `dataclasses.replace` makes of this.
    """
    G: torch.nn.Module
    dataset_kwargs: dict | None
    detector: Detector
    device: torch.device
    seed: int = 0
    batch_size: int = 64
    num_workers: int = 2
    cache: bool = True
    progress: bool = True
    truncation_psi: float = 1
    batch_norm: str | None = None
    uniform_labels: bool = False
    subset: bool = False
    opened: dict = dataclasses.field(default_factory=dict, repr=False)

    @functools.cached_property
    def reference(self):
        """The real images."""
        return self._open(subset=self._has_subset)

    @functools.cached_property
    def labels(self):
        """The same with labels."""
        return self._open(use_labels=True)

    @property
    def at_once(self) -> int:
        """Images that are generated at once, an even number: large ones are a part of a batch."""
        return max(2, MAX_PIXELS // self.G.img_resolution ** 2 // 2 * 2)

    @property
    def statistics_key(self) -> tuple:
        """Of the statistics of the real images, among those of several metrics."""
        return self.detector.identity, self._has_subset

    @property
    def _has_subset(self):
        chosen = self.subset and self.dataset_kwargs.get('max_size')
        return bool(chosen) and chosen < len(self._open())

    def _open(self, use_labels=False, subset=False):
        if (use_labels, subset) not in self.opened:
            self.opened[use_labels, subset] = open_reference(self.dataset_kwargs, use_labels, subset)
        return self.opened[use_labels, subset]


def open_reference(dataset_kwargs: dict, use_labels: bool = False, subset: bool = False, **kwargs):
    """The real images as they are: the reference of a metric is never mirrored, and never a subset, even if the
    training used one, except where copies of training images are looked for (`subset`). Images that were held out for
    validation are left out: few-shot protocols compare with the training images.
    """
    as_they_are = dict(use_labels=use_labels, xflip=False, **({} if subset else dict(max_size=None)))
    return dnnlib.util.construct_class_by_name(**{**dataset_kwargs, **as_they_are, **kwargs})


def check_reference(dataset_kwargs: dict, where: str, channels: int, resolution: int, c_dim: int,
                    class_names: list | None = None) -> None:
    """Refuses real images that differ from the generated ones in size, channels, labels or names of classes.

    Args:
        where:       what the user gave, for messages: '--ref=photos.zip'.
        channels, resolution, c_dim, class_names: of the generated images; c_dim = 0: the labels of the real ones are
            not used; class_names = None: not known.
    Raises: UserError.
    """
    with contextlib.closing(_open_like(dataset_kwargs, where, resolution, c_dim, class_names)) as dataset:
        check_fit(dataset, where, channels, resolution, c_dim, 'make the data set with dataset_tool.py '
                  f'--width={resolution} --height={resolution} --color={"grey" if channels == 1 else "rgb"}',
                  f'use the data set that it was trained on, or {_same_classes(class_names)}')
        if c_dim > 0 and None not in (class_names, dataset.class_names) and class_names != dataset.class_names:
            label = next(i for i, (a, b) in enumerate(zip(class_names, dataset.class_names, strict=True)) if a != b)
            raise UserError(f'{where}: class {label} is {dataset.class_names[label]!r}, in the training images '
                            f'{class_names[label]!r}; make the data set from folders with the same names')


def _open_like(dataset_kwargs: dict, where: str, resolution: int, c_dim: int, class_names: list | None):
    """The real images, with labels if c_dim > 0. Raises UserError with remedies that make them fit the generated
    ones."""
    try:
        return open_reference(dataset_kwargs, use_labels=c_dim > 0, remedy_side=resolution)
    except UserError as err:
        if c_dim == 0:
            raise
        open_reference(dataset_kwargs, remedy_side=resolution).close()      # raises errors that are not about labels
        raise UserError(f'{where}: the network takes labels of {c_dim} dimensions; {err.fact}; '
                        f'use {_same_classes(class_names)}') from err


def _same_classes(class_names: list | None) -> str:
    named = '' if class_names is None else f' ({", ".join(class_names[:3])}{", ..." if len(class_names) > 3 else ""})'
    return ('one with the same classes: one folder per class, with the same names as in the training images'
            f'{named}, made ready by dataset_tool.py')


def compute_feature_stats_for_dataset(opts: MetricOptions, max_items: int | None = None, **capture) -> FeatureStats:
    """Statistics of the first `max_items` (None = all) real images; complete on the first process only. Features are in
    the order of the images.

    Every process takes a share of the images. The result is kept under `files.cache_dir('metrics')`, under a name made
    from images and detector, and serves requests for a part of it, too; a damaged file is replaced.

    Args:
        capture: arguments of `FeatureStats`.
    Raises:      UserError if an image cannot be read.
    """
    num_items = min(len(opts.reference), max_items or len(opts.reference))
    cached = _load_cached(opts, num_items, capture) if opts.cache and distributed.get_rank() == 0 else None
    if distributed.any_process(cached is not None):
        return cached
    stats = _empty_stats(opts.detector, opts.device, capture)
    items = range(num_items)[distributed.get_rank()::distributed.get_world_size()]
    with draws.progress(opts, 'Features of real images', len(items)) as bar:
        for img in _dataset_batches(opts, items):
            stats.append_torch(opts.detector(img))
            bar.update(len(img))
    stats.merge_processes(positions=items)
    if opts.cache and distributed.get_rank() == 0:
        try:
            stats.save(_cache_path(opts, num_items, capture))
        except UserError as err:                    # such as a full disk; the value is not affected
            print(f'Warning: the statistics of the real images are not kept for the next time: {err}', flush=True)
    return stats


def _empty_stats(detector: Detector, device, capture: dict) -> FeatureStats:
    stats = FeatureStats(**capture)
    stats.append_torch(torch.zeros([0, detector.num_features], device=device))
    return stats


def _load_cached(opts: MetricOptions, num_items: int, capture: dict) -> FeatureStats | None:
    for richer in (capture, dict(capture_all=True, capture_mean_cov=True)):
        if (stats := FeatureStats.load(_cache_path(opts, num_items, richer))) is not None:
            return stats
    return None


def _cache_path(opts: MetricOptions, num_items: int, capture: dict) -> str:
    key = f'{opts.reference.content_hash()}/{num_items}/{opts.detector.identity}/{sorted(capture.items())}'
    return os.path.join(files.cache_dir('metrics'), f'{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors')


def compute_feature_stats_for_generator(opts: MetricOptions, max_items: int, **capture) -> FeatureStats:
    """Statistics of exactly `max_items` generated images by `opts.detector`; see `collect_generated`."""
    return collect_generated(opts, {'': Request(opts.detector, max_items, capture)})['']


class Request(NamedTuple):
    """Statistics of the first `max_items` generated images; capture: arguments of `FeatureStats`."""
    detector: Detector
    max_items: int
    capture: dict


def collect_generated(opts: MetricOptions, requests: dict[Any, Request]) -> dict[Any, FeatureStats]:
    """One pass over generated images -> {key of the request: its statistics}, complete on the first process only.

    Every process generates a share of the batches, and each detector sees each image once. The images do not depend on
    how many are requested; torch's global random state is left as it was. An image with infinite or NaN pixels has NaN
    features. Nothing in a step waits for the device, and no image is kept: on a GPU, the labels and latents of the next
    batches are made while it works.
    """
    stats = {key: _empty_stats(request.detector, opts.device, request.capture) for key, request in requests.items()}
    num_items = max((request.max_items for request in requests.values()), default=0)
    for items in draws.batches(opts, num_items, opts.batch_size, 'Features of generated images'):
        img = generate_batch(opts, items)
        finite = img.isfinite().flatten(1).all(dim=1, keepdim=True)
        features = _detect(to_uint8(img), finite, items.start, requests.values())
        for key, request in requests.items():
            if items.start < request.max_items:
                stats[key].append_torch(features[request.detector.identity][:request.max_items - items.start])
    for key, request in requests.items():
        stats[key].merge_processes([item for items in draws.shares(request.max_items, opts.batch_size)
                                    for item in items])
    return stats


def _detect(img_uint8: torch.Tensor, finite: torch.Tensor, start: int, requests) -> dict[str, torch.Tensor]:
    """{identity of a detector: features [N, F]} of those detectors that images from number `start` on are for."""
    detectors = {request.detector.identity: request.detector for request in requests if start < request.max_items}
    return {identity: detector(img_uint8).where(finite, torch.nan) for identity, detector in detectors.items()}


@torch.no_grad()
def generate_batch(opts: MetricOptions, items: range, same_class: bool = False) -> torch.Tensor:
    """Images of these numbers -> [len(items), C, H, W] in [-1, 1]. Latents, labels and noise follow from the seed and
    the number of each.

    Args:
        same_class: images 0 and 1, 2 and 3, ... of the batch have the same label.
    """
    made = sampling.made_together(opts, items)
    return torch.cat([_generate(opts, part, same_class) for part in made])[items.start - made[0].start:][:len(items)]


def _generate(opts: MetricOptions, items: range, same_class: bool) -> torch.Tensor:
    # StyleGAN2 computes a single image in another way, with other rounding errors
    made = range(items.start, max(items.stop, items.start + 2))
    z, c = draws.latents(opts, made), draws.labels(opts, made)
    if same_class:
        c = c[0::2].repeat_interleave(2, dim=0)
    with draws.noise(opts, made), sampling.statistics(opts):
        return opts.G(z, c, noise_mode=NOISE_MODE, **draws.truncation(opts))[:len(items)]


def _dataset_batches(opts: MetricOptions, items: range) -> Iterator[torch.Tensor]:
    """uint8 [N, C, H, W] on the device."""
    for img in workers.loader(opts.reference, _join, opts.device, opts.num_workers, batch_size=opts.batch_size,
                              sampler=items):
        if isinstance(img, UserError):
            raise img
        yield draws.to_device(img, opts.device)


def _join(items: list) -> torch.Tensor:
    """Without the labels."""
    return torch.stack([torch.from_numpy(item[0]) for item in items])
