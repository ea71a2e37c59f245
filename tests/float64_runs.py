"""Runs in float64 with the same draws and reals for any number of processes: what tests of processes share."""

import os
import sys

import torch
from torch.overrides import TorchFunctionMode

from kd_plugin import teacher
from kd_plugin.teachers import tiny_clip  # noqa: F401 (for `double_precision`)
from torch_utils import distributed, training_stats
from training.augment import diffaugment  # noqa: F401
from training.dataset.real_images import RealBatch, RealImages
from training.networks import biggan  # noqa: F401
from training.training import Training

BATCH, ITERATIONS = 16, 3


class DoubleTorch:
    """The module torch to code that asks for float32."""

    def __getattr__(self, name):
        return torch.float64 if name == 'float32' else getattr(torch, name)


def double_precision():
    """For the rest of this process."""
    torch.set_default_dtype(torch.float64)
    for name, module in list(sys.modules.items()):
        # found_inf is float32
        ours = name.split('.')[0] in ('training', 'torch_utils', 'kd_plugin') and name != 'training.phases'
        if ours and getattr(module, 'torch', None) is torch:
            module.torch = DoubleTorch()
    teacher.Teacher.__init__.__defaults__ = (torch.float64, None)


class SharedDraws(TorchFunctionMode):
    """Random rows are drawn for all processes, each takes its own: r, r + N, ...; scalars are everybody's."""

    def __init__(self, rank, num_ranks):
        super().__init__()
        self.rank, self.num_ranks = rank, num_ranks
        self.generator = None                   # None: draws are everybody's own, as for the first weights

    def own(self, x):
        return x[self.rank::self.num_ranks]

    def draw(self, fn, shape):
        if len(shape) == 0:
            return fn([], generator=self.generator)
        return self.own(fn([shape[0] * self.num_ranks, *shape[1:]], generator=self.generator))

    def __torch_function__(self, fn, types, args=(), kwargs=None):
        if self.generator is not None:
            if fn in (torch.randn, torch.rand):
                return self.draw(fn, args[0])
            if fn is torch.randn_like:
                return self.draw(torch.randn, args[0].shape)
            if fn is torch.randint:
                return self.draw(lambda shape, **kw: torch.randint(*args[:-1], shape, **kw), args[-1])
        return fn(*args, **(kwargs or {}))


def train(rank, folder, config):
    """A few iterations; what they leave behind goes to a file."""
    double_precision()
    num_ranks = distributed.get_world_size()
    os.environ['KDGAN_CACHE_DIR'] = f'{folder}/cache{num_ranks}'            # each computes its features of the teacher
    with SharedDraws(rank, num_ranks) as draws:
        training = Training(config, torch.device('cpu'))
        whole = RealImages(training.dataset, BATCH, 'cpu')
        training.reals.batch = lambda nimg: RealBatch(*[draws.own(x) for x in whole.batch(nimg)])
        statistics = training_stats.Collector()
        for i in range(ITERATIONS):
            draws.generator = torch.Generator().manual_seed(i)
            training.step()
        statistics.update()
        states = training.state_dict()
        for group in states['G_opt']['param_groups'] + states['D_opt']['param_groups']:
            del group['param_names']                        # numbers alone are compared
    if rank == 0:
        torch.save((states, {name: value['mean'] for name, value in statistics.as_dict().items()}),
                   f'{folder}/{num_ranks}.pt')
