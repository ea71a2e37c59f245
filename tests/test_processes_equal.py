"""N processes x batch b train as one process x batch N*b does: whole iterations in float64, gloo, the same draws and
the same reals."""

import os
import sys

import pytest
import torch
from processes import run_processes
from small_runs import make_config
from torch.overrides import TorchFunctionMode

from kd_plugin import teacher
from kd_plugin.teachers import tiny_clip  # noqa: F401 (for `double_precision`)
from torch_utils import distributed, training_stats
from training import networks  # noqa: F401
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
                return self.draw(lambda shape, **kw: torch.randint(args[0], shape, **kw), args[1])
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
    if rank == 0:
        torch.save((states, {name: value['mean'] for name, value in statistics.as_dict().items()}),
                   f'{folder}/{num_ranks}.pt')


KD = ['--kd=agkd,cgkd', '--kd-teacher=demo', '--kd-pd=off',       # diversity is a mean over pairs of a micro-batch
      '--kd-share=0.2', '--kd-adapt=0.6', '--kd-target-norm=channel']


@pytest.mark.parametrize('worlds, options', [([1, 2, 4], ['--aug=ada', '--mirror=1', '--cond=1', *KD]),
                                             ([1, 2], ['--aug=noaug', '--cfg=low-shot'])])
def test_a_batch_on_several_processes(worlds, options, tiny_data, tmp_path):
    """Networks, running averages, optimisers, ADA and statistics, up to the order of summation.

    Groups of the minibatch standard deviation are strided within a process; with rows r, r + N, ... they are those of
    one process, too.
    """
    results = []
    for num_ranks in worlds:
        config = make_config(tiny_data, f'--batch={BATCH}', '--fp32=1', *options)
        config.update(num_gpus=num_ranks, batch_gpu=BATCH // num_ranks, ada_interval=2)
        if '--cfg=low-shot' not in options:
            config.update(G_reg_interval=2, D_reg_interval=2)
        run_processes(train, num_ranks, str(tmp_path), config)
        results.append(torch.load(tmp_path / f'{num_ranks}.pt'))
        results[-1][1].pop('KD/diversity_teacher', None)
    states, statistics = results[0]
    assert states['G']['mapping.w_avg'].abs().max() > 0 and states['D']['b4.out.weight'].dtype == torch.float64
    if '--aug=ada' in options:                                          # one update after two iterations
        assert statistics['Loss/signs/real'] != 0 and 0 <= states['augment_pipe']['p'] <= BATCH * 2 / 500_000
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-9, atol=1e-12)
