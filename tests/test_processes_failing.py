"""Of several processes one is killed or fails: all end, one message says why, and torchrun's restart ends where no
failure would have."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest
import torch
from conftest import parse_options, shrink
from processes import run_processes

import train
from torch_utils import checkpoint
from training.launch import launch
from training.run.files import STATE_FILE

ROOT = pathlib.Path(__file__).parent.parent
SPAWN = [sys.executable]
TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2']


def options(outdir, data, *args):
    return [f'--outdir={outdir}', f'--data={data}', '--cfg=demo', '--batch=8', '--device=cpu', '--tick=0.008',
            '--metrics=none', '--workers=0', '--aug=ada', '--snap=1', '--kimg=0.032', *args]


def failing(launcher, fail, outdir, data, *args):
    """fail: see failing_train.py; it leaves its file beside `outdir`. -> Popen."""
    args = [*args, '--gpus=2'] if launcher is SPAWN else args
    env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=f'{ROOT}', FAIL=f'{fail} {outdir}.failed')
    return subprocess.Popen([*launcher, str(ROOT / 'tests' / 'failing_train.py'), *options(outdir, data, *args)],
                            cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ours(stderr):
    """What the training says, without torchrun's own traceback."""
    return stderr.split('Traceback (most recent call last):\n  File "<frozen runpy>"')[0]


def trained(rank, args, run_dir):
    config, _name = train.build_config(parse_options(*args))
    launch(shrink(config), run_dir)


def state(run_dir):
    tensors, info = checkpoint.load(os.path.join(run_dir, STATE_FILE), 'training-state')
    return tensors, info['cur_nimg']


def same_as_never_failed(run_dir, data, tmp_path):
    run_processes(trained, 2, options(tmp_path, data), str(tmp_path / 'whole'))
    (whole, whole_nimg), (parts, parts_nimg) = state(tmp_path / 'whole'), state(run_dir)
    assert whole_nimg == parts_nimg == 32
    return [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def test_a_killed_process_ends_all(tiny_data, tmp_path):
    process = failing(SPAWN, 'kill 1 16', tmp_path / 'runs', tiny_data)
    _out, err = process.communicate(timeout=1500)
    assert (process.returncode == 1 and 'Error: process 1 of 2 was killed by SIGKILL; the same command continues' in err
            and 'Traceback' not in err)
    run_dir, = (tmp_path / 'runs').iterdir()
    assert state(run_dir)[1] == 16


def test_torchrun_restarts_and_the_result_is_the_same(tiny_data, tmp_path):
    """One of two processes is killed; all start again from the last state, in the same run directory, though --new-run
    is given."""
    process = failing([*TORCHRUN, '--max-restarts=1'], 'kill 1 24', tmp_path / 'runs', tiny_data, '--new-run=1')
    out, err = process.communicate(timeout=1500)
    assert process.returncode == 0, err
    run_dir, = (tmp_path / 'runs').iterdir()
    assert ('Continuing' in out and (tmp_path / 'runs.failed').exists()
            and same_as_never_failed(run_dir, tiny_data, tmp_path))


@pytest.mark.soak
@pytest.mark.parametrize('launcher', [SPAWN, TORCHRUN], ids=['gpus', 'torchrun'])
@pytest.mark.parametrize('fail', ['raise 0 16', 'raise 1 16', 'mistake 0 0', 'mistake 1 16', 'kill 0 16'])
def test_the_message_of_a_process_that_fails(launcher, fail, tiny_data, tmp_path):
    process = failing(launcher, fail, tmp_path / 'runs', tiny_data)
    _out, err = process.communicate(timeout=1500)
    said = ours(err)
    assert process.returncode == 1
    if fail.startswith('raise'):
        assert said.count('Traceback') == said.count('ValueError: out of luck') == 1
    elif fail.startswith('mistake'):
        assert 'Traceback' not in said and said.count('Error: ') == said.count('Error: --data: spoilt') == 1
    else:
        assert 'Traceback' not in said and 'has lost another one' in said and 'the same command continues' in said
    failing(launcher, fail, tmp_path / 'runs', tiny_data).communicate(timeout=1500)
    run_dir, = (tmp_path / 'runs').iterdir()
    assert same_as_never_failed(run_dir, tiny_data, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize('launcher', [SPAWN, TORCHRUN], ids=['gpus', 'torchrun'])
def test_sigterm_saves_a_state(launcher, tiny_data, tmp_path):
    """What SLURM sends before it takes the machines away. The signal may come at any time after the first step."""
    process = failing(launcher, 'raise 9 0', tmp_path / 'runs', tiny_data, '--snap=100')
    for line in process.stdout:
        if line.startswith('tick 0'):
            break
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=1500)
    assert 'Traceback' not in ours(err)
    run_dir, = (tmp_path / 'runs').iterdir()
    assert 0 < state(run_dir)[1] <= 32, out
    failing(launcher, 'raise 9 0', tmp_path / 'runs', tiny_data, '--snap=100').communicate(timeout=1500)
    assert same_as_never_failed(run_dir, tiny_data, tmp_path)
