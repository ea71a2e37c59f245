"""The random draws behind pairs and paths of images: latents and labels follow from the seed and the number of the item, whatever the batches."""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Callable

import numpy as np
import torch
import tqdm

from torch_utils import distributed


def batches(opts, num_items: int, batch_size: int, what: str) -> Iterator[range]:
    """The items of each batch that is this process's share of `num_items` items, under a progress bar called `what`."""
    starts = range(0, num_items, batch_size)[distributed.get_rank()::distributed.get_world_size()]
    shares = [range(num_items)[start:start + batch_size] for start in starts]
    show = opts.progress and distributed.get_rank() == 0
    with tqdm.tqdm(desc=what, total=sum(map(len, shares)), leave=False, disable=None if show else True) as bar:
        for items in shares:
            yield items
            bar.update(len(items))


def _seed(opts, number: int, what: str) -> int:
    return int.from_bytes(hashlib.sha256(f'{opts.seed}/{number}/{what}'.encode()).digest()[:4], 'little')


def of_items(opts, items: range, what: str, draw: Callable[[torch.Generator], torch.Tensor]) -> torch.Tensor:
    """Random rows for the items, each from a source of its own, on the CPU; draws for another purpose have another `what`."""
    return torch.stack([draw(torch.Generator().manual_seed(_seed(opts, item, what))) for item in items])


def latents(opts, items: range, what: str = 'latents') -> torch.Tensor:
    """[len(items), z_dim] on the device."""
    return of_items(opts, items, what, lambda generator: torch.randn([opts.G.z_dim], generator=generator)).to(opts.device)


def labels(opts, items: range) -> torch.Tensor:
    """[len(items), c_dim] on the device, as frequent as in the data set."""
    if opts.G.c_dim == 0:
        return torch.zeros([len(items), 0], device=opts.device)
    rows = of_items(opts, items, 'labels', lambda generator: torch.randint(len(opts.labels), [], generator=generator)).tolist()
    return torch.from_numpy(np.stack([opts.labels.get_label(row) for row in rows])).to(opts.device)


@contextlib.contextmanager
def noise(opts, items: range):
    """The generator's noise within is that of the batch; torch's global random state is left as it was."""
    device = torch.device(opts.device)
    with torch.random.fork_rng(devices=[device] if device.type == 'cuda' else []):
        torch.manual_seed(_seed(opts, items.start, 'noise'))
        yield
