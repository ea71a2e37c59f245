"""train.py: from options to a configuration."""

import pytest
import torch
from conftest import parse_options
from train_options import config_of

import train
from dnnlib import UserError
from torch_utils import devices
from training.networks_setup import feature_width


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


@pytest.mark.parametrize('args, wanted', [([], True), (['--nhwc=0'], False), (['--fp32=1'], False),
                                          (['--cfg=low-shot'], False)])
def test_half_precision_on_a_gpu_is_channels_last(args, wanted, tiny_data, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    config = config_of(tiny_data, '--device=cuda', *args)[0]
    assert config.channels_last == wanted == config.D_kwargs.get('block_kwargs', {}).get('fp16_channels_last', False)


@pytest.mark.parametrize('args', [['--fp32=1'], ['--cfg=low-shot']])
def test_channels_last_where_it_does_nothing(args, tiny_data, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    with pytest.raises(UserError, match='--nhwc=1: has no effect in float32 on a GPU, which .*; leave it out'):
        config_of(tiny_data, '--device=cuda', '--nhwc=1', *args)


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
    (['--subset=13'], '--subset=13: .* has 12 images; use --subset=12'),
    (['--metrics=fid'], '--metrics=fid: there is no such metric; use fid<N>_full'),
    (['--kd=xgkd'], '--kd=xgkd: xgkd is no method; use one or several of agkd, cgkd, '),
    (['--kd-p=0.5'], '--kd-p=0.5: has no effect without --kd; add --kd=agkd,cgkd'),
    (['--kd=cgkd', '--kd-p=0.5'], '--kd-p=0.5: has no effect with --kd=cgkd; add agkd'),
    (['--kd-preset=released'], '--kd-preset=released: has no effect without --kd'),
    (['--metrics=none', '--early-stop=metric=fid5k_full,patience=2'], '--early-stop=.* fid5k_full is not measured'),
    (['--metrics=none', '--detector=x.pt'], '--detector=x.pt: has no effect with --metrics=none; leave it out'),
    (['--metrics=none', '--metric-data=x'], '--metric-data=x: has no effect with --metrics=none; leave it out'),
    (['--metrics=featfid9_full', '--metric-teacher=demo', '--detector=nope.pt'],
     '--detector=nope.pt: has no effect with --metrics=featfid9_full; leave it out'),
    (['--metric-teacher=demo'],
     r'--metric-teacher=demo: has no effect with --metrics=fid50k_full \(the default of --cfg=auto\); leave it out'),
    (['--allow-tf32=1'], '--allow-tf32=1: has no effect without a CUDA device; leave it out'),
    (['--nobench=1'], '--nobench=1: has no effect without a CUDA device; leave it out'),
    (['--kd=cgkd', '--kd-texts=nosuch'], '--kd-texts=nosuch: there is no such file and no such preset'),
    (['--freezed=3'], '--freezed=3: without --init-from it would keep random layers; add --init-from=FILE, or '
                      'leave it out'),
    (['--init-from=x', '--freezed=8'], '--freezed=8: the discriminator of --cfg=auto has 7 such layers at 16 pixels; '
                                       'use --freezed=7 or less'),
    (['--init-from=x', '--freezed=99', '--cfg=cifar'], '--freezed=99: .* has 5 such layers .* use --freezed=5 or less'),
    (['--cuda-graphs=1'], '--cuda-graphs=1: there are none without a CUDA device; leave it out'),
    (['--device=cuda'], '--device=cuda: torch finds no CUDA device; use --device=cpu')])
def test_what_does_not_go_together_is_refused(args, message, tiny_data, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    with pytest.raises(UserError, match=message):
        train.build_config(parse_options('--outdir=x', f'--data={tiny_data}', *args))


GROUPS = 'images at a time cannot be split into groups of 4 for the minibatch statistics of --cfg=demo'
UNEVEN = 'cannot be split evenly over'


@pytest.mark.parametrize('args, message', [
    ('--gpus=2 --batch=3', f'--batch=3: {UNEVEN} 2 processes; use --batch=4'),
    ('--gpus=2 --batch=1', f'--batch=1: {UNEVEN} 2 processes; use --batch=2'),
    ('--gpus=2 --batch=11', f'--batch=11: {UNEVEN} 2 processes; use --batch=16'),
    ('--gpus=3', f'--batch=32 (the default of --cfg=demo): {UNEVEN} 3 processes; use --batch=36'),
    ('--gpus=2 --batch=11 --batch-gpu=6',
     f'--batch=11: {UNEVEN} 2 processes; use --batch=16 and leave --batch-gpu out'),
    ('--batch=6', f'--batch=6: 6 {GROUPS}; use --batch=8'),
    ('--gpus=2 --batch=12', f'--batch=12: 6 {GROUPS}; use --batch=16'),
    ('--gpus=2 --batch=12 --batch-gpu=auto', f'--batch=12: 6 {GROUPS}; use --batch=16'),
    ('--gpus=2 --batch=12 --batch-gpu=6', f'--batch-gpu=6: 6 {GROUPS}; use --batch=16 and leave --batch-gpu out'),
    ('--gpus=2 --batch=12 --batch-gpu=4',
     '--batch-gpu=4: does not divide the 6 images per process; use --batch=16'),
    ('--batch=8 --batch-gpu=3', '--batch-gpu=3: does not divide the 8 images per process; use --batch-gpu=4'),
    ('--batch=24 --batch-gpu=6', f'--batch-gpu=6: 6 {GROUPS}; use --batch-gpu=4'),
    ('--batch=24 --batch-gpu=9', '--batch-gpu=9: does not divide the 24 images per process; use --batch-gpu=8'),
    ('--batch=4 --batch-gpu=8', '--batch-gpu=8: does not divide the 4 images per process; leave --batch-gpu out')])
def test_a_batch_that_cannot_be_divided_has_a_remedy_that_works(args, message, tiny_data):
    """Groups of four: the smallest batch from the one given on that is whole groups on each process."""
    args = ['--cfg=demo', *args.split()]
    with pytest.raises(UserError) as err:
        config_of(tiny_data, *args)
    assert str(err.value) == message
    remedy = message.rpartition(';')[2]
    name = remedy.split()[1] if 'use' in remedy else ''
    dropped = ('--batch-gpu' if 'out' in remedy else None, name.partition('=')[0])
    config, _ = config_of(tiny_data, *[arg for arg in args if arg.partition('=')[0] not in dropped],
                          *([name] if name else []))
    assert config.batch_gpu % min(4, config.batch_gpu) == 0
    assert config.batch_size % (config.num_gpus * config.batch_gpu) == 0


def test_any_number_of_processes(tiny_data, monkeypatch):
    """However they are started. By default at most 64 images, the same whole groups of four on each."""
    expected = {1: 32, 2: 64, 3: 60, 4: 64, 5: 60, 7: 56, 8: 64, 64: 64, 65: 65}        # 16 pixels
    assert {gpus: config_of(tiny_data, f'--gpus={gpus}')[0].batch_size for gpus in expected} == expected
    given = config_of(tiny_data, '--gpus=3', '--batch=36')[0]
    del given.options_given['gpus']
    monkeypatch.setenv('WORLD_SIZE', '3')
    assert config_of(tiny_data, '--batch=36')[0] == given and given.num_gpus == 3
