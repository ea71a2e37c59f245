"""The number of threads: as many as cores are free, as the user has set it, or as a computation was begun with."""

import contextlib

import pytest
import torch
from conftest import run_cli

import calc_metrics
import generate
import style_mixing
from dnnlib import EasyDict, free_cores
from kd_plugin import probe
from torch_utils import cpu_threads
from training import launch
from training.run import changes as run_changes
from training.run.find import read_options
from training.run.lock import RunLock

NETWORK = ['--network=none.safetensors', '--device=cpu']
COMMANDS = {'images': (generate.main, *NETWORK, '--seeds=1'), 'video': (generate.main, 'video', *NETWORK),
            'neighbors': (generate.main, 'neighbors', *NETWORK), 'list': (generate.main, *NETWORK, '--grid=2x2'),
            'mixing': (style_mixing.main, *NETWORK, '--rows=1', '--cols=2'), 'metrics': (calc_metrics.main, *NETWORK)}


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Of torch's four threads, other programs leave three; there is no quota."""
    for name in (*cpu_threads.USERS, 'LOCAL_WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(free_cores, 'measure', lambda: 3)
    monkeypatch.setattr(free_cores, 'quota', lambda: None)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_as_many_as_are_free(capsys):
    assert cpu_threads.settle('cpu') == 'cpu' and torch.get_num_threads() == 3
    assert capsys.readouterr().out == '3 of 4 threads: other programs use the rest; OMP_NUM_THREADS=4 takes all\n'


@pytest.mark.parametrize('free', [4, 9, None])
def test_nothing_is_said_where_all_are_free(monkeypatch, capsys, free):
    """torch may take fewer than there are cores; None: it cannot be told."""
    monkeypatch.setattr(free_cores, 'measure', lambda: free)
    assert cpu_threads.choose() == 4 and capsys.readouterr().out == ''


def test_no_more_than_the_quota(monkeypatch, capsys):
    monkeypatch.setattr(free_cores, 'quota', lambda: 2)
    assert cpu_threads.choose() == 2
    assert capsys.readouterr().out == '2 of 4 threads: this is the CPU quota; OMP_NUM_THREADS=4 takes all\n'


@pytest.mark.parametrize('name', cpu_threads.USERS)
def test_what_the_user_has_set_stays(monkeypatch, capsys, name):
    monkeypatch.setenv(name, '4')
    cpu_threads.settle('cpu', recorded=2)
    assert torch.get_num_threads() == 4 and capsys.readouterr().out == ''


def test_a_gpu_needs_no_threads():
    for device in ('cuda', torch.device('cuda', 1), 'mps'):
        assert cpu_threads.settle(device) == device and torch.get_num_threads() == 4


@pytest.mark.parametrize('processes, each', [(1, 3), (2, 1), (8, 1)])
def test_processes_share_them(monkeypatch, processes, each):
    assert cpu_threads.choose(processes) == each
    monkeypatch.setenv('LOCAL_WORLD_SIZE', str(processes))
    cpu_threads.settle('cpu')
    assert torch.get_num_threads() == each


@pytest.mark.parametrize('command', COMMANDS)
def test_the_commands_choose(command, tmp_path):
    main, *args = COMMANDS[command]
    code, output = run_cli(main, *args, f'--outdir={tmp_path}')
    assert code == 1 and 'none.safetensors' in output and '3 of 4 threads' in output, output


def test_a_probe_chooses(tmp_path):
    code, output = run_cli(probe.main, '--data=none', '--teacher=demo', '--device=cpu', f'--outdir={tmp_path}')
    assert code == 1 and '3 of 4 threads' in output, output


# -- what is continued keeps to the number that it was begun with

def configuration(**others):
    return EasyDict(dict(device='cpu', num_gpus=1, batch_gpu=4, metrics=[],
                         training_set_kwargs=dict(path='x')) | others)


def prepared(run_dir, **others):
    """What a training finds out in its run directory before it starts."""
    with contextlib.closing(RunLock(str(run_dir))) as lock:
        return launch._prepare(configuration(**others), str(run_dir), lock)['found_out']


def test_a_run_that_is_continued_keeps_its_number(tmp_path, monkeypatch, capsys):
    assert prepared(tmp_path) == dict(cpu_threads=3) and '3 of 4 threads' in capsys.readouterr().out
    monkeypatch.setattr(free_cores, 'measure', lambda: 1)
    assert prepared(tmp_path) == dict(cpu_threads=3) and capsys.readouterr().out == ''
    saved = read_options(tmp_path)
    assert (saved['found_out'] == dict(cpu_threads=3)
            and run_changes.differences(saved, configuration(run_dir=str(tmp_path))) == [])


def test_a_run_records_what_the_user_has_set(tmp_path, monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '4')
    assert prepared(tmp_path) == dict(cpu_threads=4)
    monkeypatch.delenv('OMP_NUM_THREADS')
    assert prepared(tmp_path) == dict(cpu_threads=4)


def test_the_processes_of_a_run_share_them(tmp_path, monkeypatch):
    """Those of --gpus=2; and with torchrun those of this machine, which are not all."""
    monkeypatch.setattr(free_cores, 'measure', lambda: 4)
    assert prepared(tmp_path / 'a', num_gpus=2)['cpu_threads'] == 2
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '1')
    assert prepared(tmp_path / 'b', num_gpus=2)['cpu_threads'] == 4


def test_a_run_on_a_gpu_has_no_number(tmp_path):
    assert prepared(tmp_path, device='cuda') == {}


@pytest.mark.parametrize('env, threads', [({}, 2), (dict(OMP_NUM_THREADS='4'), 4)])
def test_the_training_uses_it(tmp_path, monkeypatch, env, threads):
    used = []
    monkeypatch.setattr(launch, 'training_loop', lambda *_args: used.append(torch.get_num_threads()))
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    launch._train(configuration(found_out=dict(cpu_threads=2)), str(tmp_path))
    assert used == [threads]
