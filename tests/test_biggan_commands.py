"""BigGAN through the command lines: images by class, metrics with their statistics of batch norm, files, refusals."""

import copy
import json

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import parse_options, run_cli
from measuring import make_data
from toy_detectors import save_teacher

import calc_metrics
import export
import generate
import legacy
import projector
import style_mixing
import train
from dnnlib import UserError, metric_records
from metrics import draws, metric_utils, sampling
from metrics.metric_utils import MetricOptions
from torch_utils.seeds import number_of
from training import model_files
from training.launch import launch
from training.networks.biggan import Generator

FEW = ['--device=cpu', '--metrics=none', '--workers=0', '--health=0']


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    """Twelve 32x32 pictures in three classes."""
    path = tmp_path_factory.mktemp('data') / 'three.zip'
    make_data(path, size=32)
    return str(path)


@pytest.fixture(scope='module')
def network(pictures, tmp_path_factory):
    """A snapshot of a run of two steps of G."""
    run_dir = tmp_path_factory.mktemp('run')
    config = build(pictures, '--cbase=4', '--batch=4', '--kimg=0.032', '--tick=0.032', '--snap=1')
    config.grid_images = 9
    launch(config, str(run_dir / 'run'))
    return str(run_dir / 'run' / 'network-snapshot-000000.032.safetensors')


def build(data, *args):
    options = parse_options('--outdir=x', f'--data={data}', '--cfg=biggan-cifar', *FEW, *args)
    return train.build_config(options)[0]


def test_images_of_a_class(network, tmp_path):
    """By its name; a grid has a class in each row."""
    G = model_files.load_generator(network, 'cpu')
    args = [f'--network={network}', f'--outdir={tmp_path}', '--device=cpu', '--batch=2']
    assert run_cli(generate.main, *args, '--seeds=3-5', '--class=class1')[0] == 0
    image = lambda seed, k: (G(torch.from_numpy(np.random.RandomState(seed).randn(1, 128)).float(), torch.eye(3)[[k]])
                             * 127.5 + 128).clamp(0, 255).to(torch.uint8)[0].permute(1, 2, 0).numpy()
    for seed in (3, 4, 5):
        assert np.array_equal(np.asarray(PIL.Image.open(tmp_path / f'seed{seed:04d}.png')), image(seed, 1))
    assert run_cli(generate.main, *args, '--grid=2x3', '--labels=0')[0] == 0
    grid = np.asarray(PIL.Image.open(tmp_path / 'grid.png'))
    assert np.array_equal(grid[64:, 32:], image(5, 2)) and grid.shape == (96, 64, 3)


def options(G, **kwargs):
    return sampling.prepared(MetricOptions(G, None, None, torch.device('cpu'), seed=5, uniform_labels=True, **kwargs))


@pytest.fixture
def G():
    torch.manual_seed(0)
    G = Generator(z_dim=6, c_dim=3, img_resolution=32, img_channels=3, channels=2)
    with torch.no_grad():
        G(torch.randn(20, 6) * 3, torch.eye(3)[torch.arange(20) % 3])
    return G.eval()


def test_each_batch_of_50_by_its_own_statistics(G):
    """An image is the same in whatever batches it is asked for; nothing in the network changes."""
    before, opts = copy.deepcopy(G.state_dict()), options(G, batch_norm='batch', batch_size=120)
    assert opts.batch_size == 100 and options(G, batch_norm='batch', batch_size=8).batch_size == 50
    got = metric_utils.generate_batch(opts, range(100))
    for items in (range(50), range(50, 100)):
        z, c = draws.latents(opts, items), draws.labels(opts, items)
        single = copy.deepcopy(G).train()                               # the statistics of a pass in training mode
        torch.testing.assert_close(got[items.start:items.stop], single(z, c), rtol=0, atol=1e-5)
    assert torch.equal(metric_utils.generate_batch(opts, range(47, 53)), got[47:53])
    assert torch.equal(metric_utils.generate_batch(opts, range(60, 61)), got[60:61])
    assert all(torch.equal(value, before[name]) for name, value in G.state_dict().items())
    assert (metric_utils.generate_batch(options(G), range(50)) - got[:50]).abs().max() > 0.01


def test_standing_statistics_are_those_of_a_copy(G):
    """Means over 16 batches of 50, which are the same for every process."""
    before, opts = copy.deepcopy(G.state_dict()), options(G, batch_norm='standing')
    by_hand, norm = copy.deepcopy(G).train(), []
    by_hand.blocks[0][0].bn1.use = lambda mean, var, count: norm.append((mean, var))
    with torch.no_grad():
        for i in range(16):
            items = range(50 * i, 50 * i + 50)
            by_hand(draws.latents(opts, items, 'standing latents'), draws.labels(opts, items, 'standing labels'))
    layer = opts.G.blocks[0][0].bn1
    torch.testing.assert_close(layer.stored_mean, sum(mean for mean, _var in norm) / 16)
    torch.testing.assert_close(layer.stored_var, sum(var for _mean, var in norm) / 16)
    assert len(norm) == 16 and not opts.G.training
    assert all(torch.equal(value, before[name]) for name, value in G.state_dict().items())


def test_uniform_labels(G):
    """All classes as often as each other, by the number of the image: that of its block of 64 draws."""
    labels = draws.labels(options(G), range(600))
    assert (labels.sum(dim=1) == 1).all() and (labels.mean(dim=0) - 1 / 3).abs().max() < 4 * (2 / 9 / 600) ** 0.5
    assert torch.equal(draws.labels(options(G), range(100, 130)), labels[100:130])
    first = np.random.RandomState(number_of(5, 0, 'labels', num_bytes=4)).randint(3, size=64)
    assert torch.equal(labels[:64].argmax(dim=1), torch.from_numpy(first))


def test_measuring(network, pictures, tmp_path):
    """As the preset says, and by the other statistics: records that are not compared with each other."""
    teacher = save_teacher(tmp_path / 'teacher.safetensors')

    def measure(*args):
        code, output = run_cli(calc_metrics.main, f'--network={network}', '--metrics=featfid60_full', '--device=cpu',
                               f'--teacher={teacher}', '--workers=0', '--bootstrap=0', f'--outdir={tmp_path}',
                               f'--ref={pictures}', *args)
        assert code == 0, output
        record = json.loads((tmp_path / 'metric-featfid60_full.jsonl').read_text().splitlines()[-1])
        return record, output
    records = []
    uniform = 'uniform over the classes'
    for args, norm, labels in [([], 'each batch of 50 by its own', uniform),
                               (['--bn=running', '--labels=data'], 'running averages', 'drawn from the data set'),
                               (['--bn=standing'], 'means over 16 batches of 50', uniform)]:
        record, output = measure(*args)
        assert (record['generated']['batch_norm'], record['generated']['labels']) == (norm, labels)
        assert (f', batch norm: {norm}' in output) == ('--bn=running' not in args)
        assert not any(metric_records.comparable(record, records)[0])
        records.append(record)
    assert len({record['value'] for record in records}) == 3


def test_what_the_training_measured_by_is_the_default(pictures):
    config = build(pictures, '--metrics=is1000')
    assert config.metric_kwargs['batch_norm'] == 'batch' and config.metric_kwargs['uniform_labels'] is True
    unconditional = build(pictures, '--cond=0')
    assert unconditional.metric_kwargs['batch_norm'] == 'batch'
    G = Generator(z_dim=2, c_dim=3, img_resolution=32, img_channels=3, channels=1)
    info = dict(training=dict(options=dict(config)))
    assert calc_metrics.choose_sampling(None, None, G, info, ['is10']) == ('batch', True)
    assert calc_metrics.choose_sampling('running', 'data', G, info, ['is10']) == ('running', False)
    assert calc_metrics.choose_sampling(None, None, G, dict(training={}), ['is10']) == (None, False)


@pytest.mark.parametrize('format, extension', [('torchscript', 'pt'), ('safetensors', 'safetensors'),
                                               ('onnx', 'onnx')])
def test_it_is_exported(tmp_path, format, extension):
    """With attention and parts of z for each block; the command compares the file with the network."""
    if format == 'onnx':
        pytest.importorskip('onnxruntime')
    G = Generator(z_dim=10, c_dim=3, img_resolution=64, img_channels=3, channels=2, shared_dim=4, hier=True,
                  attention=32)
    torch.nn.init.ones_(G.blocks[2][1].gamma)
    model_files.save_generator(f'{tmp_path}/x.safetensors', G.eval())
    args = f'--network={tmp_path}/x.safetensors', f'--format={format}', f'--dest={tmp_path}/y.{extension}'
    code, output = run_cli(export.main, *args)
    assert code == 0 and 'differ from those of the network by at most' in output, output


@pytest.mark.parametrize('command, args, message', [
    (generate.main, ['--trunc=0.5'], '--trunc=0.5: this generator keeps no average of w to draw towards'),
    (generate.main, ['--class=7'], '--class=7: must be a number from 0 to 2 or one of class0, class1, class2'),
    (style_mixing.main, [], 'this generator has no layers that take styles of their own'),
    (projector.main, ['--target=x.png'], 'this generator has no latents w to search in'),
    (calc_metrics.main, ['--metrics=ppl_wend8'], '--metrics=ppl_wend8: this generator has no latents w'),
    (calc_metrics.main, ['--metrics=ppl_zend8', '--bn=batch'],
     '--bn=batch: ppl_zend8 compares an image with the same image, a little changed')])
def test_what_it_cannot_do_is_refused_in_one_line(network, tmp_path, command, args, message):
    code, output = run_cli(command, f'--network={network}', f'--outdir={tmp_path}', '--device=cpu', *args)
    assert code == 1 and message in output and output.count('\n') <= 1


def test_no_pickle_and_no_batch_norm_elsewhere(network, tmp_path):
    code, output = run_cli(legacy.main, f'--source={network}', f'--dest={tmp_path}/x.pkl')
    assert code == 1 and 'a network of BigGAN: the pickles of StyleGAN2-ADA know no such network' in output
    code, output = run_cli(calc_metrics.main, '--network=demo', '--metrics=is10', '--bn=batch')
    assert code == 1 and '--bn=batch: this generator has no batch norm whose statistics could be chosen' in output
    said = lambda word: dict(training=dict(options=dict(metric_kwargs=dict(batch_norm=word))))
    for G, word in ((model_files.load_generator(network, 'cpu'), 'mood'),
                    (model_files.load_generator('demo', 'cpu'), 'batch')):
        with pytest.raises(UserError, match=f"measured with batch norm by '{word}', which this network does not have"):
            calc_metrics.choose_sampling(None, None, G, said(word), ['is10'])
    G = model_files.load_generator(network, 'cpu')
    assert calc_metrics.choose_sampling('batch', None, G, said('mood'), ['is10']) == ('batch', False)


@pytest.mark.parametrize('args, message', [
    (['--batch=50', '--gpus=4'], '--batch=50: cannot be split evenly over 4 processes; use --batch=52'),
    (['--batch-gpu=25'],
     '--batch-gpu=25: the networks of --cfg=biggan-cifar normalise over the whole batch of 50; leave --batch-gpu out'),
    (['--batch-gpu=7'],
     '--batch-gpu=7: the networks of --cfg=biggan-cifar normalise over the whole batch of 50; leave --batch-gpu out'),
    (['--gpus=4', '--batch-gpu=7'], '--batch=50 (the default of --cfg=biggan-cifar): cannot be split evenly over 4 '
                                    'processes; use --batch=52 and leave --batch-gpu out'),
    (['--gamma=1'], '--gamma=1: R1 needs a pass of D over reals alone, and --cfg=biggan-cifar has one over fakes and '
                    'reals; leave it out'),
    (['--freezed=2', '--init-from=demo'],
     '--freezed=2: this discriminator cannot keep its first layers; leave it out'),
    (['--cfg=biggan-imagenet64'], '--cfg=biggan-imagenet64: is for images of 64x64, those of {data} are 32x32; rebuild '
     'it with dataset_tool.py --width=64 --height=64, or use --cfg=biggan-cifar'),
    (['--metrics=ppl_zend8'], '--cfg=biggan-cifar: ppl_zend8 compares an image with the same image, a little changed, '
     'and with these statistics both depend on the others of their batch; measure it with calc_metrics.py '
     '--bn=running'),
    (['--cfg=cifar', '--bn-sync=1'],
     '--bn-sync=1: this generator has no batch norm whose statistics could be chosen; leave it out'),
    (['--cfg=cifar', '--cbase=16'], '--cbase=16: leaves no channel at 32 pixels; use --cbase=32 or more')])
def test_what_it_cannot_be_trained_with(args, message, pictures):
    with pytest.raises(UserError) as err:
        build(pictures, *args)
    assert str(err.value) == message.format(data=pictures)


def test_attention_needs_channels(tmp_path):
    make_data(tmp_path / 'x.zip', size=64)
    with pytest.raises(UserError, match='--cbase=4: the attention of --cfg=biggan-imagenet64 needs at least --cbase=8'):
        build(tmp_path / 'x.zip', '--cfg=biggan-imagenet64', '--cbase=4')


def test_data_without_labels(tmp_path):
    PIL.Image.new('RGB', (32, 32)).save(tmp_path / 'x.png')
    with pytest.raises(UserError, match='--cfg=biggan-cifar: trains a conditional network; .* or use --cond=0$'):
        build(tmp_path)
    assert build(tmp_path, '--cond=0').training_set_kwargs['use_labels'] is False
    with pytest.raises(UserError, match='leave out --cond$'):
        build(tmp_path, '--cfg=cifar', '--cond=1')
    (tmp_path / 'dataset.json').write_text(json.dumps(dict(labels=[['x.png', [0.5, 1.5]]])))
    with pytest.raises(UserError, match='the labels of .* are vectors'):
        build(tmp_path)


def test_several_processes_are_told_of_their_statistics(pictures, capsys):
    assert build(pictures, '--gpus=2').G_kwargs.get('bn_sync') is None
    assert 'each process has the statistics of its own 25 images; --bn-sync=1' in capsys.readouterr().out
    assert build(pictures, '--gpus=2', '--bn-sync=1').G_kwargs['bn_sync'] is True
    assert 'statistics' not in capsys.readouterr().out
