"""The name of a run: what trains differently is called differently; configurations decide which run a command means."""

import json

import click
import pytest
from conftest import parse_options

import train
from dnnlib import EasyDict, UserError
from kd_plugin.distillers.table import DISTILLERS
from torch_utils import checkpoint, devices
from training.config import augmentations
from training.config.augmentations import Augmentation, add_augmentation, augmentation_options
from training.config.presets import PRESETS
from training.run import changes as run_changes
from training.run.files import STATE_FILE
from training.run.find import OPTIONS_FILE, find_run
from training.run.name import MAX_BYTES, UNNAMED, run_name

KD = '--kd=agkd,cgkd'
# Every option that changes the training; it comes last, after what it needs.
NAMED = {
    'seed': '--seed=3', 'cond': '--cond=1', 'subset': '--subset=8', 'val_fraction': '--val-fraction=0.25',
    'mirror': '--mirror=1',
    'cbase': '--cbase=4096', 'bn_sync': '--data=demo --cfg=biggan-cifar --cond=0 --bn-sync=1',
    'gamma': '--gamma=5', 'kimg': '--kimg=100', 'batch': '--batch=8', 'aug': '--aug=noaug',
    'p': '--aug=fixed --p=0.2 --p=0.3',
    'p_kimg': '--aug=linear --p=0.2 --p-kimg=50 --p-kimg=60',
    'target': '--target=0.5', 'augpipe': '--augpipe=bg', 'diffaug_policy': '--aug=diffaug --diffaug-policy=color',
    'init_from': '--init-from=x', 'fork_from': '--fork-from=x', 'freezed': '--init-from=x --freezed=2',
    'fp32': '--fp32=0',
    'allow_tf32': '--device=cuda --allow-tf32=1',
    'apa': '--apa', 'apa_target': '--apa --apa-target=0.5', 'apa_kimg': '--apa --apa-kimg=9',
    'lecam': '--lecam=0.3', 'lecam_decay': '--lecam=0.3 --lecam-decay=0.9',
    'lecam_start': '--lecam=0.3 --lecam-start=2',
    'ortho': '--ortho=1e-4',
    'insgen': '--insgen', 'insgen_queue': '--insgen --insgen-queue=99',
    'insgen_weight_real': '--insgen --insgen-weight-real=2',
    'insgen_weight_fake': '--insgen --insgen-weight-fake=2',
    'insgen_weight_generator': '--insgen --insgen-weight-generator=2',
    'insgen_temperature': '--insgen --insgen-temperature=2', 'insgen_momentum': '--insgen --insgen-momentum=0.5',
    'insgen_noise': '--insgen --insgen-noise=2',
    'vision_aided': '--vision-aided=demo', 'vision_aided_weight': '--vision-aided=demo --vision-aided-weight=2',
    'vision_aided_warmup': '--vision-aided=demo --vision-aided-warmup=2',
    'vision_aided_policy': '--vision-aided=demo --vision-aided-policy=color',
    'vision_aided_recipe': '--vision-aided=demo --vision-aided-recipe=package',
    'vision_aided_real_label': '--vision-aided=demo --vision-aided-real-label=0.8',
    'chain': '--chain', **{f'chain_{name}': f'--chain --chain-{name}=0.3'
                           for name in ('weight', 'base', 'target', 'step', 'start')},
    'fakeclr': '--fakeclr', 'fakeclr_queue': '--fakeclr --fakeclr-queue=99',
    'fakeclr_weight': '--fakeclr --fakeclr-weight=2',
    'fakeclr_weight_generator': '--fakeclr --fakeclr-weight-generator=2',
    'fakeclr_temperature': '--fakeclr --fakeclr-temperature=2', 'fakeclr_momentum': '--fakeclr --fakeclr-momentum=0.5',
    'fakeclr_noise': '--fakeclr --fakeclr-noise=2',
    'kd': KD, 'kd_preset': f'{KD} --kd-preset=released', 'kd_teacher': f'{KD} --kd-teacher=ViT-B/16',
    'kd_texts': f'{KD} --kd-texts=dog',
    **{f'kd_weight_{name}': f'--kd={name} --kd-weight-{name}=7' for name in DISTILLERS},
    'kd_weight_pd': f'{KD} --kd-weight-pd=7', 'kd_weight_anchor': f'{KD} --kd-pd=adapter --kd-weight-anchor=7',
    'kd_p': f'{KD} --kd-p=0.1',
    'kd_distance': f'{KD} --kd-distance=l2', 'kd_reduction': f'{KD} --kd-reduction=sum',
    'kd_samples': f'{KD} --kd-samples=both',
    'kd_head': f'{KD} --kd-head=released', 'kd_view': f'{KD} --kd-view=augmented', 'kd_input': f'{KD} --kd-input=raw',
    'kd_center': f'{KD} --kd-texts=dog --kd-center=1', 'kd_temperature': '--kd=labeldist --kd-temperature=2',
    'kd_head_lr': f'{KD} --kd-head-lr=2', 'kd_target_norm': f'{KD} --kd-target-norm=centred',
    'kd_share': f'{KD} --kd-share=0.3', 'kd_adapt': f'{KD} --kd-adapt=0.6',
    'kd_decay': f'{KD} --kd-decay=9', 'kd_decay_to': f'{KD} --kd-decay=9 --kd-decay-to=0.5',
    'kd_pd': f'{KD} --kd-pd=generator', 'kd_warmup': f'{KD} --kd-warmup=2',
}
WATCHES = {
    'snap': '--snap=3', 'snapshot_networks': '--snapshot-networks=all', 'snapshot_keep': '--snapshot-keep=last=2',
    'tick': '--tick=2',
    'metrics': '--metrics=none', 'metric_data': '--metric-data=DATA', 'detector': '--detector=x',
    'metric_teacher': '--metrics=featfid5k_full --metric-teacher=demo',
    'health': '--health=0',
    'early_stop': '--early-stop=metric=fid50k_full,patience=5', 'max_bad_steps': '--max-bad-steps=7',
    'on_bad_steps': '--on-bad-steps=stop',
    'batch_gpu': '--batch-gpu=8', 'nhwc': '--nhwc=0', 'compile': '--compile=1',
    'nobench': '--device=cuda --nobench=1',
    'workers': '--workers=0',
}
ELSEWHERE = {'data', 'cfg', 'outdir', 'new_run', 'dry_run', 'gpus', 'device', 'cuda_graphs'}     # other tests, or a GPU


def built(data, args=''):
    return train.build_config(parse_options('--outdir=x', f'--data={data}', '--device=cpu',
                                            *args.replace('DATA', data).split()))


def test_every_option_is_in_the_name_or_named_as_one_that_is_not():
    names = {param.name for param in train.main.params if param.expose_value}
    assert names == set(NAMED) | UNNAMED and set(WATCHES) | ELSEWHERE == UNNAMED


def test_the_name_differs_where_the_training_does(tiny_data, monkeypatch):
    """Each option against the same command without it, which has its own name too; all names are different."""
    monkeypatch.setattr(devices, 'cpu_has_bfloat16', lambda: False)        # so that --fp32=0 departs everywhere
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)            # for options of a GPU
    names = {}
    for option, args in NAMED.items():
        (config, names[option]), (plain, base) = built(tiny_data, args), built(tiny_data, args.rpartition(' ')[0])
        assert names[option] != base and (option == 'kimg' or run_changes.differences(plain, config)), option
    assert len(set(names.values())) == len(names)
    assert {built(tiny_data, args)[1] for args in WATCHES.values()} == {'tiny-auto1'}


def test_what_departs_from_nothing_is_not_in_the_name(tiny_data):
    assert built(tiny_data, '--seed=0 --cond=0')[1] == 'tiny-auto1'
    assert built(tiny_data, '--cfg=low-shot --mirror=0 --fp32=1')[1] == 'tiny-nomirror-low-shot-fp32'


def test_no_word_stands_twice(tiny_data):
    """The length of the run, and the thousands of images in which p grows."""
    name = built(tiny_data, '--kimg=100 --aug=linear --p=0.2 --p-kimg=50')[1]
    assert name == 'tiny-auto1-kimg100-linear-p0.2-p-kimg50'


def under_way(folder, config):
    folder.mkdir(parents=True)
    (folder / OPTIONS_FILE).write_text(json.dumps(config))
    checkpoint.save(str(folder / STATE_FILE), 'training-state', {}, dict(cur_nimg=1000))


def test_two_weights_are_two_runs_and_each_command_continues_its_own(tiny_data, tmp_path):
    commands = [f'{KD} --kd-weight-agkd={weight}' for weight in ('1', '0.25')]
    for number, args in enumerate(commands):
        config, name = built(tiny_data, args)
        path = tmp_path / f'0000{number}-{name}'
        assert find_run(str(tmp_path), config, name, False) == (str(path), 'new')
        under_way(path, config)
    for number, args in enumerate(commands):
        config, name = built(tiny_data, args)
        assert find_run(str(tmp_path), config, name, False) == (str(tmp_path / f'0000{number}-{name}'), 'continue')


def test_runs_that_were_named_otherwise_are_found(tiny_data, tmp_path):
    under_way(tmp_path / '00000-tiny-auto1-kd-agkd-cgkd', built(tiny_data, f'{KD} --kd-p=0.1 --seed=2')[0])
    config, name = built(tiny_data, f'{KD} --kd-p=0.1 --seed=2')
    assert find_run(str(tmp_path), config, name, False) == (str(tmp_path / '00000-tiny-auto1-kd-agkd-cgkd'), 'continue')


def test_what_configurations_did_not_name_is_what_runs_were_trained_with(tiny_data, tmp_path):
    """Options files of before the intervals, the steps of D and ADA's speed were in them."""
    new = ('G_reg_interval', 'D_reg_interval', 'D_steps', 'ada_interval', 'ada_kimg', 'augment_p', 'terms', 'fork_from',
           'batch_gpu_auto')
    before = {key: value for key, value in built(tiny_data)[0].items() if key not in new}
    under_way(tmp_path / '00000-tiny-auto1', before)
    config, name = built(tiny_data)
    assert find_run(str(tmp_path), config, name, False) == (str(tmp_path / '00000-tiny-auto1'), 'continue')
    assert run_changes.differences(before, EasyDict(config, D_reg_interval=8)) == ['D_reg_interval=16, now 8']
    assert run_changes.differences(before, EasyDict(config, D_steps=4)) == ['D_steps=1, now 4']
    with pytest.raises(UserError, match='ada_kimg=500, now 100'):
        find_run(str(tmp_path), EasyDict(config, ada_kimg=100), name, False)
    low_shot = built(tiny_data, '--cfg=low-shot')[0]
    assert run_changes.differences(dict(low_shot, ada_interval=4), low_shot) == []
    assert run_changes.differences(dict(before, G_reg_interval=None), config) == ['G_reg_interval=None, now 4']


def test_a_name_that_is_too_long_is_cut_and_stays_its_own(tiny_data):
    several = f'{KD} --seed=12345 ' + ' '.join(f'--kd-{option}' for option in (
        'distance=l2', 'reduction=sum', 'samples=both', 'head=released', 'view=augmented', 'input=raw', 'warmup=2.5'))
    names = [built(tiny_data, f'{several} --lecam={weight} --insgen --apa')[1] for weight in (0.1, 0.2, 0.1)]
    assert names[0] == names[2] != names[1] and all(len(name.encode()) <= MAX_BYTES for name in names)
    assert names[0].startswith('tiny-auto1-seed12345-apa-lecam0.1-insgen-kd-agkd-cgkd-distance-l2')
    opts = EasyDict(cfg='auto')
    long, other = [run_name(text, [], opts, 1) for text in ('ж' * 100, 'ж' * 101)]
    assert long != other and len(long.encode()) <= MAX_BYTES and long.startswith('ж' * 55 + '-')
    assert run_name('ж' * 100, [], opts, 8) == long                     # the number of processes is no other run
    assert run_name('a:b?\n*c', [], opts, 1) == 'a-b-c-auto1'


def test_files_are_told_by_their_last_name_and_told_apart(tiny_data, tmp_path):
    """No name of a folder gets into what may be published."""
    paths = [tmp_path / folder / 'teacher.safetensors' for folder in ('patients', 'others')]
    for path in paths:
        path.parent.mkdir()
        path.touch()
    names = [built(tiny_data, f'{KD} --kd-teacher={path}')[1] for path in paths]
    known = 'tiny-auto1-kd-agkd-cgkd-teacher-teacher.safetensors-'
    assert names[0] != names[1] and all(name.startswith(known) for name in names)
    assert not any(word in name for name in names for word in ('patients', 'others', tmp_path.name))
    several = built(tiny_data, f'--vision-aided=demo,{paths[0]}')[1]
    assert several == f'tiny-auto1-vision-aided-demo-{names[0].partition("-teacher-")[2]}'
    secret = built(tiny_data, '--init-from=https://me:word@host/a/net.pkl?key=1')[1]
    assert secret.startswith('tiny-auto1-init-net.pkl-')
    assert not any(word in secret for word in ('me', 'word', 'key', 'host'))
    assert built(tiny_data, f'{KD} --kd-teacher=ViT-B/16')[1] == 'tiny-auto1-kd-agkd-cgkd-teacher-ViT-B-16'


def test_an_augmentation_brings_its_own_options(monkeypatch):
    """A new row is everything: --help, the configuration, refusals and the name follow from it."""
    toy = Augmentation(dict(toy_strength=dict(type=float, help='How much')), lambda opts: dict(augment_kwargs=dict(
        class_name='toy.Toy', strength=1 if opts.toy_strength is None else opts.toy_strength)))
    monkeypatch.setitem(augmentations.AUGMENTATIONS, 'toy', toy)
    command = click.command()(augmentation_options(lambda **opts: None))

    def parse(*args):
        opts, config = EasyDict(command.make_context('x', list(args)).params, cfg='demo', init_from=None), EasyDict()
        add_augmentation(config, opts, PRESETS['demo'])
        return config, run_name('data', command.params, opts, 1)
    config, name = parse('--aug=toy', '--toy-strength=2')
    assert config == dict(augment_kwargs=dict(class_name='toy.Toy', strength=2.0), augment_p=None,
                          augment_ramp_kimg=None,
                          ada_target=None, ada_interval=4, ada_kimg=500)
    assert name == 'data-demo-toy-toy-strength2' and parse('--aug=toy')[1] == 'data-demo-toy'
    with pytest.raises(UserError, match='--toy-strength=2.0: has no effect with --aug=ada; it goes with --aug=toy'):
        parse('--toy-strength=2')
    assert 'How much' in command.get_help(click.Context(command))
