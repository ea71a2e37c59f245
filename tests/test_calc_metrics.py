"""calc_metrics.py and metrics/metric_main.py: names, values with their protocol, where they go, and every refusal."""

import json
import math
import re
import types
import zipfile

import numpy as np
import pytest
import torch
from measuring import NETWORK, PIXELS, ToyClasses, make_data, make_snapshot, picture, run
from toy_detectors import ToyInception, save_script, save_teacher, teacher_kwargs

import calc_metrics
import train
from dnnlib import UserError, files
from inference.trained_on import real_images
from kd_plugin.teacher import load_teacher
from metrics import detectors, metric_main, registry, script_detectors
from metrics.frechet_distance import frechet_distance
from torch_utils import checkpoint
from training.snapshots import files as snapshots


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('KDGAN_CACHE_DIR', str(tmp_path / 'cache'))


@pytest.fixture
def data(tmp_path):
    return make_data(tmp_path / 'photos.zip')


@pytest.fixture
def network(tmp_path, data):
    (tmp_path / 'run').mkdir()
    return make_snapshot(tmp_path / 'run' / 'network-snapshot-000012.safetensors', data)


class Replay(torch.nn.Module):
    """A generator that gives the images of the data set, in order."""
    z_dim, c_dim, img_resolution = 4, 0, 16

    def __init__(self, gain=1.0):
        super().__init__()
        self.gain, self.next = gain, 0
        self.eval()

    def forward(self, z, c, noise_mode):
        imgs = np.stack([picture(self.next + i).transpose(2, 0, 1) for i in range(len(z))])
        self.next += len(z)
        return torch.from_numpy(imgs).to(torch.float32) / 127.5 * self.gain - 1


def calc(data, G, metric='clipfid12_full', **kwargs):
    kwargs = {'teacher_kwargs': PIXELS, 'batch_size': 5, 'num_workers': 0, 'progress': False, **kwargs}
    return metric_main.calc_metric(metric, G, data, 'cpu', **kwargs)


# Names.

@pytest.mark.parametrize('name, num_gen', [('fid50k_full', 50_000), ('fid5k_full', 5000), ('fid500_full', 500),
                                           ('clipfid1k_full', 1000), ('clipfid7_full', 7),
                                           ('fid1000k_full', 1_000_000)])
def test_names(name, num_gen):
    assert metric_main.is_valid_metric(name) and metric_main.find_metric(name)[1] == num_gen


@pytest.mark.parametrize('name', ['', 'none', 'fid', 'fid_full', 'fid50k', 'fid0_full', 'fid0k_full', 'fid05k_full',
                                  'fid-5k_full', 'FID5k_full', 'fid5k_full ', 'xfid5k_full', 'fid5kk_full',
                                  'fid5k_full_'])
def test_names_of_nothing(name):
    assert not metric_main.is_valid_metric(name)
    guess = 'did you mean fid50k_full? Or ' if name == 'fid50k' else ''
    message = f'--metrics={name}: there is no such metric; {guess}use fid<N>_full, featfid<N>_full, '
    with pytest.raises(UserError, match=re.escape(message)):
        metric_main.find_metric(name)


@pytest.mark.parametrize('rest, num_gen', [('fid5k_full', 5000), ('kid7_full', 7), ('pr103_full', 10),
                                           ('memorization20', 20)])
def test_both_names_of_metrics_of_a_teacher(rest, num_gen):
    old, new = metric_main.find_metric(f'clip{rest}'), metric_main.find_metric(f'feat{rest}')
    assert old == new and old[0].needs == 'teacher' and old[1] == num_gen
    assert metric_main.is_valid_metric(f'clip{rest}') and not metric_main.is_valid_metric(f'clipfeat{rest}')


def test_the_best_under_either_name(tmp_path, data, capsys):
    result = calc(data, Replay(), 'clipfid12_full')
    metric_main.report_metric(result, str(tmp_path), str(tmp_path / 'a.safetensors'), 12)
    newer = dict(result, metric='featfid12_full', value=5.0)
    metric_main.report_metric(newer, str(tmp_path), str(tmp_path / 'b.safetensors'), 24)
    assert 'best of 2 snapshots by the same protocol' in capsys.readouterr().out


def test_a_pattern_belongs_to_one_metric():
    with pytest.raises(ValueError, match="'fid<N>_full' is already registered by metrics.frechet_inception_distance"):
        metric_main.register_metric('fid<N>_full', needs='inception')(lambda opts, num_gen: 0.0)
    assert [line for line in metric_main.list_valid_metrics() if 'fid' in line] == [
        'fid<N>_full (FID of N generated images against all real ones)',
        'featfid<N>_full (the same with the features of a teacher)']


# Values and protocol.

def test_the_data_itself_is_at_distance_zero(data):
    assert abs(calc(data, Replay())['value']) < 1e-6
    reals = np.stack([picture(i)[0, :2].T.flatten() for i in range(12)]) / 127.5 - 1
    fakes = (np.stack([picture(i)[0, :2].T.flatten() for i in range(12)]) * 0.5).round() / 127.5 - 1
    want = frechet_distance(reals.mean(0), np.cov(reals.T), fakes.mean(0), np.cov(fakes.T))
    assert calc(data, Replay(gain=0.5))['value'] == pytest.approx(want, rel=0.01)       # halves are rounded either way


def test_a_value_carries_its_protocol(data):
    result = calc(data, Replay(), seed=3)
    assert json.loads(json.dumps(result)) == result
    content_hash = result['reference'].pop('content_hash')
    assert (len(content_hash) == 64 and result['seconds'] >= 0
            and re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00', result['date']))
    assert (result['metric'], result['better'], result['device'],
            result['torch']) == ('clipfid12_full', 'lower', 'cpu', torch.__version__)
    assert result['detector'] == dict(name='pixels:a', identity='pixels:a float32', num_features=6,
                                      resize='bicubic with antialiasing to 16x16',
                                      input='uint8, clip(127.5 x + 128) cut to whole numbers; one channel '
                                            'repeated to three')
    assert result['reference'] == dict(dataset='photos', images=12, mirrored=False)
    assert result['generated'] == dict(images=12, truncation_psi=1, noise_mode='random', labels='none', seed=3,
                                       batch_size=5)
    assert result['formula'] == dict(covariance='over n-1')


def test_a_generator_in_training_mode_is_refused(data):
    with pytest.raises(ValueError, match='training mode'):
        calc(data, Replay().train())


def test_results_are_appended(tmp_path, data, capsys):
    result = calc(data, Replay())
    metric_main.report_metric(result, str(tmp_path), str(tmp_path / 'network-snapshot-000012.safetensors'), 12345)
    metric_main.report_metric(dict(result, value=math.nan), str(tmp_path), 'https://example.org/x.safetensors')
    first, second = [json.loads(line) for line in (tmp_path / 'metric-clipfid12_full.jsonl').read_text().splitlines()]
    assert first == dict(result, snapshot='network-snapshot-000012.safetensors', cur_nimg=12345)
    assert second == dict(result, value=None, snapshot='https://example.org/x.safetensors', cur_nimg=None)
    best = '    best of 2 snapshots by the same protocol: -?0.0000000 of network-snapshot-000012.*flatters\n'
    line = (r'clipfid12_full -?0\.0000000, over n -?0\.0000000  '
            r'\(12 generated, 12 real images of photos, pixels:a, seed 0, \d+s\)\n')
    assert re.fullmatch(line + 'clipfid12_full nan.*\n' + best, capsys.readouterr().out)
    with pytest.raises(UserError, match='cannot be written'):
        metric_main.report_metric(result, str(tmp_path / 'absent'))


def test_check_metrics(tmp_path, monkeypatch):
    metric_main.check_metrics([])
    metric_main.check_metrics(['clipfid1k_full', 'clipfid5k_full'], teacher_kwargs=PIXELS)
    for metrics, kwargs, message in [
        (['clipfid5k_full', 'fid5k_ful'], {}, '--metrics=fid5k_ful'),                   # the names first
        (['clipfid5k_full', 'fid5k_full'], dict(detector=str(tmp_path / 'x.pt')), 'x.pt: there is no such file'),
        (['clipfid5k_full'], dict(teacher_kwargs=teacher_kwargs('x.safetensors')), 'x.safetensors does not exist'),
    ]:
        with pytest.raises(UserError, match=message):
            metric_main.check_metrics(metrics, **{'teacher_kwargs': PIXELS, **kwargs})


# The command.

def test_the_command(tmp_path, network, data):
    teacher = save_teacher(tmp_path / 'teacher.safetensors')
    code, output = run(f'--network={network}', '--metrics=clipfid9_full, clipfid10_full', f'--teacher={teacher}',
                       '--batch=4', '--seed=7')
    assert code == 0 and output.startswith('clipfid9_full ')
    result, = map(json.loads, (tmp_path / 'run' / 'metric-clipfid10_full.jsonl').read_text().splitlines())
    assert (result['snapshot'], result['cur_nimg']) == ('network-snapshot-000012.safetensors', 12345)
    assert (result['reference']['images'], result['reference']['mirrored'],
            result['detector']['name']) == (12, False, load_teacher(teacher).identity)
    G = snapshots.load_networks(network).G_ema
    again = calc(data, G, 'clipfid10_full', teacher_kwargs=teacher_kwargs(teacher), seed=7, batch_size=4)
    assert result['value'] == again['value'] > 0


def test_fid_of_a_conditional_generator_on_other_data(tmp_path, monkeypatch):
    """With 16 features rather than 2048, whose decomposition takes seconds; --data wins over what the snapshot
    names."""
    monkeypatch.setattr(detectors, 'INCEPTION_FEATURES', 16)
    other = make_data(tmp_path / 'other.zip', num=6)
    network = make_snapshot(tmp_path / 'x.safetensors', dict(other, path='/nowhere'), c_dim=3)
    script = save_script(tmp_path / 'toy.pt', ToyInception(16))
    code, _ = run(f'--network={network}', '--metrics=fid8_full', f'--data={other["path"]}', f'--detector={script}',
                  f'--outdir={tmp_path / "new"}')
    result = json.loads((tmp_path / 'new' / 'metric-fid8_full.jsonl').read_text())
    assert (code == 0 and result['generated']['labels'] == 'drawn from the data set'
            and result['snapshot'] == '../x.safetensors')
    assert (result['detector']['name'], result['detector']['identity']) == ('toy',
                                                                            f'sha256:{files.sha256_of_file(script)}')
    assert (result['reference']['dataset'], result['reference']['images']) == ('other', 6)


def test_the_demo_set_by_name(tmp_path):
    """`--data=demo` is the drawn set in the network's size."""
    info = dict(networks=dict(G_ema=NETWORK), training={})
    assert real_images('demo', '--ref', 'x', info) == dict(
        class_name='training.dataset.ImageFolderDataset', path=files.cache_dir('demo') + '/demo16.zip')


def test_no_class_is_taken_from_a_snapshot(tmp_path):
    """The options in a file from elsewhere are data, too."""
    options = dict(training_set_kwargs=dict(class_name='subprocess.Popen', path=str(tmp_path),
                                            args=['touch', str(tmp_path / 'hacked')]))
    info = dict(networks=dict(G_ema=NETWORK), training=dict(options=options))
    assert real_images(None, '--ref', 'x', info) == dict(
        class_name='training.dataset.ImageFolderDataset', path=str(tmp_path))


def test_metrics_of_generated_images_alone_need_no_data(tmp_path, monkeypatch):
    """... and the probabilities of 4 classes rather than of 1008."""
    monkeypatch.setattr(script_detectors, 'INCEPTION_CLASSES', 4)
    network = make_snapshot(tmp_path / 'x.safetensors', None, training={})
    args = [f'--network={network}', '--metrics=is40', f'--detector={save_script(tmp_path / "toy.pt", ToyClasses())}']
    code, output = run(*args)
    assert (code == 0 and output.startswith('is40 1.')
            and json.loads((tmp_path / 'metric-is40.jsonl').read_text())['reference'] is None)
    code, output = run(*args, '--ref=/nowhere')
    assert (code == 0
            and output.startswith('Warning: --ref=/nowhere is not looked at: is40 is of generated images alone.\n'))
    # Labels are as frequent as there
    network = make_snapshot(tmp_path / 'c.safetensors', dict(path=str(tmp_path / 'gone.zip')), c_dim=2)
    assert ('gone.zip: the data set that the snapshot was trained on is not there any '
            'more' in run(f'--network={network}', *args[1:])[1])


def test_uniform_labels_are_none_of_the_reference(tmp_path):
    """Its classes may be others, or none."""
    network = make_snapshot(tmp_path / 'c.safetensors', make_data(tmp_path / 'x.zip'), c_dim=2)
    teacher = save_teacher(tmp_path / 'teacher.safetensors')
    args = f'--network={network}', '--metrics=featfid9_full', f'--teacher={teacher}', '--bootstrap=0'
    assert 'labels have 3 dimensions, the network takes 2' in run(*args)[1]
    code, output = run(*args, '--labels=uniform')
    assert code == 0 and output.startswith('featfid9_full '), output
    trained = types.SimpleNamespace(num_channels=3, resolution=16, label_dim=2, class_names=None, path='x')
    other = make_data(tmp_path / 'y.zip')
    with pytest.raises(UserError, match='labels have 3 dimensions, the network takes 2'):
        metric_main.check_metric_data(['featfid9_full'], other, '--metric-data', trained)
    metric_main.check_metric_data(['featfid9_full'], other, '--metric-data', trained, uniform_labels=True)


def test_uniform_labels_for_a_network_of_vectors(tmp_path):
    data = make_data(tmp_path / 'x.zip')
    with zipfile.ZipFile(data['path'], 'a') as archive:
        vectors = [[name, [0.5, i / 7]] for i, name in enumerate(archive.namelist())]
        archive.writestr('dataset.json', json.dumps(dict(labels=vectors)))
    network = make_snapshot(tmp_path / 'c.safetensors', data, c_dim=2, dataset=dict(label_vectors=True))
    teacher = save_teacher(tmp_path / 'teacher.safetensors')
    args = f'--network={network}', '--metrics=featfid9_full', f'--teacher={teacher}', '--bootstrap=0'
    assert run(*args, '--labels=uniform') == (1, 'Error: --labels=uniform: draws classes, and the labels that the '
                                                 'network was trained with are vectors; use --labels=data\n')
    assert run(*args)[0] == 0


@pytest.mark.parametrize('option', ['--seed=4294967296', '--bootstrap=1001'])
def test_numbers_out_of_range(option):
    code, output = run('--network=x', option)
    assert code == 2 and 'is not in the range' in output


def snapshot_of_nothing(tmp_path):
    checkpoint.save(str(tmp_path / 'y.safetensors'), 'network', {'x': torch.zeros(1)},
                    dict(networks=dict(G=NETWORK), training={}))
    return f'--network={tmp_path / "y.safetensors"}'


@pytest.mark.parametrize('make_args, message', [
    (lambda tmp: ['--network=/nowhere.safetensors'], '/nowhere.safetensors: there is no such file'),
    (lambda tmp: [f'--network={tmp / "photos.zip"}'], 'photos.zip: is a zip, such as a data set; name'),
    (lambda tmp: [snapshot_of_nothing(tmp)], 'y.safetensors: there is no G_ema in it'),
    (lambda tmp: [f'--network={make_snapshot(tmp / "y.safetensors", None, training={})}'],
     'y.safetensors: the snapshot does not say what it was trained on; .* --ref=PATH'),
    (lambda tmp: ['--metrics=fid5k_full,fid5k'], '--metrics=fid5k: there is no such metric; did you mean fid5k_full. '
                                                 'Or use fid<N>_full, .*'),
    (lambda tmp: ['--metrics='], '--metrics=: there is no such metric; use fid<N>_full'),
    (lambda tmp: ['--data=/nowhere'], '/nowhere'),
    (lambda tmp: [f'--data={make_data(tmp / "x.zip", size=8)["path"]}'],
     r'x.zip: images are 8x8 RGB, the network makes 16x16 RGB; .* --width=16 --height=16 --color=rgb'),
    (lambda tmp: [f'--data={make_data(tmp / "x.zip", channels=1)["path"]}'],
     'x.zip: images are 16x16 grey, the network makes 16x16 RGB'),
    (lambda tmp: [f'--network={make_snapshot(tmp / "c.safetensors", make_data(tmp / "x.zip"), c_dim=2)}'],
     'x.zip: labels have 3 dimensions, the network takes 2'),
    (lambda tmp: [f'--network={make_snapshot(tmp / "c.safetensors", dict(path=str(tmp / "gone.zip")))}'],
     'gone.zip: the data set that the snapshot was trained on is not there any more; name it with --ref=PATH'),
    (lambda tmp: ['--network=demo'],
     '--network=demo: comes with the project without the images that it was trained on; use --ref=demo, .* --ref=PATH'),
    (lambda tmp: [f'--outdir={tmp / "photos.zip"}'], 'photos.zip: cannot be written'),
    (lambda tmp: ['--metrics=clipfid5_full,fid5_full', '--detector=/nowhere.pt'],
     '--detector=/nowhere.pt: there is no such file'),
    *[((lambda tmp, option=option: [f'--{option}=nope']),
       f'--{option}=nope: has no effect with --metrics=clipfid5_full; leave it out')
      for option in ('detector', 'vgg16', 'alexnet', 'lpips-heads')],
    (lambda tmp: ['--metrics=fid5_full,pr5k3_full', '--teacher=demo'],
     '--teacher=demo: has no effect with --metrics=fid5_full,pr5k3_full; leave it out'),
    (lambda tmp: ['--trunc=nan'], '--trunc=nan: must be a number such as 0.7, from -100 to 100'),
    (lambda tmp: ['--trunc=1e300'], r'--trunc=1e\+300: must be a number'),
    (lambda tmp: ['--metrics=clipfid10000001_full'], '--metrics=clipfid10000001_full: asks for 10000001 images; '
                                                     '10000000 are the most'),
    (lambda tmp: ['--teacher=/nowhere.safetensors'], '--teacher=/nowhere.safetensors: .* does not exist'),
])
def test_refusals_before_the_work(tmp_path, network, monkeypatch, make_args, message):
    monkeypatch.setattr(metric_main, 'calc_metrics', lambda *_, **__: pytest.fail('the work has begun'))
    teacher = save_teacher(tmp_path / 'teacher.safetensors')
    code, output = run(f'--network={network}', '--metrics=clipfid5_full', f'--teacher={teacher}', *make_args(tmp_path))
    assert code == 1 and re.match('Error: .*' + message, output) and output.count('\n') == 1
    assert not list(tmp_path.rglob('*.jsonl'))


def test_every_detector_belongs_to_an_option():
    assert set.union(*registry.USED_BY.values()) == set(metric_main.LOADERS)
    options = {param.name for command in (calc_metrics.main, train.main) for param in command.params}
    assert set(registry.USED_BY) <= options


@pytest.mark.parametrize('option, message', [
    ('--gpus=2', 'Error: --gpus=2: several GPUs: torchrun --nproc-per-node=N calc_metrics.py ...'),
    ('--mirror=1', 'Error: --mirror=1: the reference statistics are always of the images as they are; leave it out')])
def test_options_of_stylegan2_ada(network, option, message):
    code, output = run(f'--network={network}', option)
    assert code == 2 and message in output
    assert option[:5] not in run('--help')[1]
