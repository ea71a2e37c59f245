"""The probe: its classifier against closed forms and brute force, its record, its picture."""

import json

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import run_cli

from kd_plugin import probe
from kd_plugin.probing import measures as probe_measures
from kd_plugin.probing.measures import STRENGTHS, linear_probe, ridge_scores, zero_shot
from kd_plugin.probing.picture import CELL, HIGH, LOW, draw_correlations
from torch_utils import checkpoint
from training.networks import Generator
from training.snapshots import files as snapshots


def test_ridge_is_that_of_the_strength_with_the_least_leave_one_out_error():
    """Every strength and every row by brute force: solve the normal equations without the row, around the same
    means."""
    rng = np.random.default_rng(0)
    x, x_new = rng.normal(size=(14, 5)) @ np.diag([3, 1, 1, 0.1, 0.01]), rng.normal(size=(4, 5))
    y = x[:, :2] + rng.normal(size=(14, 2))
    xc, yc = x - x.mean(0), y - y.mean(0)
    unit = (np.linalg.svd(xc, compute_uv=False) ** 2).mean()

    def solve(rows, strength):
        return np.linalg.solve(xc[rows].T @ xc[rows] + strength * np.eye(5), xc[rows].T @ yc[rows])
    errors = []
    for strength in STRENGTHS * unit:
        left_out = [yc[i] - xc[i] @ solve(np.arange(14) != i, strength) for i in range(14)]
        errors.append(np.square(left_out).sum())
    best = STRENGTHS[int(np.argmin(errors))] * unit
    assert STRENGTHS[0] * unit < best < STRENGTHS[-1] * unit                     # the minimum is inside
    want = (x_new - x.mean(0)) @ solve(np.arange(14) >= 0, best) + y.mean(0)
    np.testing.assert_allclose(ridge_scores(x, y, x_new), want, rtol=1e-9)


def test_linear_probe_of_separable_and_of_meaningless_features():
    gen = torch.Generator().manual_seed(0)
    labels = np.arange(120) % 3
    noise = torch.randn(120, 200, generator=gen)                                # wider than there are images
    told = linear_probe(noise + 4 * torch.eye(3)[labels] @ torch.randn(3, 200, generator=gen), labels)
    assert told.accuracy == 1 and told.std == 0 and told.chance == pytest.approx(1 / 3)
    guessed = linear_probe(noise, labels)
    # Three standard deviations of 120 guesses
    assert abs(guessed.accuracy - 1 / 3) < 0.13
    assert linear_probe(noise, labels) == guessed and linear_probe(noise, labels, seed=1) != guessed
    assert linear_probe(noise, np.zeros(120, dtype=int)) is None
    assert linear_probe(noise, np.r_[0, np.ones(119, dtype=int)]) is None


def test_every_fold_has_its_share_of_every_class(monkeypatch):
    seen = []

    def spy(x, y, x_new):
        seen.append(y.sum(0))
        return np.zeros([len(x_new), y.shape[1]])
    monkeypatch.setattr(probe_measures, 'ridge_scores', spy)
    linear_probe(torch.randn(50, 4), np.repeat([7, 9], [40, 10]))
    assert [list(counts) for counts in seen] == [[32, 8]] * 5


def test_zero_shot():
    """By cosine: the second text is long."""
    feats = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.5], [0.1, 0.9]])
    texts = torch.tensor([[1.0, 0], [0, 7]])
    assert zero_shot(feats, texts, [0, 1, 1, 1]) == 0.75


def test_picture():
    images = torch.stack([torch.full([1, 8, 8], 10, dtype=torch.uint8), torch.full([1, 8, 8], 200, dtype=torch.uint8)])
    picture = draw_correlations(images, torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.25, 0.0]]), ['a', 'b', 'a longer text'])
    pixels = np.asarray(picture)
    is_high = (pixels == HIGH).all(2)
    rows, columns = np.where(is_high)
    # The first blue cell is in the third column
    top, left = rows.min(), columns[rows == rows.min()].min() - 2 * CELL
    cell = lambda row, column: pixels[top + CELL * row + CELL // 2, left + CELL * column + CELL // 2]
    for row, column, share in [(0, 0, 0), (0, 1, 0.5), (0, 2, 1), (1, 0, 1), (1, 1, 0.25), (1, 2, 0)]:
        np.testing.assert_allclose(cell(row, column), LOW + share * (HIGH - LOW), atol=1)
    assert ((pixels[top + CELL // 2, left - CELL // 2 - 8] == 10).all()
            and (pixels[top + 3 * CELL // 2, left - CELL // 2 - 8] == 200).all())
    draw_correlations(images, torch.ones(2, 1), ['a'])                          # all the same: no division by zero


@pytest.fixture
def network(tmp_path):
    """A snapshot of an untrained 16x16 generator with two classes."""
    torch.manual_seed(0)
    common = dict(c_dim=2, img_resolution=16, img_channels=3)
    g_kwargs = dict(common, z_dim=8, w_dim=8, mapping_kwargs=dict(num_layers=1),
                    synthesis_kwargs=dict(channel_base=128, channel_max=8))
    path = str(tmp_path / 'network.safetensors')
    kwargs = dict(G_ema=dict(g_kwargs, class_name='training.networks.Generator'))
    tensors, info = snapshots.pack(dict(G_ema=Generator(**g_kwargs)), kwargs,
                                   dict(options={}, cur_nimg=0, class_names=None))
    checkpoint.save(path, 'network', tensors, info)
    return path


def test_command(tiny_data, network, tmp_path):
    """Red and blue pictures are told apart, and from what an untrained generator makes; the record says what was
    measured."""
    out = tmp_path / 'out'
    args = [f'--data={tiny_data}', '--teacher=demo', '--teacher=demo', f'--network={network}', f'--outdir={out}',
            '--device=cpu', '--batch=5']
    code, text = run_cli(probe.main, *args)
    assert code == 0, text
    lines = text.splitlines()
    assert lines[0].split()[:3] == ['teacher', 'width', 'input'] and lines[1].split()[:3] == ['demo', '128', '32']
    assert ('12 images of tiny; 2 texts (class names of the data set).' in text
            and 'By chance: classes 0.500, real/fake 0.500.' in text)
    record = json.loads((out / 'probe.json').read_text())
    first, second = record['teachers']
    assert first['classes']['accuracy'] == 1 and first['real_or_fake']['accuracy'] > 0.9 and first['images_per_sec'] > 0
    assert (record['images'], record['seed'], record['texts']) == (12, 0, ['a photo of a blue.', 'a photo of a red.'])
    assert {k: v for k, v in first.items() if k not in ('images_per_sec',
                                                        'picture')} == {k: v for k, v in second.items() if k not in
                                                                                     ('images_per_sec', 'picture')}
    assert [t['picture'] for t in record['teachers']] == ['texts-0-demo.png', 'texts-1-demo.png']
    with PIL.Image.open(out / 'texts-0-demo.png') as picture:
        assert picture.height > 12 * CELL


def test_a_teacher_of_images_only_and_data_without_classes(tmp_path, monkeypatch):
    from kd_plugin.teacher import Preprocess, Teacher

    class Mean(torch.nn.Module):
        def image_features(self, x):
            return x.mean([2, 3])
    monkeypatch.setattr(probe, 'load_teacher',
                        lambda name, device, option: Teacher(Mean(), Preprocess(8, (0,) * 3, (1,) * 3), 3, 'mean'))
    for i in range(12):
        PIL.Image.new('RGB', (16, 16), (i, 0, 0)).save(tmp_path / f'{i:02d}.png')
    code, text = run_cli(probe.main, f'--data={tmp_path}', '--teacher=mean', f'--outdir={tmp_path / "out"}',
                         '--images=10')
    assert code == 0 and 'nothing to tell apart' in text and 'Saved probe.json and 0 pictures' in text
    teacher = json.loads((tmp_path / 'out' / 'probe.json').read_text())['teachers'][0]
    assert [teacher[name] for name in ('classes', 'real_or_fake', 'zero_shot', 'text_likeness',
                                       'picture')] == [None] * 5


@pytest.mark.parametrize('option, message', [
    ('--teacher=nowhere.safetensors', '--teacher=nowhere.safetensors: nowhere.safetensors does not exist'),
    ('--teacher=demo,mine', '--teacher=demo,mine: there is no teacher of this name'),
    ('--teacher=demo,mine', '; to compare several, give --teacher once for each'),
    ('--data=nowhere.zip', 'nowhere.zip: no such file or folder'),
    ('--texts=nowhere', '=nowhere: there is no such file and no such preset'),
    ('--network=nowhere.safetensors', 'nowhere.safetensors')])
def test_wrong_options(tiny_data, tmp_path, option, message):
    code, text = run_cli(probe.main, f'--data={tiny_data}', '--teacher=demo', f'--outdir={tmp_path / "out"}', option)
    assert code == 1 and message in text and not (tmp_path / 'out').exists()


def test_a_network_of_another_size(network, tmp_path):
    PIL.Image.new('RGB', (32, 32)).save(tmp_path / 'a.png')
    code, text = run_cli(probe.main, f'--data={tmp_path}', '--teacher=demo', f'--network={network}',
                         f'--outdir={tmp_path / "out"}')
    assert code == 1 and f'--data={tmp_path}: images are 32x32 RGB, the network makes 16x16 RGB; give the data' in text
