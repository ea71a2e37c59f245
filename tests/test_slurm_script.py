"""docs/slurm.sh with stand-ins for SLURM's commands: it passes on the signal, waits, and queues the job again; else it
ends as the training does."""

import os
import pathlib
import signal
import subprocess

import pytest
from conftest import wait_until

from torch_utils import distributed

SCRIPT = pathlib.Path(__file__).parent.parent / 'docs' / 'slurm.sh'
COMMANDS = dict(
    srun='''echo "srun $*" >> log
[ -n "$FAIL" ] && exit "$FAIL"
echo $$ > pid.part; mv pid.part pid
trap 'sleep 0.3; echo saved >> log; exit 1' TERM
while :; do sleep 0.05; done''',
    scontrol='[ "$1" = show ] && printf "node1\\nnode2\\n" || echo "scontrol $*" >> log',
    scancel='echo "scancel $*" >> log; kill -TERM $(cat pid)',
)


@pytest.fixture
def start(tmp_path):
    def start(**env):
        for name, text in COMMANDS.items():
            (tmp_path / name).write_text(f'#!/bin/bash\n{text}\n')
            (tmp_path / name).chmod(0o755)
        env = dict(os.environ, PATH=f'{tmp_path}:{os.environ["PATH"]}', SLURM_JOB_ID='7', SLURM_NNODES='2',
                   SLURM_GPUS_ON_NODE='8', SLURM_JOB_NODELIST='node[1-2]', **env)
        return subprocess.Popen(['bash', str(SCRIPT), '--kimg=1'], cwd=tmp_path, env=env)
    return start


def test_a_signal_saves_and_queues_again(start, tmp_path):
    process = start()
    wait_until((tmp_path / 'pid').exists)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=300) == 0
    command, *rest = (tmp_path / 'log').read_text().splitlines()
    assert '--nnodes=2 --nproc-per-node=8' in command and '--rdzv-endpoint=node1:29400 train.py --kimg=1' in command
    assert rest == ['scancel --signal=TERM 7.0', 'saved', 'scontrol requeue 7']


def test_a_failure_is_not_tried_for_ever(start, tmp_path):
    assert start(FAIL='3').wait(timeout=300) == 3
    assert len((tmp_path / 'log').read_text().splitlines()) == 1


def test_a_job_that_was_queued_again_is_a_restart(monkeypatch):
    """--new-run=1 counts for its first start only."""
    monkeypatch.delenv('SLURM_RESTART_COUNT', raising=False)
    assert not distributed.is_restart()
    monkeypatch.setenv('SLURM_RESTART_COUNT', '0')
    assert not distributed.is_restart()
    monkeypatch.setenv('SLURM_RESTART_COUNT', '1')
    assert distributed.is_restart()
