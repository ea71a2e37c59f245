"""The environment that torch's threads read when torch is loaded."""

import os
import pathlib
import subprocess
import sys

import pytest

from dnnlib import threads

ROOT = pathlib.Path(__file__).parent.parent
PROGRAMS = sorted(path.stem for path in ROOT.glob('*.py')) + ['kd_plugin.pretrain', 'kd_plugin.probe']

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
    result = subprocess.run([sys.executable, '-c', AT_TORCH.format(program=program)], cwd=ROOT, env=env, capture_output=True, text=True)
    assert result.returncode == 7, result.stderr
    return result.stdout


@pytest.mark.parametrize('program', PROGRAMS)
def test_every_program_sets_it_before_torch_is_loaded(program):
    assert at_torch(program) == "[None, '10000', '1']\n"


@pytest.mark.parametrize('env, there', [(dict(GOMP_SPINCOUNT='5'), "[None, '5', None]"), (dict(OMP_WAIT_POLICY='active'), "['active', None, None]"),
                                        (dict(KMP_BLOCKTIME='infinite'), "[None, None, 'infinite']")])
def test_what_the_user_has_set_stays(env, there):
    assert at_torch('generate', **env) == there + '\n'
