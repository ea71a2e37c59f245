"""N processes x batch b train as one process x batch N*b does: whole iterations in float64, gloo, the same draws and
the same reals."""

import pytest
import torch
from float64_runs import BATCH, train
from processes import run_processes
from small_runs import make_config

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
