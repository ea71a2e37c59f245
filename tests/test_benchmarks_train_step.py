"""benchmarks/train_step.py, beside.py and gpu_day.sh: their cheapest steps; what is computed from times, by hand."""

import importlib
import os
import pathlib
import re
import shutil
import subprocess
import sys

import click
import pytest
import torch
from conftest import run_cli

ROOT = pathlib.Path(__file__).parent.parent
sys.path.append(str(ROOT / 'benchmarks'))
beside, gpu_day, steps, train_step = map(importlib.import_module, ('beside', 'gpu_day', 'steps', 'train_step'))


def test_the_least_of_several_turns():
    slow, fast = steps.Turn(dict(Gmain=3.0, Dmain=4.0), 0.5, 0.9), steps.Turn(dict(Gmain=2.0, Dmain=4.5), 0.25, 0.7)
    assert steps.least([slow, fast]) == steps.Turn(dict(Gmain=2.0, Dmain=4.0), 0.25, 0.7)


@pytest.fixture
def step(tmp_path):
    config = train_step.CONFIGS['16-tiny']
    data = steps.pictures(str(tmp_path / 'data'), config.resolution, 4)
    made = steps.build_config(data, *config.options, '--aug=ada', '--device=cpu', **config.changes)
    return steps.Steps(made, str(tmp_path))


def test_the_step_is_that_of_training(step):
    """All phases at their intervals, the augmentation at work, the optimisers and the average moving."""
    training, seen = step.training, []
    before = {name: value.clone() for name, value in training.G_ema.state_dict().items()}
    for name, function in training.accumulate.items():
        training.accumulate[name] = lambda *args, name=name, function=function: (seen.append(name), function(*args))
    turn = step.turn(5)
    assert [seen.count(name) for name in ('Gmain', 'Greg', 'Dmain', 'Dreg')] == [5, 2, 5, 1]
    assert training.reals.in_memory and training.augment_pipe.p.item() == pytest.approx(0.5, abs=0.01)
    assert any(not torch.equal(value, before[name]) for name, value in training.G_ema.state_dict().items())
    turn = turn._replace(phases=dict(Gmain=1, Greg=4, Dmain=2, Dreg=8), rest=0.25)
    assert step.iteration(turn) == 1 + 1 + 2 + 0.5 + 0.25


def test_the_other_implementation_gets_the_same_shapes(step):
    wanted = beside.request(step.config, 16, 0.5)
    other = beside.Other(wanted)
    for ours, theirs in ((step.training.G, other.networks['G']), (step.training.D, other.networks['D'])):
        assert shapes(ours) == shapes(theirs)
    for phase, name in (('Gmain', 'G'), ('Dreg', 'D')):
        ours, theirs = next(p.opt for p in step.training.phases if p.name == phase), other.optimisers[name]
        for key in ('lr', 'betas', 'eps'):
            assert ours.param_groups[0][key] == pytest.approx(theirs.param_groups[0][key])
    assert other.loss.r1_gamma == step.training.loss.r1_gamma and other.loss.augment_pipe.p == 0.5
    half = steps.EasyDict(step.config, D_kwargs=dict(step.config.D_kwargs, num_fp16_res=4))
    on = lambda device: beside.request(steps.EasyDict(half, device=device), 16, 0)['D']['num_fp16_res']
    assert (on('cpu'), on('cuda')) == (0, 4)


def shapes(network):
    return {name: param.shape for name, param in network.named_parameters()}


def test_an_argument_that_only_others_have(step, monkeypatch):
    """StyleGAN2-ADA's loss wants to be told whether processes exchange gradients."""
    other, told = beside.Other(beside.request(step.config, 16, 0.5)), []
    accumulate = other.loss.accumulate_gradients
    monkeypatch.setattr(other.loss, 'accumulate_gradients',
                        lambda *, sync, **kwargs: (told.append(sync), accumulate(**kwargs)))
    before = [p.clone() for p in other.networks['D'].parameters()]
    other.step('Dmain')
    moved = [not torch.equal(a, b) for a, b in zip(before, other.networks['D'].parameters(), strict=True)]
    assert told == [True] and any(moved)


@pytest.mark.parametrize('folder', ['', ROOT / 'tests/reference_standin'])
def test_a_folder_without_the_implementation(folder, tmp_path):
    """Whether or not this project is installed, where Python would find it instead."""
    with pytest.raises(click.ClickException, match=f'--beside={folder or tmp_path}: ModuleNotFoundError: '):
        beside.Beside(folder or tmp_path, {})


def test_what_it_prints(monkeypatch):
    """Beside this checkout itself: the same work takes a similar time, which is not for a test to say."""
    monkeypatch.setattr(train_step, 'peak_flops', lambda dtype, device: 1e12)           # seconds of matrix products
    code, output = run_cli(train_step.main, '--config=16-tiny', '--device=cpu', '--iterations=1', '--rounds=1',
                           '--vary=--aug=ada', f'--beside={ROOT}')
    assert code == 0
    heading, seconds, _memory, convolutions, varied, other = output.splitlines()[1:]
    assert heading.startswith('16x16, batch 4 in micro-batches of 4, float32')
    phase = lambda line: re.findall(r'(Gmain|Greg|Dmain|Dreg) (\d+\.\d+)', line)
    assert [name for name, _ in phase(seconds)] == ['Gmain', 'Greg', 'Dmain', 'Dreg']
    total = sum(float(sec) / step for (_, sec), step in zip(phase(seconds), (1, 4, 1, 16), strict=True))
    iteration, rest = re.search(r'iteration (\S+), (\d+)% of it outside', seconds).groups()
    assert total == pytest.approx(float(iteration) * (1 - int(rest) / 100), rel=0.01)
    assert 'of a matrix product' in convolutions and '--aug=ada: ' in varied and len(phase(varied)) == 4
    assert other.startswith(f'  {ROOT}, same shapes and batch, float32: Gmain ') and 'times as long as here' in other


def test_equal_states_and_others():
    a = {'G.w': torch.ones(4), 'D.w': torch.ones(4), 'step': torch.tensor(3), 'note': 'x'}
    assert gpu_day.difference(a, a) == '100% equal, weights differ by 0.0e+00'
    b = dict(a, **{'D.w': torch.tensor([1, 1, 1, 1.5])})                    # 0.5 of the root of 8
    assert gpu_day.difference(a, b) == '67% equal, weights differ by 1.8e-01'


@pytest.mark.skipif(shutil.which('bash') is None or shutil.which('timeout') is None, reason='needs bash and timeout')
def test_the_day_goes_on_after_a_failure_and_names_it(tmp_path):
    """With a Python that only notes how it is called: every step, its options and its end."""
    python = tmp_path / 'python'
    python.write_text('#!/bin/bash\necho "$*" >> "$CALLS"\n'
                      'case "$*" in *"gpu_day.py exact"*) echo wrong; exit 3 ;; esac\n')
    python.chmod(0o755)
    env = dict(os.environ, PY=str(python), DEVICE='cpu', OUT=str(tmp_path / 'out'), CALLS=str(tmp_path / 'calls'),
               REFERENCE='/ref')
    run = lambda part: subprocess.run(['bash', str(ROOT / 'benchmarks/gpu_day.sh'), *part], env=env, text=True,
                                      capture_output=True)
    a, b, none = run(['A']), run(['B']), run([])
    assert (a.returncode, b.returncode, none.returncode) == (1, 0, 2)
    assert 'bash benchmarks/gpu_day.sh A' in none.stdout and 'all right' in b.stdout.splitlines()[-1]
    assert a.stdout.splitlines()[-1].endswith('failed: repeatable, exact continuation; ')
    assert 'wrong' in (tmp_path / 'out/A.log').read_text()
    calls = (tmp_path / 'calls').read_text().splitlines()
    files = [re.search(r'benchmarks/\w+\.py|pytest|torch_utils.doctor', call)[0] for call in calls]
    assert files == ['torch_utils.doctor', 'benchmarks/train_step.py', 'pytest', 'benchmarks/gpu_day.py',
                     'benchmarks/gpu_day.py', 'benchmarks/train_step.py', 'benchmarks/ops.py',
                     'benchmarks/train_step.py']
    assert all((ROOT / name).exists() for call in calls for name in re.findall(r'(?:benchmarks|tests)/\w+\.py', call))
    assert '--config=16-tiny --beside=/ref' in calls[-1]


def test_the_settings_of_the_day_are_options_of_training(tmp_path):
    exact = [('64-auto', options) for options, _ in gpu_day.EXACT.values()]
    for name, options in [*gpu_day.SPEED, *gpu_day.TINY_SPEED, *exact]:
        config = train_step.CONFIGS[name]
        args = [*config.options, *options.split()]
        context = steps.train.main.make_context('train.py', ['--outdir=x', f'--data={tmp_path}', *args])
        assert context.args == []
