"""The environment that torch's threads read when torch is loaded."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest
from conftest import run_cli

from dnnlib import threads

ROOT = pathlib.Path(__file__).parent.parent
WITHOUT_TORCH = {'dataset_tool', 'report', 'reproduce'}
PROGRAMS = sorted({path.stem for path in ROOT.glob('*.py')} - WITHOUT_TORCH) + ['kd_plugin.pretrain', 'kd_plugin.probe']

# Runs a program as `python -m` does, and ends it where it asks for torch.
AT_TORCH = f'''
import os, runpy, sys
class Finder:
    def find_spec(name, path=None, target=None):
        if name == 'torch':
            print([os.environ.get(name) for name in {threads.USERS}])
            sys.exit(7)
sys.meta_path.insert(0, Finder)
sys.argv[1:] = ['--help']
runpy.run_module({{program!r}}, run_name='__main__', alter_sys=True)
'''


def at_torch(program, **env):
    """-> what the variables are at the moment when a program loads torch."""
    env = {name: value for name, value in os.environ.items() if name not in threads.USERS} | env
    command = [sys.executable, '-c', AT_TORCH.format(program=program)]
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert result.returncode == 7, result.stderr
    return result.stdout


@pytest.mark.parametrize('program', PROGRAMS)
def test_every_program_sets_it_before_torch_is_loaded(program):
    assert at_torch(program) == "[None, '10000', '1']\n"


@pytest.mark.parametrize('program', sorted(WITHOUT_TORCH))
def test_what_computes_nothing_does_not_wait_for_torch(program):
    result = subprocess.run([sys.executable, '-c', AT_TORCH.format(program=program)], cwd=ROOT,
                            capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout.startswith('Usage:')


@pytest.mark.parametrize('env, there', [
    (dict(GOMP_SPINCOUNT='5'), "[None, '5', None]"), (dict(OMP_WAIT_POLICY='active'), "['active', None, None]"),
    (dict(KMP_BLOCKTIME='infinite'), "[None, None, 'infinite']")])
def test_what_the_user_has_set_stays(env, there):
    assert at_torch('generate', **env) == there + '\n'


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.setattr(sys, 'path', list(sys.path))
    spec = importlib.util.spec_from_file_location('threads_benchmark', ROOT / 'benchmarks' / 'threads.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_compares_turns_of_the_same_round(benchmark, capsys):
    """Seconds per kimg, sleeps per image, threads, cores of other programs; the second round is twice as slow."""
    turns = {('a', False): [(10, 4, 2, 0), (20, 4, 2, 2)], ('a', True): [(30, 9, 2, 0), (60, 9, 2, 0)],
             ('b', False): [(11, 6, 2, 1), (22, 8, 2, 1)], ('b', True): [(22, 9, 1, 0), (44, 9, 1, 0)]}
    benchmark.report(['a', 'b'], turns)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows == [['a', '15.0', '45.0', '1.00', '3.00', '4.0', '2', '2', '1.0', 'cores'],
                    ['b', '16.5', '33.0', '1.10', '2.00', '7.0', '2', '1', '1.0', 'cores']]


def test_the_benchmark_says_what_it_takes(benchmark):
    code, output = run_cli(benchmark.main, '--help')
    assert code == 0 and '--rounds' in output and '--worker' not in output
