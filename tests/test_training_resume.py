"""A run that is cut off and continued is the run that never was: every preset, every kind of distillation, one process
and two."""

import contextlib
import json
import os
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import run_cli, shrink
from resuming import differences, free_port, make_run, read_json, run, run_pair, start, tick_lines
from small_runs import KD, STYLEGAN2, make_config

import dnnlib
import train
from dnnlib import UserError
from torch_utils import checkpoint, devices
from training.launch import launch
from training.methods.lecam import LeCam
from training.observers.observer import Observer
from training.run import card as model_card
from training.run import changes as run_changes
from training.run import found_out
from training.run.files import BAD_STEPS_FILE, LOG_FILE, STATE_FILE, STATS_FILE
from training.run.find import OPTIONS_FILE, find_run
from training.run.records import forget_after

# Texts whose words the teacher knows: with others all correlations are one, and a loss of 0 is the rounding of sums.
METHODS = [[], *([f'--kd={methods}', '--kd-teacher=demo', f'--kd-preset={preset}',
                  *(['--kd-texts=demo'] if 'cgkd' in methods else [])]
                 for preset in ('paper', 'released') for methods in ('agkd', 'cgkd', 'agkd,cgkd'))]
# Each preset and each method at least once
PAIRS = [(cfg, METHODS[i % len(METHODS)]) for i, cfg in enumerate(STYLEGAN2)]
OTHER_PAIRS = [(cfg, kd) for cfg in STYLEGAN2 for kd in METHODS if (cfg, kd) not in PAIRS]


def name_of(value):
    return value if isinstance(value, str) else '-'.join(option.partition('=')[2] for option in value[:3:2]) or 'no kd'


def case(data, cfg, kd, gpus=1):
    """Six iterations in ticks of two; regularisation in some of them, as it is lazy."""
    classes = ['--cond=1'] if '--kd-preset=released' in kd else []
    config = make_config(data, f'--cfg={cfg}', f'--gpus={gpus}', '--batch=8', '--aug=ada', *classes, *kd,
                         total_kimg=0.048,
                         kimg_per_tick=0.016)
    if config.G_reg_interval is not None:
        config.update(G_reg_interval=2, D_reg_interval=4)
    return config


def check_parts(data, cfg, kd, folder):
    """Saved after three iterations, in the middle of a tick, cut off after four, and continued."""
    run(case(data, cfg, kd), folder / 'whole')
    run(case(data, cfg, kd), folder / 'parts', save_at=3, die_at=4)
    run(case(data, cfg, kd), folder / 'parts')
    assert differences(folder / 'whole', folder / 'parts') == []


@pytest.mark.parametrize('cfg, kd', PAIRS, ids=name_of)
def test_a_run_in_parts_is_the_whole_run(cfg, kd, tiny_data, tmp_path):
    check_parts(tiny_data, cfg, kd, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize('cfg, kd', OTHER_PAIRS, ids=name_of)
def test_a_run_in_parts_is_the_whole_run_with_everything(cfg, kd, tiny_data, tmp_path):
    check_parts(tiny_data, cfg, kd, tmp_path)


@pytest.mark.parametrize('pairs', [PAIRS[3:4], pytest.param(PAIRS, marks=pytest.mark.soak)], ids=['one', 'all'])
def test_two_processes_in_parts_are_the_whole_run(pairs, tiny_data, tmp_path):
    cases = [(case(tiny_data, cfg, kd, gpus=2), str(tmp_path / f'{cfg}-whole'), str(tmp_path / f'{cfg}-parts'))
             for cfg, kd in pairs]
    port = free_port()
    processes = [start(run_pair, cases, port, rank) for rank in range(2)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert {cfg: differences(whole, parts)
            for (cfg, _), (_, whole, parts) in zip(pairs, cases, strict=True)} == {cfg: [] for cfg, _ in pairs}


def test_no_line_is_doubled_or_lost(tiny_data, tmp_path):
    """Ticks that the state does not know are told once more, in its place."""
    config = make_config(tiny_data, '--batch=8', '--cfg=demo', total_kimg=0.048, kimg_per_tick=0.008,
                         network_snapshot_ticks=2)
    run_dir = tmp_path / 'run'
    job = make_run(config, run_dir)
    iterate = job._iteration
    job._iteration = lambda: iterate() if job.training.batch_idx < 5 else (_ for _ in ()).throw(UserError('end'))
    with pytest.raises(UserError, match='end'):
        job.run()
    (run_dir / LOG_FILE).write_text('a line\n' + ''.join(f'tick {i}     kimg ...\n' for i in range(5)) + 'another\n')
    assert len((run_dir / STATS_FILE).read_text().splitlines()) == 5
    launch(config, str(run_dir))
    kimg = [json.loads(line)['Progress/kimg']['mean'] for line in (run_dir / STATS_FILE).read_text().splitlines()]
    assert kimg == pytest.approx([0.008 * (i + 1) for i in range(6)])
    assert tick_lines(run_dir) == list(range(6))
    assert 'a line\n' in (run_dir / LOG_FILE).read_text() and 'another\n' in (run_dir / LOG_FILE).read_text()


def test_what_a_state_does_not_know_is_forgotten(tmp_path):
    lines = lambda *records: ''.join(json.dumps(record) + '\n' for record in records)
    (tmp_path / STATS_FILE).write_text(lines(*({'Progress/kimg': {'mean': kimg}} for kimg in (1, 2, 3))) + '{"cut o')
    (tmp_path / 'metric-fid5k_full.jsonl').write_text(lines(dict(cur_nimg=2000), dict(cur_nimg=None),
                                                            dict(cur_nimg=2001)))
    steps = [dict(rollbacks=0, cur_nimg=2900), dict(rollbacks=1, cur_nimg=1900), dict(rollbacks=1, cur_nimg=2000),
             dict(rollbacks=2, cur_nimg=10)]
    (tmp_path / BAD_STEPS_FILE).write_text(lines(*steps))
    forget_after(str(tmp_path), 2000, 2, rollbacks=1)
    read = lambda name: [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
    assert [record['Progress/kimg']['mean'] for record in read(STATS_FILE)] == [1, 2]
    assert read('metric-fid5k_full.jsonl') == [dict(cur_nimg=2000), dict(cur_nimg=None)]
    assert read(BAD_STEPS_FILE) == steps[:2]


def test_a_line_that_was_cut_off_takes_no_other_with_it(tmp_path):
    """A full disk, or a kill: what is appended to it would be lost."""
    line = json.dumps({'Progress/kimg': {'mean': 1}}) + '\n'
    (tmp_path / STATS_FILE).write_text(line + '{"cut o')
    forget_after(str(tmp_path), 2000, 2)
    assert (tmp_path / STATS_FILE).read_text() == line


# -- other options

def command(data, outdir, *args):
    return [f'--outdir={outdir}', f'--data={data}', '--device=cpu', '--metrics=none', '--workers=0', '--cfg=demo',
            '--batch=8', '--tick=0.008',
            '--kimg=0.016', *args]


@pytest.fixture
def half_a_run(tiny_data, tmp_path, monkeypatch):
    """-> function of further options that runs train.py with tiny networks; one run has been stopped after 8 of 16
    images."""
    build = train.build_config
    # So that --fp32=1 is another option everywhere
    monkeypatch.setattr(devices, 'cpu_has_bfloat16', lambda: True)
    monkeypatch.setattr(train, 'build_config', lambda opts: (lambda config, name: (shrink(config), name))(*build(opts)))
    call = lambda *args, data=tiny_data: run_cli(train.main, *command(data, tmp_path / 'runs', *args))
    code, output = call('--kimg=0.008', '--snap=1')
    assert code == 0, output
    # So that it is not complete
    os.remove(tmp_path / 'runs' / '00000-tiny-demo-kimg0.008-batch8' / 'model_card.md')
    os.rename(tmp_path / 'runs' / '00000-tiny-demo-kimg0.008-batch8',
              tmp_path / 'runs' / '00000-tiny-demo-kimg0.016-batch8')
    options = tmp_path / 'runs' / '00000-tiny-demo-kimg0.016-batch8' / OPTIONS_FILE
    options.write_text(json.dumps(dict(read_json(options), total_kimg=0.016)))
    return call


def test_other_options_are_refused_with_the_list_of_differences(half_a_run, tmp_path):
    run_dir = tmp_path / 'runs' / '00000-tiny-demo-kimg0.016-batch8'
    code, output = half_a_run('--nhwc=0', '--batch-gpu=4')
    assert code == 1 and f'Error: {run_dir} is not complete and was started with --batch-gpu=8, now 4; ' in output
    assert '; --nhwc=1, now 0. To continue' in output
    assert f'use --new-run=1 for another run, or --fork-from={run_dir} to start one' in output
    assert half_a_run('--nhwc=0', '--new-run=1')[0] == 0
    assert (tmp_path / 'runs' / '00001-tiny-demo-kimg0.016-batch8').is_dir()
    # Changes nothing that is trained
    code, output = half_a_run('--snap=2', '--max-bad-steps=7', '--snapshot-networks=all')
    assert code == 0 and f'Continuing {run_dir} at 0.0 kimg' in output


def test_a_run_keeps_the_precision_of_the_processor_that_it_began_on(half_a_run, tmp_path, monkeypatch):
    """Its command means it on one without bfloat16 too, also when it is complete; what is asked for counts as ever."""
    run_dir = tmp_path / 'runs' / '00000-tiny-demo-kimg0.016-batch8'
    monkeypatch.setattr(devices, 'cpu_has_bfloat16', lambda: False)
    code, output = half_a_run()
    assert code == 0 and f'Continuing {run_dir} at' in output
    saved = read_json(run_dir / OPTIONS_FILE)
    assert saved['fp32'] is False and saved['G_kwargs']['synthesis_kwargs']['half_dtype'] == 'bfloat16'
    assert f'{run_dir} is complete' in half_a_run()[1] and f'{run_dir} is complete' in half_a_run('--fp32=0')[1]
    output = half_a_run('--fp32=1', '--dry-run')[1]
    assert f'Output directory:   {tmp_path / "runs" / "00001-tiny-demo-kimg0.016-batch8-fp32"}\n' in output


def test_other_images_are_refused(half_a_run, tiny_data, tmp_path):
    """Of the same names and number, in the same place."""
    copy = tmp_path / 'copy'
    shutil.copytree(tiny_data, copy)
    picture = next(pathlib.Path(tiny_data).glob('*/*.png'))
    before = picture.read_bytes()
    try:
        PIL.Image.fromarray(np.zeros([16, 16, 3], dtype=np.uint8)).save(picture)
        run_dir = tmp_path / 'runs' / '00000-tiny-demo-kimg0.016-batch8'
        state = (run_dir / STATE_FILE).read_bytes()
        code, output = half_a_run()
        assert code == 1 and f'these are not the images that {run_dir} was trained on so far' in output
        assert (run_dir / STATE_FILE).read_bytes() == state
    finally:
        picture.write_bytes(before)
    assert half_a_run()[0] == 0


def test_a_configuration_of_an_earlier_version():
    """Distillation was part of the loss, and some classes lay elsewhere."""
    before = dict(loss_kwargs=dict(class_name='kd_plugin.loss.KDLoss', r1_gamma=1, kd_kwargs=dict(teacher='x', seed=3)),
                  terms=dict(lecam=dict(class_name='training.lecam.LeCam', weight=0.1)),
                  observers=dict(validation=dict(class_name='training.validation.Validation')), batch_size=4,
                  batch_gpu_probed=2, fork_origin=dict(run='00000-x'))
    now = dict(loss_kwargs=dict(class_name='training.loss.StyleGAN2Loss', r1_gamma=1), batch_size=4,
               terms=dict(lecam=dict(class_name='training.methods.lecam.LeCam', weight=0.1),
                          kd=dict(class_name='kd_plugin.loss.Distillation', teacher='x', seed=3)),
               observers=dict(validation=dict(class_name='training.observers.validation.Validation')),
               found_out=dict(batch_gpu=2, fork_origin=dict(run='00000-x')))
    assert (run_changes.as_now(before) == now and run_changes.as_now(now) == now
            and list(now['terms']) == ['lecam', 'kd'])
    for class_name in run_changes.RENAMED.values():
        assert isinstance(dnnlib.util.get_obj_by_name(class_name), type)


def test_names_of_options_in_differences():
    saved = dict(random_seed=0, num_gpus=1, loss_kwargs=dict(r1_gamma=1),
                 terms=dict(kd=dict(seed=0, settings=dict(p=0.7, teacher_input='clip'))),
                 metrics=['a'], G_kwargs=dict(z_dim=8), batch_gpu=4)
    now = dict(random_seed=1, num_gpus=2, loss_kwargs=dict(r1_gamma=2),
               terms=dict(kd=dict(seed=1, settings=dict(p=1, teacher_input='raw'))),
               metrics=[], G_kwargs=dict(z_dim=9), batch_gpu=2)
    assert run_changes.differences(saved, now) == [
        '--seed=0, now 1', '--gpus=1, now 2', '--gamma=1, now 2', '--kd-p=0.7, now 1', '--kd-input=clip, now raw',
        'G_kwargs.z_dim=8, now 9',
        '--batch-gpu=4, now 2']
    growing = lambda p, kimg: dict(augment_p=p, augment_ramp_kimg=kimg)
    assert run_changes.differences(growing(0.5, 3), growing(0.2, 4)) == ['--p=0.5, now 0.2', '--p-kimg=3, now 4']
    assert (run_changes.differences({}, dict(compile=False)) == []
            and run_changes.differences(dict(w=0), {}) == ['w=0, now None'])
    precision = lambda blocks, fp32: dict(fp32=fp32, D_kwargs=dict(num_fp16_res=blocks))
    assert run_changes.differences(precision(4, False), precision(0, True)) == ['--fp32=0, now 1']
    assert run_changes.differences(precision(4, False), precision(3, False)) == ['D_kwargs.num_fp16_res=4, now 3']
    # As with --cfg=low-shot
    of_teacher = lambda fp32: dict(fp32=True, terms=dict(kd=dict(teacher_fp32=fp32)))
    assert run_changes.differences(of_teacher(False), of_teacher(True)) == ['--fp32=0, now 1']
    both = lambda fp32: dict(fp32=fp32, terms=dict(kd=dict(teacher_fp32=fp32)))
    assert run_changes.differences(both(False), both(True)) == ['--fp32=0, now 1']
    auto = dict(batch_gpu_auto=True)
    probed = dict(auto, batch_gpu=8, found_out=dict(batch_gpu=4))
    assert run_changes.differences(probed,
                                   dict(auto, batch_gpu=8)) == run_changes.differences(probed, dict(batch_gpu=4)) == []
    with_number = dict(batch_gpu=4, found_out=dict(batch_gpu=4))                # it was continued so
    assert run_changes.differences(with_number, dict(auto, batch_gpu=8)) == []
    assert run_changes.differences(probed, dict(batch_gpu=8)) == ['--batch-gpu=auto, now 8']
    assert run_changes.differences(dict(batch_gpu=8), dict(auto, batch_gpu=8)) == ['--batch-gpu=8, now auto']
    assert (run_changes.same_name('00003-x-auto2-ada', 'x-auto1-ada')
            and not run_changes.same_name('00003-x-auto1-ada', 'x-auto1'))


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


def test_the_command_of_a_fork_continues_it(half_a_run, tmp_path):
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
    observers = dict(ticks=dict(class_name='test_training_resume.Ticks'))
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
