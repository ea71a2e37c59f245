"""Several metrics at once: one pass for all, the same values as one by one, in batches of any size; what is
recorded."""

import json
import re

import numpy as np
import pytest
import torch
from measuring import PIXELS, ToyClasses, load_pixel_teacher, make_data, make_snapshot, run
from toy_detectors import save_script, save_teacher

from dnnlib import UserError
from metrics import detectors, metric_main, registry, script_detectors
from metrics.inception_score import split_scores
from torch_utils.images import to_uint8
from training.dataset import ImageFolderDataset
from training.run import files as run_files
from training.run import keep as snapshot_keep

METRICS = ['clipfid30_full', 'clipkid30_full', 'clippr303_full', 'clipmemorization20', 'clipfid20_full']


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('KDGAN_CACHE_DIR', str(tmp_path / 'cache'))


class Noiseless(torch.nn.Module):
    """Images that follow from z alone; counts the calls."""
    z_dim, c_dim, img_resolution = 12, 0, 16

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.eval()

    def forward(self, z, c, noise_mode, truncation_psi=1):
        self.calls += 1
        return (z[:, :, None, None] * truncation_psi).tanh().expand(-1, -1, 16, 16)[:, :3] + z[:, 3:6, None, None] * 0.1


def calc(data, metrics=METRICS, G=None, **kwargs):
    kwargs = {'teacher_kwargs': PIXELS, 'batch_size': 8, 'num_workers': 0, 'progress': False, 'bootstrap': 5, **kwargs}
    return metric_main.calc_metrics(metrics, G or Noiseless(), data, 'cpu', **kwargs)


def figures(results):
    """What must not depend on how it was computed."""
    keep = ('metric', 'value', 'better', 'intervals', 'precision', 'recall', 'standard_error', 'below_median',
            'threshold', 'pairs')
    return [{key: result[key] for key in keep if key in result} for result in results]


def assert_equal(got, want, rel=1e-6):
    """rel: float32 sums in other orders."""
    if isinstance(want, dict):
        assert got.keys() == want.keys()
    if isinstance(want, dict | list):
        for key in want if isinstance(want, dict) else range(len(want)):
            assert_equal(got[key], want[key], rel)
    else:
        assert got == (want if isinstance(want, str) else pytest.approx(want, rel=rel, abs=1e-9))


@pytest.fixture
def data(tmp_path):
    return make_data(tmp_path / 'photos.zip')


def test_one_pass_serves_all(data, monkeypatch):
    seen = []
    teacher = load_pixel_teacher('a', 'cpu')
    detector = detectors.Detector('a', 'a', 6, 'none', lambda img: seen.append(len(img))
                                  or teacher.encode_image(img / 127.5 - 1))
    monkeypatch.setattr(detectors, 'load_teacher_detector', lambda *_: detector)
    opened, open_reference = [], metric_main.metric_utils.open_reference
    monkeypatch.setattr(metric_main.metric_utils, 'open_reference', lambda *args: opened.append(args)
                        or open_reference(*args))
    G = Noiseless()
    results = calc(data, G=G)
    assert len(opened) == 1                                         # and so hashed once
    assert G.calls == 4 and sum(seen) == 12 + 30                    # ... and the 12 real ones
    alone = [result for metric in METRICS for result in calc(data, [metric])]
    assert_equal(figures(results), figures(alone), rel=1e-12)


def test_copies_are_looked_for_among_the_images_that_were_trained_on(data):
    """Of a run with --subset; other metrics compare with all images, in the same pass."""
    of_run = dict(data, max_size=5, random_seed=3, xflip=True)
    distance, copies = calc(of_run, ['featkid30_full', 'featmemorization30'])
    assert distance['value'] == calc(data, ['featkid30_full'])[0]['value'] and distance['reference']['images'] == 12
    chosen = ImageFolderDataset(data['path'], max_size=5, random_seed=3)
    assert copies['reference'] == {**distance['reference'], 'images': 5, 'content_hash': chosen.content_hash()}
    of_all, = calc(data, ['featmemorization30'])
    assert of_all['reference']['images'] == 12 and of_all['threshold'] < copies['threshold']


def test_the_size_of_a_batch_does_not_matter(data):
    want = figures(calc(data))
    for batch_size in (1, 7, 100):
        assert_equal(figures(calc(data, batch_size=batch_size)), want)


def test_a_metric_of_the_cache_of_another(data, monkeypatch):
    """Moments come from the entry that has features as well."""
    calc(data)
    monkeypatch.setattr(metric_main.metric_utils, '_dataset_batches',
                        lambda *_: pytest.fail('the images are read again'))
    result, = calc(data, ['clipfid30_full'])
    assert result['value'] > 0


def test_truncation_is_passed_on_and_recorded(data):
    result, = calc(data, ['clipfid30_full'], truncation_psi=0.5)
    assert (result['generated']['truncation_psi'] == 0.5
            and result['value'] != calc(data, ['clipfid30_full'])[0]['value'])
    assert ', truncation psi 0.5  (30 generated' in metric_main.describe(result)


# The Inception score, whose detector gives probabilities.

def test_the_inception_score(tmp_path, data, monkeypatch):
    monkeypatch.setattr(script_detectors, 'INCEPTION_CLASSES', 4)
    script = save_script(tmp_path / 'toy.pt', ToyClasses())
    result, = calc(data, ['is40'], detector=script)
    opts = metric_main.MetricOptions(Noiseless(), data, None, torch.device('cpu'), batch_size=40)
    img = to_uint8(metric_main.metric_utils.generate_batch(opts, range(40)))
    scores = split_scores(torch.softmax(img.float()[:, [0, 1, 2, 0], 0, 0] / 20, dim=1),
                          torch.ones([1, 40], dtype=torch.float64))[0]
    assert result['value'] == pytest.approx(scores.mean().item(), rel=1e-6) and result['value'] > 1.01
    assert result['std'] == pytest.approx(np.std(scores.numpy()), rel=1e-4)
    assert (result['better'] == 'higher' and result['reference'] is None
            and result['detector']['identity'].endswith(' classes'))
    assert re.fullmatch(r'is40 \d\.\d{4} \[.*\], std 0\.\d+  \(40 generated, toy, seed 0, \d+s\)',
                        metric_main.describe(result))
    with pytest.raises(UserError, match='is no Inception detector'):
        script_detectors.load_inception_classes('cpu', save_script(tmp_path / 'x.pt', torch.nn.Identity()))


class ToyVGG(torch.nn.Module):
    def forward(self, img, return_features: bool = False):
        assert return_features
        return img.to(torch.float32).flatten(1)[:, :4]


def test_vgg16_of_precision_and_recall(tmp_path, data, monkeypatch):
    monkeypatch.setattr(script_detectors, 'VGG16_FEATURES', 4)
    path = save_script(tmp_path / 'vgg.pt', ToyVGG())
    detector = metric_main.load_detector('pr5k3_full', 'cpu', vgg16=path)
    assert (detector.num_features == 4 and registry.find_metric('pr5k3_full')[1] == 5000
            and registry.find_metric('pr503_full')[1] == 50)
    with pytest.raises(UserError, match=f'--vgg16={path}x: there is no such file; download https://.*vgg16.pt'):
        metric_main.load_detector('pr5k3_full', 'cpu', vgg16=path + 'x')


# What is recorded, and read.

def test_the_best_is_told_beside_the_last(tmp_path, data, capsys):
    result, = calc(data, ['clippr303_full'])
    for value, name in [(0.5, 'a'), (0.75, 'b'), (0.25, 'c')]:
        metric_main.report_metric(dict(result, value=value), str(tmp_path), str(tmp_path / f'{name}.safetensors'))
    first, second, best, third, last = capsys.readouterr().out.splitlines()
    assert best.startswith('    best of 2 snapshots by the same protocol: this one; ')
    assert last.startswith('    best of 3 snapshots by the same protocol: 0.7500 of b.safetensors; being chosen by '
                           'this very measure')
    other = dict(result, value=0.9, reference=dict(result['reference'], images=99))
    metric_main.report_metric(other, str(tmp_path), str(tmp_path / 'd.safetensors'))
    assert capsys.readouterr().out.splitlines()[1:] == [
        'Warning: 3 of 3 values of clippr303_full were measured by another protocol and are not compared with this '
        'one: reference.images 99 and 12']
    metric_main.report_metric(dict(result, value=0.9), str(tmp_path), str(tmp_path / 'd.safetensors'))
    metric_main.report_metric(dict(other, value=0.8), str(tmp_path), str(tmp_path / 'e.safetensors'))
    assert capsys.readouterr().out.splitlines()[-1].startswith('    best of 2 snapshots by the same protocol: 0.9000 '
                                                               'of d.safetensors')


def test_a_full_disk_costs_no_value(data, monkeypatch, capsys):
    def full(*_):
        raise UserError('x.safetensors: cannot be written: no space left')
    monkeypatch.setattr(metric_main.metric_utils.FeatureStats, 'save', full)
    assert calc(data, ['clipfid30_full'])[0]['value'] > 0
    assert ('Warning: the statistics of the real images are not kept for the next time: x.safetensors: '
            'cannot' in capsys.readouterr().out)


def test_pruning_keeps_what_is_higher(tmp_path):
    """... and the best by each protocol."""
    for kimg in range(1, 6):
        (tmp_path / f'network-snapshot-{kimg:06d}.safetensors').touch()
    records = [dict(metric='m', value=value, better='higher', generated=dict(seed=seed),
                    snapshot=f'network-snapshot-{kimg:06d}.safetensors')
               for kimg, value, seed in [(1, 5, 0), (2, 9, 0), (3, 7, 0), (4, 3, 1), (5, 2, 0)]]
    (tmp_path / 'metric-m.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in records))
    snapshot_keep.prune(str(tmp_path), dict(last=1, best=1), ['m'])
    assert sorted(name[-18:-12] for name in run_files.find_snapshots(tmp_path)) == ['000002', '000004', '000005']


def test_further_figures_of_a_new_metric_are_printed(data, monkeypatch):
    monkeypatch.setattr(registry, '_metrics', {})

    @registry.register_metric('toy<N>_full', needs='teacher', real=registry.FEATURES, generated=registry.FEATURES,
                              figures=('in_range', 'count'))
    def toy(real, generated, weights):
        """a toy"""
        return dict(value=0.5, hidden=1.0, count=7, in_range=weights.new_full([len(weights)], 0.25))
    result, = calc(data, ['toy30_full'])
    text = metric_main.describe(result)
    assert text.startswith('toy30_full 0.5000, in range 0.2500 [0.2500, 0.2500], count 7.0000  (30 ')


def test_every_metric_says_what_it_is():
    lines = registry.list_valid_metrics()
    assert len(lines) == len(registry.forms()) > 10 and all('(' in line and len(line) < 150 for line in lines)
    with pytest.raises(ValueError, match="better is 'more'"):
        registry.register_metric('x<N>', needs='teacher', better='more')(lambda *_: None)
    assert not registry.is_valid_metric('x5')


@pytest.mark.parametrize('name, number', [('ppl2_wend', 50_000), ('ppl2_wend1k', 1000), ('lpips_diversity', 10_000),
                                          ('lpips_diversity_in_class200', 200), ('is50k', 50_000),
                                          ('kid50k_full', 50_000), ('pr50k3_full', 50_000), ('memorization5k', 5000)])
def test_names(name, number):
    assert registry.find_metric(name)[1] == number


class Square(torch.nn.Module):
    """Features that LPIPS might have."""

    def forward(self, img, resize_images: bool = True, return_lpips: bool = False):
        assert return_lpips and not resize_images
        return img.to(torch.float32).flatten(1) / 100


class Synthesis(torch.nn.Module):
    def forward(self, ws, noise_mode, force_fp32):
        return (ws[:, 0, :3, None, None] * 0.2).expand(-1, -1, 16, 16)


def test_metrics_of_the_generator_itself(tmp_path, data):
    """They take no features of others, may be asked for beside those that do, and add to the protocol how they
    sampled."""
    G = Noiseless()
    G.mapping, G.synthesis = (lambda z, c: z[:, None]), Synthesis()
    files = dict(vgg16=save_script(tmp_path / 'vgg.pt', Square()), teacher_kwargs=PIXELS)
    metrics = ['ppl2_wend20', 'clipfid10_full']
    loaded = metric_main.load_detectors(metrics, 'cpu', **files)
    ppl, fid = calc(data, metrics, G=G, detector=loaded)
    assert (ppl['value'] > 0 and ppl['reference'] is None and ppl['generated']['paths'] == 20
            and ppl['generated']['crop'] == 'none')
    assert ppl['detector']['input'].startswith('float') and fid['detector']['input'].startswith('uint8')
    assert 'intervals' not in ppl and fid['intervals'] and metric_main.describe(ppl).startswith('ppl2_wend20 ')


def test_the_command_with_several(tmp_path, data):
    (tmp_path / 'run').mkdir()
    network = make_snapshot(tmp_path / 'run' / 'network-snapshot-000012.safetensors', data)
    code, output = run(f'--network={network}', f'--metrics={",".join(METRICS)}',
                       f'--teacher={save_teacher(tmp_path / "t.safetensors")}',
                       '--batch=8', '--bootstrap=3', f'--ref={data["path"]}', '--trunc=0.7')
    assert code == 0 and 'Warning' not in output and 'precision' in output and 'standard error' in output
    other = make_data(tmp_path / 'other.zip', num=9)
    code, again = run(f'--network={network}', '--metrics=clipmemorization5', f'--teacher={tmp_path / "t.safetensors"}',
                      f'--ref={other["path"]}')
    warning = (f'Warning: memorization is measured against --ref={other["path"]}, the network was trained on '
               f'{data["path"]}')
    assert code == 0 and warning in again
    records = [json.loads((tmp_path / 'run' / f'metric-{metric}.jsonl').read_text()) for metric in METRICS]
    assert all(record['intervals']['value'] and record['bootstrap']['resamples'] == 3 for record in records)
    assert (records[3]['picture'] == 'pairs-clipmemorization20.png'
            and (tmp_path / 'run' / records[3]['picture']).is_file())
