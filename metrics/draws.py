"""The random draws behind generated images: latents, labels and noise depend on the seed and the number of the item,
not on the batches."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
import tqdm

from torch_utils import distributed
from torch_utils.seeds import number_of

BLOCK = 64                      # items whose rows are drawn together
NOISE_BLOCK = 8                 # items whose noise is drawn together: it has many more numbers


def shares(num_items: int, batch_size: int) -> list[range]:
    """The items of each batch of this process; the processes take batches in turn."""
    starts = range(0, num_items, batch_size)[distributed.get_rank()::distributed.get_world_size()]
    return [range(start, min(start + batch_size, num_items)) for start in starts]


def progress(opts, what: str, total: int) -> tqdm.tqdm:
    """A bar on the first process, where there is a terminal."""
    show = opts.progress and distributed.get_rank() == 0
    return tqdm.tqdm(desc=what, total=total, unit='img', leave=False, disable=None if show else True)


def batches(opts, num_items: int, batch_size: int, what: str) -> Iterator[range]:
    """`shares`, under a progress bar called `what`."""
    mine = shares(num_items, batch_size)
    with progress(opts, what, sum(map(len, mine))) as bar:
        for items in mine:
            yield items
            bar.update(len(items))


def rows(opts, items: range, what: str, draw: Callable[[int], torch.Tensor]) -> torch.Tensor:
    """Random rows for the items, on the CPU; `draw(seed)` gives those of a block of items. `what` names the purpose:
    other purposes get other numbers."""
    first = items.start // BLOCK * BLOCK
    return torch.cat([draw(_seed(opts, block, what))
                      for block in range(first, items.stop, BLOCK)])[items.start - first:][:len(items)]


def latents(opts, items: range, what: str = 'latents') -> torch.Tensor:
    """[len(items), z_dim] on the device."""
    draw = lambda seed: torch.randn([BLOCK, opts.G.z_dim], generator=torch.Generator().manual_seed(seed))
    return to_device(rows(opts, items, what, draw), opts.device)


def labels(opts, items: range, what: str = 'labels') -> torch.Tensor:
    """[len(items), c_dim] on the device, as frequent as in the data set, or all classes as frequent as each other."""
    if opts.G.c_dim == 0:
        return torch.zeros([len(items), 0], device=opts.device)
    choices = opts.G.c_dim if opts.uniform_labels else len(opts.labels)
    numbers = rows(opts, items, what,
                   lambda seed: torch.from_numpy(np.random.RandomState(seed).randint(choices, size=BLOCK)))
    if opts.uniform_labels:
        return to_device(torch.nn.functional.one_hot(numbers, opts.G.c_dim).to(torch.float32), opts.device)
    return to_device(torch.from_numpy(np.stack([opts.labels.get_label(number) for number in numbers.tolist()])),
                     opts.device)


class noise(torch.overrides.TorchFunctionMode):
    """Within it, `torch.randn([len(items), ...])`, the generator's source of noise, gives each image its own noise,
    independent of the batches."""

    def __init__(self, opts, items: range):
        super().__init__()
        first = items.start // NOISE_BLOCK * NOISE_BLOCK
        self.wanted = slice(items.start - first, items.stop - first)
        self.generators = [torch.Generator(opts.device).manual_seed(_seed(opts, block, 'noise'))
                           for block in range(first, items.stop, NOISE_BLOCK)]

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not torch.randn:
            return func(*args, **kwargs)
        (count, *size), = args
        if count != self.wanted.stop - self.wanted.start:
            raise ValueError(f'noise for {count} images, expected {self.wanted.stop - self.wanted.start}')
        blocks = [torch.randn([NOISE_BLOCK, *size], generator=generator, **kwargs) for generator in self.generators]
        return torch.cat(blocks)[self.wanted]


def truncation(opts) -> dict:
    """Arguments of the generator or of its mapping."""
    return {} if opts.truncation_psi == 1 else dict(truncation_psi=opts.truncation_psi)


def to_device(x: torch.Tensor, device) -> torch.Tensor:
    """Without waiting for the device."""
    if torch.device(device).type == 'cuda' and not x.is_pinned():
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


def _seed(opts, number: int, what: str) -> int:
    return number_of(opts.seed, number, what, num_bytes=4)
