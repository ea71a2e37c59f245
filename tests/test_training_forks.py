"""Forks: a state as the start of a run with other options."""

import contextlib
import json
import os
import pathlib
import shutil

import pytest
import torch
from half_runs import half_a_run  # noqa: F401  (a fixture)
from resuming import differences, make_run, read_json, run
from small_runs import KD, make_config

import dnnlib
from dnnlib import UserError
from torch_utils import checkpoint
from training.methods.lecam import LeCam
from training.observers.observer import Observer
from training.run import card as model_card
from training.run import changes as run_changes
from training.run import fork as run_fork
from training.run import found_out
from training.run.files import STATE_FILE
from training.run.find import OPTIONS_FILE, find_run

# -- forks


def test_a_fork_starts_from_a_state_with_other_options_and_resumes_exactly(tiny_data, tmp_path):
    """Distillation is added; learning rate and gamma are those of the new command. The source may change meanwhile."""
    source = tmp_path / '00000-source'
    config = make_config(tiny_data, '--batch=8', '--aug=ada', total_kimg=0.024, kimg_per_tick=0.016)
    before = make_run(config, source)
    before.training.augment_pipe.p.fill_(0.37)
    before.run()                            # three iterations and a regularisation; p moves after the fourth
    tensors, _ = checkpoint.load(str(source / STATE_FILE), 'training-state')
    args = ['--batch=8', '--aug=ada', *KD, '--gamma=3', f'--fork-from={source}']
    config = make_config(tiny_data, *args, total_kimg=0.048, kimg_per_tick=0.016)
    config.G_opt_kwargs = dict(config.G_opt_kwargs, lr=0.001)
    job = make_run(config, tmp_path / 'look')
    origin = job.config.found_out['fork_origin']
    assert job.cur_nimg == 24 and job.state.history == [dict(event='fork', **origin)]
    assert origin == read_json(tmp_path / 'look' / found_out.FILE)['fork_origin']
    assert origin == dict(run='00000-source', cur_nimg=24,
                          checksum=checkpoint.load_checksum(str(source / STATE_FILE), 'training-state'))
    for network in ('G', 'D', 'G_ema'):
        state = getattr(job.training, network).state_dict()
        assert all(torch.equal(value, tensors[f'{network}.{name}']) for name, value in state.items())
    # Gmain, Dmain
    for phase, lr in zip(job.training.phases[::2], (0.001 * 4 / 5, 0.0025 * 16 / 17), strict=True):
        assert phase.opt.param_groups[0]['lr'] == pytest.approx(lr)
        assert torch.equal(phase.opt.state[phase.params[0]]['exp_avg'], tensors[f'{phase.name[0]}_opt.state.0.exp_avg'])
    assert job.training.augment_pipe.p == tensors['augment_pipe.p'] == torch.tensor(0.37)
    pending = tensors['ada.pending']
    assert torch.equal(job.training.ada.state_dict()['pending'], pending) and pending[0] == 4 * 8
    run(config, tmp_path / 'whole')
    run(config, tmp_path / 'parts', die_at=4)
    shutil.rmtree(source)
    run(config, tmp_path / 'parts')
    assert differences(tmp_path / 'whole', tmp_path / 'parts') == []
    card = model_card.make_card(str(tmp_path / 'whole' / 'network-snapshot-000000.048.safetensors'))
    assert f'the state of the run 00000-source at 0.024 kimg (checksum {origin["checksum"]})' in card


LINEAR = ['--aug=linear', '--p=0.5', '--p-kimg=0.032']


@pytest.mark.parametrize('before, after, p, end', [(LINEAR, ['--aug=ada'], 0.25, 0.25),
                                                   (['--aug=ada'], LINEAR, 0.3, 0.5 * 24 / 32)])
def test_a_fork_with_another_rule_for_the_augmentation(before, after, p, end, tiny_data, tmp_path):
    """p goes on from where it was, by the new rule alone: ADA would move it in the fourth iteration, which is not
    reached."""
    source = make_run(make_config(tiny_data, '--batch=8', *before, total_kimg=0.016, kimg_per_tick=0.016),
                      tmp_path / '00000-source')
    source.training.augment_pipe.p.fill_(0.3)
    source.run()
    config = make_config(tiny_data, '--batch=8', *after, f'--fork-from={tmp_path / "00000-source"}', total_kimg=0.024,
                         kimg_per_tick=0.008)
    job = make_run(config, tmp_path / 'fork')
    assert job.cur_nimg == 16 and job.training.augment_pipe.p.item() == pytest.approx(p)
    job.run()
    assert job.training.augment_pipe.p.item() == pytest.approx(end)


def test_a_linear_probability_counts_images(tiny_data, tmp_path):
    """A fork with another batch has seen as many."""
    linear = ['--aug=linear', '--p=0.5', '--p-kimg=0.064']
    run(make_config(tiny_data, '--batch=8', *linear, total_kimg=0.016, kimg_per_tick=0.016), tmp_path / 'source')
    job = make_run(make_config(tiny_data, '--batch=16', *linear, f'--fork-from={tmp_path / "source"}', total_kimg=0.032,
                               kimg_per_tick=0.016), tmp_path / 'fork')
    job.run()
    assert job.training.augment_pipe.p.item() == pytest.approx(0.5 * 32 / 64)


def test_the_averages_of_the_optimisers_go_by_name(tiny_data, tmp_path):
    """Frozen layers are trained no more, and heads of a further term stand before those of distillation."""
    args = ['--batch=8', '--aug=ada', *KD]
    run(make_config(tiny_data, *args, total_kimg=0.016, kimg_per_tick=0.016), tmp_path / 'source')
    tensors, info = checkpoint.load(str(tmp_path / 'source' / STATE_FILE), 'training-state')
    group, = dict(checkpoint.unflatten(info['state']['D_opt'], tensors))['param_groups']
    names = group['param_names']
    assert any(name.startswith('terms.kd.') for name in names) and 'b16.conv0.weight' in names
    for more in ['--freezed=1'], ['--insgen']:
        job = make_run(make_config(tiny_data, *args, *more, f'--fork-from={tmp_path / "source"}', total_kimg=0.032),
                       tmp_path / more[0].strip('-'))
        opt = job.training.phases[-1].opt
        own = opt.param_groups[0]['param_names']
        assert own != names
        for name, param in zip(own, opt.param_groups[0]['params'], strict=True):
            if name in names:
                before = tensors[f'D_opt.state.{names.index(name)}.exp_avg_sq']
                assert torch.equal(opt.state[param]['exp_avg_sq'], before), name
            else:
                assert param not in opt.state, name


def test_averages_of_a_state_without_names_begin_anew(capsys):
    """As earlier versions have left them: which parameter one belongs to is not known."""
    weight = torch.nn.Parameter(torch.ones(2))
    opt = torch.optim.Adam([('weight', weight)])
    weight.grad = torch.ones(2)
    opt.step()
    state = opt.state_dict()
    run_fork._take_averages(opt, state)
    assert opt.state[weight]['exp_avg'].tolist() == state['state'][0]['exp_avg'].tolist()
    del state['param_groups'][0]['param_names']
    run_fork._take_averages(opt, state)
    assert not opt.state and 'The averages of the optimisers begin anew' in capsys.readouterr().out


@pytest.mark.parametrize('method', ['insgen', 'fakeclr'])
def test_a_copy_of_D_that_a_fork_adds_is_of_the_D_it_took(tiny_data, tmp_path, method):
    args = ['--batch=8', '--aug=ada']
    run(make_config(tiny_data, *args, total_kimg=0.016, kimg_per_tick=0.016), tmp_path / 'source')
    fork = lambda origin, name: make_run(
        make_config(tiny_data, *args, f'--{method}', f'--fork-from={tmp_path / origin}', total_kimg=0.032,
                    kimg_per_tick=0.016), tmp_path / name)
    job = fork('source', 'added')
    D, slow = job.training.D.state_dict(), job.training.loss.terms[method].slow_D.state_dict()
    assert all(torch.equal(slow[name], value) for name, value in D.items())
    job.run()
    taken = fork('added', 'taken').training.loss.terms[method].slow_D.state_dict()
    kept = job.training.loss.terms[method].slow_D.state_dict()
    assert all(torch.equal(taken[name], value) for name, value in kept.items())
    assert not torch.equal(taken['b16.conv0.weight'], job.training.D.state_dict()['b16.conv0.weight'])


def test_the_command_of_a_fork_continues_it(half_a_run, tmp_path):  # noqa: F811
    source = tmp_path / 'runs' / '00000-tiny-demo-kimg0.016-batch8'
    code, output = half_a_run('--gamma=7', f'--fork-from={source}', '--kimg=0.016')
    fork, = (tmp_path / 'runs').glob('00001-tiny-demo-fork-00000-tiny-demo-*-gamma7-kimg0.016-batch8')
    assert code == 0 and f'Starting from the state of {source} at 0.008 kimg.' in output
    origin = read_json(fork / found_out.FILE)['fork_origin']
    assert origin['cur_nimg'] == 8
    code, output = half_a_run('--gamma=6', f'--fork-from={source}', '--kimg=0.008')
    assert (code == 1
            and output.startswith('Error: --kimg=0.008: the run starts at 0.008 kimg (--fork-from); give a larger '
                                  '--kimg, which counts from'))
    assert half_a_run()[0] == 0                                                 # the source goes on to its end
    code, output = half_a_run('--gamma=7', f'--fork-from={source}')
    assert code == 0 and f'{fork} is complete' in output and read_json(fork / found_out.FILE)['fork_origin'] == origin
    shutil.rmtree(source)
    code, output = half_a_run('--gamma=7', f'--fork-from={source}')
    assert code == 0 and f'{fork} is complete' in output
    code, output = half_a_run('--gamma=8', f'--fork-from={source}')
    assert code == 1 and f'--fork-from={source}: there is no such run' in output


class Ticks(Observer):
    """How many it has seen."""
    count = 0

    def report(self, training):
        self.count += 1

    def state_dict(self):
        return dict(count=self.count)

    def load_state_dict(self, state):
        self.count = state['count']


def test_a_fork_takes_what_is_no_tensor(tiny_data, tmp_path):
    """The signs that wait in APA are a table; they go over where the new run has APA too, and so do observers."""
    args = ['--batch=8', '--aug=ada']
    observers = dict(ticks=dict(class_name='test_training_forks.Ticks'))
    run(make_config(tiny_data, *args, '--apa', '--lecam=0.3', total_kimg=0.024, kimg_per_tick=0.024,
                    observers=observers),
        tmp_path / 'source')
    source = f'--fork-from={tmp_path / "source"}'
    fork = lambda name, *more: make_run(
        make_config(tiny_data, *args, *more, source, total_kimg=0.032, observers=observers), tmp_path / name)
    pending = lambda job: job.training.loss.terms['apa'].get_extra_state()['pending']
    taken = fork('apa', '--apa', '--gamma=3')
    assert taken.observers['ticks'].count == 1
    tensors, _ = checkpoint.load(str(tmp_path / 'source' / STATE_FILE), 'training-state')
    assert pending(taken)[0] > 0 and torch.equal(pending(taken), tensors['loss.terms.apa._extra_state.pending'])
    assert fork('without', '--lecam=0.3').training.loss.terms['lecam'].average[2] > 0


@pytest.mark.parametrize('args, message', [
    (['--fork-from=nowhere'], '--fork-from=nowhere: there is no such run or state file'),
    (['--fork-from={empty}'], '--fork-from=.*: there is no training state in it'),
    (['--fork-from={source}/stats.jsonl'], '--fork-from=.*stats.jsonl: .*damaged or of another format.*; name another '
                                           'run, or a state file$'),
    (['--fork-from={source}/network-snapshot-000000.008.safetensors'],
     "--fork-from=.*; name another run, or a state file; to start from a snapshot's weights use --init-from$"),
    (['--fork-from={source}', '--init-from=x'], '--fork-from=.*leave one of them out'),
    (['--fork-from={source}', '--cond=1'], '--fork-from=.*: its G has other layers than this one; use the same --cfg, '
                                           'resolution and labels')])
def test_forks_that_cannot_be(args, message, tiny_data, tmp_path):
    (tmp_path / 'empty').mkdir()
    run(make_config(tiny_data, '--batch=8', total_kimg=0.008, kimg_per_tick=0.008), tmp_path / 'source')
    args = [arg.format(source=tmp_path / 'source', empty=tmp_path / 'empty') for arg in args]
    with pytest.raises(UserError, match=message):
        run(make_config(tiny_data, '--batch=8', *args, total_kimg=0.016), tmp_path / 'fork')


def test_a_data_set_has_many_paths(tiny_data, tmp_path, monkeypatch):
    """By whichever of them it is named, and wherever it was moved to, the run is the same; other images are not."""
    photos = shutil.copytree(tiny_data, tmp_path / 'photos')
    runs = tmp_path / 'runs'
    (runs / '00000-x').mkdir(parents=True)
    config_of = lambda data: make_config(data, '--kd=cgkd', '--kd-teacher=demo')
    config = config_of(str(photos))
    (runs / '00000-x' / OPTIONS_FILE).write_text(json.dumps(config))
    with contextlib.closing(dnnlib.util.construct_class_by_name(**config.training_set_kwargs)) as dataset:
        known = dict(cur_nimg=1000, dataset_hash=dataset.content_hash())
    checkpoint.save(str(runs / '00000-x' / STATE_FILE), 'training-state', {}, known)
    find = lambda data: find_run(str(runs), config_of(str(data)), 'x', False)
    monkeypatch.chdir(tmp_path)
    os.symlink(photos, tmp_path / 'link')
    for data in ('photos', './photos', f'{photos}/', tmp_path / 'link', tmp_path / 'runs' / '..' / 'photos'):
        assert find(data) == (str(runs / '00000-x'), 'continue'), data
        # The images unread
        assert run_changes.differences(json.loads(json.dumps(config)), config_of(str(data))) == []
    moved = shutil.move(photos, tmp_path / 'elsewhere')
    assert find(moved) == (str(runs / '00000-x'), 'continue')
    picture = next(pathlib.Path(moved).rglob('*.png'))
    picture.write_bytes(next(path for path in pathlib.Path(moved).rglob('*.png') if path != picture).read_bytes())
    with pytest.raises(UserError, match='was started with --data=.*photos, now .*elsewhere'):
        find(moved)


def test_the_last_run_of_the_name_counts(tmp_path):
    """A run that has got nowhere, or is complete, does not stand in the way of other options."""
    config = dict(random_seed=0, total_kimg=2, kimg_per_tick=1, metrics=[])
    path = tmp_path / '00000-x'
    path.mkdir()
    (path / OPTIONS_FILE).write_text(json.dumps(config))
    other = dict(config, random_seed=1)
    find = lambda: find_run(str(tmp_path), other, 'x', False)
    assert find() == (str(tmp_path / '00001-x'), 'new')
    checkpoint.save(str(path / STATE_FILE), 'training-state', {}, dict(cur_nimg=1000))
    with pytest.raises(UserError, match='--seed=0, now 1'):
        find()
    assert (find_run(str(tmp_path), other, 'y', False)[1] == 'new'
            and find_run(str(tmp_path), other, 'x', True)[1] == 'new')
    checkpoint.save(str(path / STATE_FILE), 'training-state', {}, dict(cur_nimg=2000))
    (path / 'network-snapshot-000002.safetensors').touch()
    (path / 'model_card.md').touch()
    assert find() == (str(tmp_path / '00001-x'), 'new')


def test_runs_of_one_number_do_not_hide_each_other(tmp_path):
    """Commands that were given at once have taken the same one."""
    config = lambda seed: dict(random_seed=seed, total_kimg=2, kimg_per_tick=1, metrics=[])
    for seed in range(3):
        path = tmp_path / f'00000-x-seed{seed}'
        path.mkdir()
        (path / OPTIONS_FILE).write_text(json.dumps(config(seed)))
    for seed in range(3):
        assert find_run(str(tmp_path), config(seed), f'x-seed{seed}', False) == (
            str(tmp_path / f'00000-x-seed{seed}'), 'continue')
    assert find_run(str(tmp_path), config(3), 'x-seed3', False) == (str(tmp_path / '00001-x-seed3'), 'new')


def test_a_state_with_other_tensors(tiny_data, tmp_path, monkeypatch):
    """As an earlier version may have left it, of a method that keeps something else now: one line, and a fork works."""
    config = lambda **changes: make_config(tiny_data, '--batch=8', '--lecam=0.3', **changes)
    run(config(total_kimg=0.016), tmp_path / 'run')
    build = LeCam.__init__

    def build_with_more(self, **kwargs):
        build(self, **kwargs)
        self.register_buffer('more', torch.ones([]))
    monkeypatch.setattr(LeCam, '__init__', build_with_more)
    with pytest.raises(UserError, match=r'run: its state has another loss than this version of the project '
                                        r'\(RuntimeError: .*more.*; use --new-run=1, or --fork-from=.*run, which takes '
                                        'what fits'):
        make_run(config(total_kimg=0.032), tmp_path / 'run')
    job = make_run(config(total_kimg=0.032, fork_from=str(tmp_path / 'run')), tmp_path / 'fork')
    assert job.training.loss.terms['lecam'].average[2] > 0 and job.training.loss.terms['lecam'].more == 1
