"""Another architecture, through the table alone: it trains, continues, is saved, read, used, measured and exported."""

import inspect
import json
import os

import numpy as np
import PIL.Image
import pytest
import torch
import toy_architecture as toy
from conftest import parse_options, run_cli
from resuming import make_run
from resuming import run as run_training
from toy_detectors import save_teacher

import calc_metrics
import export
import generate
import legacy
import projector
import style_mixing
import train
from dnnlib import UserError
from dnnlib.util import get_obj_by_name
from inference import export_files
from torch_utils import checkpoint
from training import model_files
from training.config import presets
from training.networks import architectures
from training.networks.interface import ABILITIES
from training.run import card
from training.run.files import STATE_FILE
from training.snapshots import files as snapshots

ITERATIONS = 8
D_STEPS = 2
NO_W = 'this generator has no latents w to choose, to mix or to walk through'
TORCHSCRIPT = ['--network={network}', '--format=torchscript', '--dest={dest}.pt']


@pytest.fixture(scope='module')
def table():
    """The table with the toy in it, and --cfg=demo as a preset of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(architectures.ARCHITECTURES, 'toy', toy.ARCHITECTURE)
        row = presets.PRESETS['demo']._replace(
            architecture='toy', z_dim=8, G_kwargs=dict(channels=12), D_steps=D_STEPS, G_opt=dict(lr=0.004),
            D_opt=dict(betas=[0, 0.999], eps=1e-6), loss_kwargs=dict(gan_loss='hinge'), lazy_regularization=False)
        patch.setitem(presets.PRESETS, 'demo', row)
        yield


def options(data, *args):
    return ['--outdir=x', f'--data={data}', '--cfg=demo', '--device=cpu', '--metrics=none', '--workers=0', '--batch=4',
            '--cond=1', '--snap=1', '--tick=0.016', f'--kimg={ITERATIONS * 4 / 1000}', '--health=0',
            '--snapshot-networks=all', *args]


def make_config(data, *args):
    config, _name = train.build_config(parse_options(*options(data, *args)))
    config.grid_images = 4
    return config


@pytest.fixture(scope='module')
def trained(table, tiny_data, tmp_path_factory):
    """-> `Run` at its end, path of its snapshot."""
    run_dir = tmp_path_factory.mktemp('toy') / 'run'
    job = run_training(make_config(tiny_data), run_dir)
    return job, str(run_dir / 'network-snapshot-000000.032.safetensors')


@pytest.fixture
def network(trained):
    return trained[1]


def test_the_preset_says_how_it_is_trained(table, tiny_data):
    config = make_config(tiny_data)
    adam = dict(class_name='torch.optim.Adam', lr=0.007, betas=[0, 0.99], eps=1e-8)
    assert config.G_kwargs == dict(class_name=toy.G, z_dim=8, channels=12) and config.D_kwargs == dict(class_name=toy.D)
    assert config.G_opt_kwargs == dict(adam, lr=0.004) and config.D_opt_kwargs == dict(adam, betas=[0, 0.999], eps=1e-6)
    assert config.loss_kwargs == dict(class_name='training.loss.StyleGAN2Loss', r1_gamma=0.05, style_mixing_prob=0,
                                      pl_weight=0, gan_loss='hinge')
    assert config.D_steps == D_STEPS and config.fp32 is True


def test_a_run_in_parts_is_the_whole_run(trained, tiny_data, tmp_path):
    config = make_config(tiny_data)
    run_training(config, tmp_path, save_at=3, die_at=4)
    run_training(config, tmp_path)
    states = [os.path.join(path, STATE_FILE) for path in (trained[0].run_dir, tmp_path)]
    whole, parts = [checkpoint.load(path, 'training-state')[0] for path in states]
    assert whole.keys() == parts.keys() and 'G_ema.norm.running_mean' in whole
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def test_g_takes_one_step_for_so_many_of_d(table, tiny_data, tmp_path):
    """With a gain of 1. The average moves with each step of G, by the images since the last."""
    training = make_run(make_config(tiny_data), tmp_path).training
    gains = []
    accumulate = training.loss.accumulate_gradients

    def noted(phase, gain, **kwargs):
        gains.append((phase, gain))
        accumulate(phase=phase, gain=gain, **kwargs)
    training.loss.accumulate_gradients = noted
    training.ema.half_life_nimg, training.ema.rampup = 10, None
    average, steps = training.G_ema.conv.weight.clone(), []
    for i in range(4):
        weights = training.G.conv.weight, training.D.out.weight
        before = [weight.clone() for weight in weights]
        training.step()
        steps.append([not torch.equal(*pair) for pair in zip(before, weights, strict=True)])
        if i % D_STEPS == 0:
            average.lerp_(training.G.conv.weight, 1 - 0.5 ** (4 * D_STEPS / 10))
        torch.testing.assert_close(training.G_ema.conv.weight, average)
    assert steps == [[True, True], [False, True], [True, True], [False, True]]
    assert gains == [('Gboth', 1), ('Dboth', 1), ('Dboth', 1)] * 2


def test_a_snapshot_gives_back_the_average(trained):
    job, network = trained
    G = model_files.load_generator(network, 'cpu')
    z, c = torch.randn(3, 8), torch.eye(2)[[0, 1, 0]]
    state = job.training.G_ema.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in G.state_dict().items())
    with torch.no_grad():                   # memory formats differ, and with them the rounding on some processors
        torch.testing.assert_close(G(z, c), job.training.G_ema(z, c), rtol=1e-6, atol=1e-6)
        assert G(z, c).std() > 0
    assert set(snapshots.load_networks(network).networks) == {'G', 'D', 'G_ema'} and not G.norm.running_mean.eq(0).any()


def test_changed_weights_are_saved_again(network, tmp_path):
    G = model_files.load_generator(network, 'cpu')
    G.conv.bias.data.add_(1)
    for like in (None, snapshots.load_networks(network)):
        model_files.save_generator(str(tmp_path / 'a.safetensors'), G, like)
        assert torch.equal(model_files.load_generator(str(tmp_path / 'a.safetensors'), 'cpu').conv.bias, G.conv.bias)


def test_images_of_seeds(network, tmp_path):
    args = [f'--network={network}', f'--outdir={tmp_path}', '--device=cpu', '--seeds=3,4', '--class=1']
    assert run_cli(generate.main, *args)[0] == 0
    G = model_files.load_generator(network, 'cpu')
    for seed in (3, 4):
        z = torch.from_numpy(np.random.RandomState(seed).randn(1, 8)).float()
        want = (G(z, torch.eye(2)[[1]]) * 127.5 + 128).clamp(0, 255).to(torch.uint8)[0].permute(1, 2, 0).numpy()
        assert np.array_equal(np.asarray(PIL.Image.open(tmp_path / f'seed{seed:04d}.png')), want)


def test_a_walk_in_z(network, tmp_path):
    args = [f'--network={network}', f'--outdir={tmp_path}', '--device=cpu', '--seeds=0,1', '--steps=2', '--frames',
            '--interpolation=linear']
    assert run_cli(generate.main, 'video', *args, '--space=z')[0] == 0
    assert len(list(tmp_path.glob('*.png'))) == 4
    code, output = run_cli(generate.main, 'video', *args)
    assert code == 1 and f'Error: --space=w: {NO_W}; use --space=z' in output


def test_it_is_measured(network, tiny_data, tmp_path):
    teacher = save_teacher(tmp_path / 'teacher.safetensors')
    code, output = run_cli(calc_metrics.main, f'--network={network}', '--metrics=featfid8_full', f'--teacher={teacher}',
                           '--device=cpu', '--workers=0', '--bootstrap=0', f'--outdir={tmp_path}', f'--ref={tiny_data}')
    assert code == 0, output
    record = json.loads((tmp_path / 'metric-featfid8_full.jsonl').read_text())
    assert 0 < record['value'] < 4 and record['generated']['images'] == 8       # features of length 1: at most 4


@pytest.mark.parametrize('format, extension', [('torchscript', 'pt'), ('safetensors', 'safetensors')])
def test_it_is_exported(network, tmp_path, format, extension):
    dest = tmp_path / f'toy.{extension}'
    code, output = run_cli(export.main, f'--network={network}', f'--format={format}', f'--dest={dest}')
    assert code == 0, output
    G = model_files.load_generator(network, 'cpu')
    z, c = torch.randn(5, 8), torch.eye(2)[[0, 1, 1, 0, 1]]
    if format == 'safetensors':
        return torch.testing.assert_close(model_files.load_generator(str(dest), 'cpu')(z, c), G(z, c))
    files = {'metadata.json': ''}
    with export_files._recording():
        torch.testing.assert_close(torch.jit.load(dest, _extra_files=files)(z, c), G(z, c))
    assert list(json.loads(files['metadata.json'])['inputs']) == ['z', 'c']


@pytest.mark.parametrize('command, args, message', [
    (generate.main, ['--trunc=0.5'],
     '--trunc=0.5: this generator keeps no average of w to draw towards; use --trunc=1'),
    (generate.main, ['--noise-mode=none'],
     '--noise-mode=none: this generator has no noise in its layers; leave --noise-mode out'),
    (generate.main, ['--projected-w=x.npz'], f'--projected-w=x.npz: {NO_W}; leave it out'),
    (calc_metrics.main, ['--metrics=ppl_wend8'], f'--metrics=ppl_wend8: {NO_W}; leave it out of --metrics'),
    (style_mixing.main, [],
     'this generator has no layers that take styles of their own; use a network of StyleGAN2-ADA'),
    (projector.main, ['--target=x.png'],
     'this generator has no latents w to search in; use a network of StyleGAN2-ADA')])
def test_what_it_cannot_do_is_refused_in_one_line(network, tmp_path, command, args, message):
    code, output = run_cli(command, f'--network={network}', f'--outdir={tmp_path / "out"}', '--device=cpu', *args)
    assert code == 1 and message in output and output.count('\n') <= 1
    assert not list(tmp_path.glob('out/*'))


@pytest.mark.parametrize('command, args, message', [
    (export.main, [*TORCHSCRIPT, '--input=w'], f'--input=w: {NO_W}; use --input=z'),
    (export.main, [*TORCHSCRIPT, '--noise-mode=none'], '--noise-mode=none: this generator has no noise in its layers'),
    (legacy.main, ['--source={network}', '--dest={dest}.pkl'],
     'a network of toy: the pickles of StyleGAN2-ADA know no such network')])
def test_files_that_it_cannot_become(network, tmp_path, command, args, message):
    code, output = run_cli(command, *[arg.format(network=network, dest=tmp_path / 'a') for arg in args])
    assert code == 1 and message in output and output.count('\n') <= 1 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('args, message', [
    (['--batch-gpu=2'],
     '--batch-gpu=2: the networks of --cfg=demo normalise over the whole batch of 4; leave --batch-gpu out'),
    (['--freezed=1', '--init-from=demo'], '--freezed=1: this discriminator cannot keep its first layers; leave it out'),
    (['--chain'],
     '--chain: the blocks of this discriminator do not name the convolutions that CHAIN normalises; leave it out'),
    (['--apa'], '--apa: shows D the fakes of the G step that comes first in an iteration, and --cfg=demo takes one in '
                '2 iterations; leave it out'),
    (['--fp32=0'], '--fp32=0: the networks of --cfg=demo compute in float32; leave it out'),
    (['--metrics=ppl_wfull8'], f'--metrics=ppl_wfull8: {NO_W}; leave it out of --metrics')])
def test_what_it_cannot_be_trained_with(table, tiny_data, args, message):
    with pytest.raises(UserError) as err:
        make_config(tiny_data, *args)
    assert str(err.value) == message


def test_its_model_card(network):
    text = card.make_card(network)
    assert '"toy-gan"' in text and 'stylegan2-ada' not in text and 'truncation_psi=' not in text
    assert 'A toy generator, class-conditional, 16x16 RGB' in text and '| precision | float32 |' in text
    assert '| learning rate | 0.004, of the discriminator 0.007 |' in text


def test_a_file_of_an_architecture_that_is_not_there(network, tmp_path, monkeypatch):
    monkeypatch.delitem(architectures.ARCHITECTURES, 'toy')
    for read in (snapshots.load_networks, card.make_card):
        with pytest.raises(UserError) as err:
            read(network)
        text = str(err.value)
        assert f"unknown architecture: it asks for the class '{toy.G}'; only training.networks.Generator and" in text
        assert text.startswith(network) and 'damaged' not in text
    code, output = run_cli(legacy.main, f'--source={network}', f'--dest={tmp_path / "a.pkl"}')
    assert code == 1 and 'unknown architecture' in output and 'damaged' not in output


@pytest.mark.parametrize('changes, message', [
    (dict(class_name='torch.nn.Identity'), "unknown architecture: .*'torch.nn.Identity'"),
    (dict(channels=65), 'the argument channels=65')])
def test_networks_that_no_snapshot_could_hold_are_not_trained(table, tiny_data, tmp_path, changes, message):
    config = make_config(tiny_data)
    config.G_kwargs.update(changes)
    with pytest.raises(UserError, match=f'^G_kwargs: snapshots could not be read: .*{message}'):
        make_run(config, tmp_path)


def test_rows_name_all_arguments_of_their_classes(table):
    for row in architectures.ARCHITECTURES.values():
        assert row.abilities <= set(ABILITIES)
        for name in (row.G, row.D):
            assert set(row.arguments[name]) == set(inspect.signature(get_obj_by_name(name)).parameters)


def test_presets_ask_of_their_architecture_what_it_can_do():
    for name, preset in presets.PRESETS.items():
        abilities = architectures.ARCHITECTURES[preset.architecture].abilities
        assert preset.loss_kwargs.get('pl_weight', 0) == 0 or 'path_length' in abilities, name
        assert preset.loss_kwargs.get('style_mixing_prob', 0) == 0 or 'style_mixing' in abilities, name
